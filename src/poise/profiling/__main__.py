"""The child processes of profiling: ``python -m poise.profiling footprint …`` and ``… way …``."""

import sys

from poise.profiling import footprint, way

if __name__ == "__main__":
    {"footprint": footprint.main, "way": way.main}[sys.argv[1]](sys.argv[2:])
