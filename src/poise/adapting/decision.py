"""A decision of the adapter, as the history keeps it: why, on what, what came of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from poise.domain.allocation import Allocation
from poise.forecasting.base import Forecast

Reason = Literal["start", "interval", "beat", "band", "worker", "attainment"]
"""Why it was decided: the first one; by the clock; at a beat between, about what is loaded only; the load left the
forecast's band; a worker was lost or could not be loaded; attainment fell."""
Outcome = Literal["adopted", "kept", "held", "failed"]
"""What came of it: a new allocation; the same as before; a smaller one that is not asked for often enough yet; no
answer, so that the last good one stays."""


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One decision. Units: jobs/s, seconds; ``at_s`` on the scheduler's clock.

    ``observed_rps`` is the mean over the last interval, ``planned_rps`` the load that was planned for, by class.
    ``allocation`` is what was found (its shares are in items/s from E4, in requests/s from E3), None where nothing was;
    ``running`` the workers when it was decided.
    """

    number: int
    at_s: float
    epoch_s: float
    policy: str
    reason: Reason
    outcome: Outcome
    forecast: Forecast | None
    observed_rps: dict[str, float]
    planned_rps: dict[str, float]
    allocation: Allocation | None
    running: Allocation
    solve_s: float
    loads: int = 0
    activates: int = 0
    parks: int = 0
    stops: int = 0
    trouble: str = ""
