"""What batches take, alone on a core: python -m serving.curve MODEL LARGEST RUNS prints a JSON list, in seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from .engine import Engine


def main(model: str, largest: int, runs: int) -> None:
    engine = Engine(Path(model))
    times = [engine.service_s(size, runs if size > 1 else 10 * runs) for size in range(1, largest + 1)]
    sys.stdout.buffer.write(msgspec.json.encode(times) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
