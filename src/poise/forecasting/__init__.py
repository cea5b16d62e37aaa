"""Floor 1: forecasters of the load: what was observed in, quantiles of what comes out."""
