"""The benchmarks: each module has ``measure``, which runs it, and ``grids``, its tables."""
