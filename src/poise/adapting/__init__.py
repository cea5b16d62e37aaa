"""Floor 2: the adapter: what is observed in, what is to be loaded, started and stopped out."""
