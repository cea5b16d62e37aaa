"""Floor 4: measures latency, accuracy, memory and load time on real hardware."""

from poise.profiling.profiler import OnProgress, measure_profile
from poise.profiling.writing import encode_profile, write_profile

__all__ = ["OnProgress", "encode_profile", "measure_profile", "write_profile"]
