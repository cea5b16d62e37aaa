"""Floor 4: measures latency, accuracy, memory and load time on real hardware."""

from poise.profiling.partial import SUFFIX as PARTIAL_SUFFIX
from poise.profiling.partial import PartialFile
from poise.profiling.profiler import OnProgress, measure_profile
from poise.profiling.writing import encode_profile, write_profile

__all__ = [
    "PARTIAL_SUFFIX",
    "OnProgress",
    "PartialFile",
    "encode_profile",
    "measure_profile",
    "write_profile",
]
