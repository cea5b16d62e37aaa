"""The workload file (``workload.yaml``): what ``poise load`` sends and ``poise simulate`` draws."""

from __future__ import annotations

from typing import Literal

import msgspec

from poise.domain.quantities import (
    require_at_least_one,
    require_fraction,
    require_not_negative,
    require_positive,
    require_within,
)

Process = Literal["poisson", "even", "mmpp", "gamma"]
Within = Literal["poisson", "even"]
ItemsDist = Literal["constant", "normal", "uniform", "geometric"]

DEFAULT_DURATION_S = 60.0
"""How long a process runs where the file does not say; a trace runs to its end."""


class _FileStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every value in a workload file."""


class Arrivals(_FileStruct, frozen=True, kw_only=True):
    """When jobs arrive: a trace of jobs per second, or a process. Units: seconds, jobs/s.

    A trace (a file, relative to the workload file) is cut to ``duration_s`` seconds from ``from_s``, and its
    rates are multiplied by ``scale``; ``within`` says how jobs fall within each second. These four go with a
    trace.

    A process has the mean rate ``rate_rps``:

    - ``poisson``: gaps are exponential; ``even``: gaps are equal;
    - ``gamma``: gaps are gamma distributed with coefficient of variation ``cv`` (1 is Poisson, above 1
      bursty);
    - ``mmpp``: Poisson with a rate that switches between two states. Calm lasts ``calm_s`` on average, a
      burst ``burst_s``, both exponentially distributed; the rate in a burst is ``burst_factor`` times that
      in calm.
    """

    trace: str | None = None
    from_s: int = 0
    duration_s: float | None = None
    scale: float = 1.0
    within: Within = "poisson"
    process: Process | None = None
    rate_rps: float | None = None
    cv: float = 1.0
    burst_factor: float = 4.0
    burst_s: float = 1.0
    calm_s: float = 4.0

    def __post_init__(self) -> None:
        if (self.trace is None) == (self.process is None):
            raise ValueError("arrivals expected either a trace or a process")
        if self.process is not None and self.rate_rps is None:
            raise ValueError("arrivals with a process expected a rate_rps")
        if self.trace is not None and self.rate_rps is not None:
            raise ValueError(
                "rate_rps goes with a process: a trace has rates of its own (scale multiplies them)"
            )
        if self.trace == "":
            raise ValueError("got an empty trace, expected the path of a file")
        if self.process is not None and (self.from_s, self.scale, self.within) != (0, 1.0, "poisson"):
            raise ValueError("from_s, scale and within go with a trace")
        if self.rate_rps is not None:
            require_positive(self.rate_rps, "rate_rps")
        if self.duration_s is not None:
            require_positive(self.duration_s, "duration_s")
        require_not_negative(self.from_s, "from_s")
        require_positive(self.scale, "scale")
        require_within(self.cv, 1e-3, 1e6, "cv")
        for field in ("burst_s", "calm_s"):
            require_within(getattr(self, field), 1e-6, 1e9, field)
        require_within(self.burst_factor, 1.0, 1e6, "burst_factor")


class Items(_FileStruct, frozen=True, kw_only=True):
    """How many items a job has, always from ``min`` to ``max``.

    ``constant``: ``mean``, rounded; ``normal``: a draw with ``mean`` and ``sd``, cut to a whole number and
    clipped; ``uniform``: every number from ``min`` to ``max`` alike; ``geometric``: of mean ``mean`` from 1
    on, clipped.
    """

    dist: ItemsDist = "constant"
    mean: float = 1.0
    sd: float = 0.0
    min: int = 1
    max: int = 32

    def __post_init__(self) -> None:
        require_positive(self.mean, "mean")
        require_not_negative(self.sd, "sd")
        require_at_least_one(self.min, "min")
        if self.max < self.min:
            raise ValueError(f"got max {self.max}, expected at least min {self.min}")
        if self.dist == "geometric" and self.mean < 1:
            raise ValueError(f"got mean {self.mean!r}, expected at least 1 for a geometric distribution")


class Deadline(_FileStruct, frozen=True, kw_only=True):
    """The deadline of every job: ``slack_ms`` beyond the most accurate mode's latency at its size, or ``fixed_ms``.

    A server may hold jobs to less than that, but never gives them longer than the SLO of their class.
    """

    slack_ms: float | None = None
    fixed_ms: float | None = None

    def __post_init__(self) -> None:
        if (self.slack_ms is None) == (self.fixed_ms is None):
            raise ValueError("deadline expected either slack_ms or fixed_ms")
        for field in ("slack_ms", "fixed_ms"):
            if (value := getattr(self, field)) is not None:
                require_positive(value, field)

    @property
    def slack_s(self) -> float | None:
        """The slack in seconds, None with a fixed deadline."""
        return None if self.slack_ms is None else self.slack_ms / 1000.0

    @property
    def fixed_s(self) -> float | None:
        """The fixed deadline in seconds, None with a slack."""
        return None if self.fixed_ms is None else self.fixed_ms / 1000.0


class Floor(_FileStruct, frozen=True, kw_only=True):
    """Accuracy floors drawn uniformly from ``[low, high]``, once per run or for each job."""

    uniform: tuple[float, float]
    per: Literal["run", "job"] = "run"

    def __post_init__(self) -> None:
        low, high = self.uniform
        require_fraction(low, "uniform[0]")
        require_fraction(high, "uniform[1]")
        if high < low:
            raise ValueError(f"got uniform {list(self.uniform)}, expected low then high")


class Workload(_FileStruct, frozen=True, kw_only=True):
    """A whole workload.

    ``classes`` are shares of the jobs, scaled to one (empty: every job is of the service's first class).
    ``missing`` is, by modality, the share of jobs that come without it: a request carries an input for all
    its items or for none, so that what is missing is missing for a whole job. Modalities go missing
    independently, but a job is never left without any. ``seed`` fixes everything that is drawn.
    """

    format: Literal[1]
    arrivals: Arrivals
    classes: dict[str, float] = {}
    items: Items = Items()
    deadline: Deadline | None = None
    floor: Floor | None = None
    missing: dict[str, float] = {}
    seed: int = 1

    def __post_init__(self) -> None:
        for name, share in self.classes.items():
            require_not_negative(share, f"classes.{name}")
        if self.classes and sum(self.classes.values()) <= 0:
            raise ValueError("got classes whose shares sum to 0, expected a positive share")
        for name, share in self.missing.items():
            require_fraction(share, f"missing.{name}")
        require_not_negative(self.seed, "seed")
