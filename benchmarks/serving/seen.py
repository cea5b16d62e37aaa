"""What is asked of a load generator or of the bare loop, and what they have seen: JSON between processes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.load.health import GeneratorHealth, Spread
from poise.workload import streams
from poise.workload.arrivals import poisson

from .wires import Wire

Times = NDArray[np.float64]


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A load to send. Units: jobs/s, seconds.

    ``reference``: an .npz with ``items`` and the ``logits`` of each. ``pid``: the server's first process, whose
    processor time is its front end's, and all below it are the server's (0: none is looked at).
    ``any_answer``: what is answered is not held against the reference. ``service_s``: what a batch of 1, 2, … takes,
    for the bare loop.
    """

    rate_rps: float
    duration_s: float
    seed: int
    slo_s: float
    reference: str
    url: str = ""
    path: str = ""
    wire: Wire = "binary"
    any_answer: bool = False
    pid: int = 0
    warm_up: int = 20
    min_jobs: int = 1000
    grace_s: float = 1.0
    model: str = ""
    service_s: Sequence[float] = ()


class LoadSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a load. Units: seconds; ``*_cores``: processor seconds a second, while it was sent.

    ``good``: right answers within the SLO from when they were planned. ``late``: right, but too late; ``errors``:
    other outcomes by what they were. ``latency_s``: of all answers, from when they were planned; ``from_sent_s``:
    from when they were sent. ``pace``: how many times as fast the machine was, just before, as when batches were
    timed; ``drift``: by how much that had changed just after.
    """

    jobs: int
    good: int
    late: int
    wrong: int
    errors: dict[str, int]
    latency_s: Spread | None
    from_sent_s: Spread | None
    front_end_cores: float = 0.0
    server_cores: float = 0.0
    others_cores: float = 0.0
    mean_batch: float | None = None
    generator: GeneratorHealth | None = None
    pace: float = 1.0
    drift: float = 0.0

    @property
    def attainment(self) -> float:
        """The share of jobs that attained."""
        return self.good / self.jobs


def arrivals_of(spec: LoadSpec) -> tuple[Times, NDArray[np.int64]]:
    """Return when jobs arrive, and which item each carries: the same for the same seed, whoever asks."""
    source = streams(spec.seed)
    times = poisson(spec.rate_rps, spec.duration_s, source.arrivals)
    return times, source.contents.integers(0, items_in(spec), len(times))


def items_in(spec: LoadSpec) -> int:
    """Return how many items there are to choose from."""
    with np.load(spec.reference) as arrays:
        return len(arrays["items"])
