"""How the adapter is set up: the ``adapter`` part of a service file."""

from __future__ import annotations

from poise.domain.file_struct import FileStruct
from poise.domain.quantities import require_at_least_one, require_not_negative, require_positive


class ForecasterSettings(FileStruct, frozen=True, kw_only=True):
    """Which forecaster the adapter uses.

    ``file`` is a trained model, beside the service file; ``quantile`` the level of the load that is planned for.
    """

    kind: str = "burst"
    file: str | None = None
    quantile: float = 0.95

    def __post_init__(self) -> None:
        if not 0.5 <= self.quantile < 1:
            raise ValueError(f"got quantile {self.quantile!r}, expected a number from 0.5 to below 1")


class AdapterSettings(FileStruct, frozen=True, kw_only=True):
    """The adapter's settings. Units: ``interval_s`` and ``time_limit_s`` in seconds, ``front_end_us`` in microseconds.

    ``standby``: workers that the plan does without stay loaded, without a core, while memory allows.
    ``front_end_us``: what the front end's cores need for one item.
    """

    policy: str = "static"
    interval_s: float = 30.0
    alpha: float = 1.0
    beta: float = 0.05
    gamma: float = 0.001
    headroom: float = 1.1
    stabilise: int = 4
    time_limit_s: float = 1.0
    forecaster: ForecasterSettings = ForecasterSettings()
    variant: str | None = None
    min_cores: int = 1
    capacity_factor: float = 0.8
    fit_cores: tuple[int, ...] = (1, 2, 4, 8, 16)
    standby: bool = True
    front_end_us: float = 0.0

    def __post_init__(self) -> None:
        for field in ("interval_s", "headroom", "time_limit_s", "capacity_factor"):
            require_positive(getattr(self, field), field)
        for field in ("alpha", "beta", "gamma", "front_end_us"):
            require_not_negative(getattr(self, field), field)
        require_at_least_one(self.stabilise, "stabilise")
        require_at_least_one(self.min_cores, "min_cores")
        if len(self.fit_cores) < 2 or any(c < 1 for c in self.fit_cores):
            raise ValueError(
                f"got fit_cores {list(self.fit_cores)}, expected at least two core counts of at least 1"
            )
