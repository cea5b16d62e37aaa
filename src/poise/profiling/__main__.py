"""The child processes of profiling: ``python -m poise.profiling footprint …``, ``… way …`` and ``… companion …``."""

import sys

from poise.ingress.child_end import leave
from poise.profiling import companions, footprint, way

if __name__ == "__main__":
    {"footprint": footprint.main, "way": way.main, "companion": companions.main}[sys.argv[1]](sys.argv[2:])
    leave(0)
