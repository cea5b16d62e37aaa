"""Benchmarks of the adapter: which variants run, on how many cores, under a load that changes."""
