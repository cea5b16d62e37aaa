"""A decision of the adapter as a line of the log: in words, and in fields."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from poise.adapting.decision import Decision
from poise.domain.allocation import Workers


def words_of(decision: Decision) -> str:
    """Return what was decided, why, and what it takes, in one line."""
    planned_rps, observed_rps = sum(decision.planned_rps.values()), sum(decision.observed_rps.values())
    words = (
        f"decision {decision.number} ({decision.reason}): {decision.outcome}; "
        f"{observed_rps:.1f} jobs/s observed, {planned_rps:.1f} planned for"
    )
    if decision.allocation is not None:
        words += f"; workers: {_workers(decision.allocation.workers) or 'none'}"
    steps = [
        f"{count} {what}"
        for what, count in (
            ("to load", decision.loads),
            ("into use", decision.activates),
            ("to standby", decision.parks),
            ("to stop", decision.stops),
        )
        if count
    ]
    if steps:
        words += f"; {', '.join(steps)}"
    return f"{words}; {decision.trouble}" if decision.trouble else words


def fields_of(decision: Decision) -> dict[str, Any]:
    """Return the same for machines."""
    forecast, allocation = decision.forecast, decision.allocation
    return {
        "event": "decision",
        "number": decision.number,
        "policy": decision.policy,
        "reason": decision.reason,
        "outcome": decision.outcome,
        "observed_rps": decision.observed_rps,
        "planned_rps": decision.planned_rps,
        "forecast_rps": None if forecast is None else dict(zip(forecast.levels, forecast.rates, strict=True)),
        "workers": None if allocation is None else _workers(allocation.workers),
        "running": _workers(decision.running.workers),
        "solve_s": decision.solve_s,
        "loads": decision.loads,
        "activates": decision.activates,
        "parks": decision.parks,
        "stops": decision.stops,
        "trouble": decision.trouble,
    }


def _workers(workers: Iterable[Workers]) -> str:
    return ", ".join(
        f"{each.count} × {'+'.join(each.variants)} of {each.threads}"
        + ("" if each.batch_cap_s is None else f" up to {each.batch_cap_s:g} s")
        for each in workers
    )
