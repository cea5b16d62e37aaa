"""The benchmarks are no package of poise: their folder is put where imports look."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
