"""Floor 0: frozen values of the domain, validated when they are made. No I/O, no clock, no randomness."""
