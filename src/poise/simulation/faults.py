"""What goes wrong in a simulation, said beforehand."""

from __future__ import annotations

import msgspec

from poise.domain.quantities import require_not_negative, require_positive


class LostWorker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A worker dies at a time, with the batch that it has, and is ready again ``back_s`` later (None: never).

    Units: seconds.
    """

    worker_id: int
    at_s: float
    back_s: float | None = None

    def __post_init__(self) -> None:
        require_not_negative(self.at_s, "at_s")
        if self.back_s is not None:
            require_positive(self.back_s, "back_s")


class SlowWorker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Batches that a worker begins from a time on take ``factor`` times as long. Units: seconds."""

    worker_id: int
    from_s: float
    factor: float

    def __post_init__(self) -> None:
        require_not_negative(self.from_s, "from_s")
        require_positive(self.factor, "factor")


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The faults of a run. The scheduler is told of none but the loss of a worker.

    ``profile_error`` multiplies every service time: 1.2 is a profile that promises batches 1/1.2 as long as
    they are.
    """

    lost: tuple[LostWorker, ...] = ()
    slow: tuple[SlowWorker, ...] = ()
    profile_error: float = 1.0

    def __post_init__(self) -> None:
        require_positive(self.profile_error, "profile_error")


NO_FAULTS = Faults()
