"""An allocation: which workers run, and which share of each class's load goes which way."""

from __future__ import annotations

from poise.domain.file_struct import FileStruct
from poise.domain.quantities import require_at_least_one, require_positive
from poise.domain.service import Device


class Workers(FileStruct, frozen=True, kw_only=True, omit_defaults=False):
    """Workers alike, on one cell: a resident set, threads, device, and how long their batches may take.

    Units: ``batch_cap_s`` in seconds; None leaves it to the scheduler. ``service`` is empty where there is only one.
    """

    variants: tuple[str, ...]
    count: int
    cell: int = 0
    threads: int = 1
    device: Device = "cpu"
    batch_cap_s: float | None = None
    service: str = ""

    def __post_init__(self) -> None:
        if not self.variants or len(set(self.variants)) != len(self.variants):
            raise ValueError(f"got variants {list(self.variants)}, expected at least one, each once")
        require_at_least_one(self.count, "count")
        require_at_least_one(self.threads, "threads")
        if self.batch_cap_s is not None:
            require_positive(self.batch_cap_s, "batch_cap_s")

    @property
    def cores(self) -> int:
        """The cores that all of them have; none on an accelerator."""
        return self.count * self.threads if self.device == "cpu" else 0


class Terms(FileStruct, frozen=True, kw_only=True, omit_defaults=False):
    """The objective's terms before they are weighed."""

    accuracy: float
    resource: float
    loading: float


class Allocation(FileStruct, frozen=True, kw_only=True, omit_defaults=False):
    """What ``poise allocate --json`` prints and ``--current`` reads; what an adapter decides. Fields are added only.

    Shapes: ``shares[class][variant]`` and ``shed[class]``; of several services a class is ``service/class``.
    Units: requests/s in E3, items/s in E4; seconds. ``gap``: how far the objective may lie below the best one, as a
    share of it.
    """

    workers: tuple[Workers, ...]
    objective: float | None = None
    terms: Terms | None = None
    shares: dict[str, dict[str, float]] = {}
    shed: dict[str, float] = {}
    solve_s: float = 0.0
    status: str = ""
    gap: float = 0.0

    @property
    def cores(self) -> int:
        """The cores of all its workers."""
        return sum(workers.cores for workers in self.workers)
