"""When jobs arrive: sorted float64 seconds from 0, before ``duration_s``.

Where the rate changes with time (a trace, ``mmpp``) arrivals are drawn in *operational time*, in which one
job is due per unit, and carried to real time through the inverse of the cumulative rate.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from poise.domain.workload import DEFAULT_DURATION_S, Arrivals
from poise.errors import ConfigError
from poise.workload.traces import parse_trace, slice_trace

Times = NDArray[np.float64]

MAX_JOBS = 50_000_000
"""A workload of more jobs than this would not fit in memory; it is refused before it is drawn."""


def draw_arrivals(arrivals: Arrivals, rng: Generator, trace_text: str | None = None) -> tuple[Times, float]:
    """Return the arrival times that the file asks for, and the duration.

    Shapes: [jobs]. Units: seconds.

    Raises:
        ConfigError: a trace that is absent, broken or shorter than the slice, or more than ``MAX_JOBS`` jobs.
    """
    if arrivals.trace is not None:
        if trace_text is None:
            raise ConfigError(
                f"trace {arrivals.trace!r} was not read", field="arrivals.trace", expected="its text"
            )
        rates = slice_trace(
            parse_trace(trace_text, arrivals.trace),
            from_s=arrivals.from_s,
            duration_s=arrivals.duration_s,
            scale=arrivals.scale,
            source=arrivals.trace,
        )
        duration_s = float(len(rates)) if arrivals.duration_s is None else arrivals.duration_s
        _refuse_too_many(float(rates.sum()))
        draw = even_in_rates if arrivals.within == "even" else poisson_in_rates
        times = draw(rates, rng)
        return times[times < duration_s], duration_s
    rate_rps = arrivals.rate_rps or 0.0
    duration_s = DEFAULT_DURATION_S if arrivals.duration_s is None else arrivals.duration_s
    _refuse_too_many(rate_rps * duration_s)
    match arrivals.process:
        case "even":
            return even(rate_rps, duration_s), duration_s
        case "gamma":
            return gamma(rate_rps, duration_s, arrivals.cv, rng), duration_s
        case "mmpp":
            return mmpp(
                rate_rps,
                duration_s,
                rng,
                burst_factor=arrivals.burst_factor,
                burst_s=arrivals.burst_s,
                calm_s=arrivals.calm_s,
            ), duration_s
        case _:
            return poisson(rate_rps, duration_s, rng), duration_s


def poisson(rate_rps: float, duration_s: float, rng: Generator) -> Times:
    """Poisson arrivals of a constant rate: gaps are exponential."""
    return _poisson_units(rate_rps * duration_s, rng) / rate_rps


def even(rate_rps: float, duration_s: float) -> Times:
    """Arrivals at equal gaps, the first after half a gap."""
    times: Times = (np.arange(np.ceil(rate_rps * duration_s), dtype=np.float64) + 0.5) / rate_rps
    return times[times < duration_s]


def gamma(rate_rps: float, duration_s: float, cv: float, rng: Generator) -> Times:
    """Arrivals with gamma gaps of mean 1/rate and coefficient of variation ``cv``.

    The process is stationary from time 0 on: the first arrival is as far away as it is for an observer who
    comes at any time, a uniform share of a gap drawn in proportion to its length (a gamma of shape one
    higher). Without that a run would begin with a gap's end, and a high ``cv`` would add (cv² − 1)/2 jobs.
    """
    shape = 1.0 / (cv * cv)
    scale = 1.0 / (rate_rps * shape)
    last = float(rng.random() * rng.gamma(shape + 1.0, scale))
    parts = [np.array([last])]
    chunk = max(64, int(rate_rps * duration_s * 1.1))
    while last < duration_s:
        part = last + np.cumsum(rng.gamma(shape, scale, chunk))
        parts.append(part)
        last = float(part[-1])
        chunk = 1024
    times = np.concatenate(parts)
    return times[times < duration_s]


def mmpp(
    rate_rps: float,
    duration_s: float,
    rng: Generator,
    *,
    burst_factor: float = 4.0,
    burst_s: float = 1.0,
    calm_s: float = 4.0,
) -> Times:
    """Two-state Markov-modulated Poisson arrivals of mean rate ``rate_rps``.

    States *calm* and *burst* last ``calm_s`` and ``burst_s`` on average, exponentially distributed. With
    ``f = burst_factor`` the rates are

        rate_calm = rate_rps · (calm_s + burst_s) / (calm_s + f·burst_s),    rate_burst = f · rate_calm

    so that the long-run mean is ``rate_rps``. The first state is drawn from the stationary distribution (a
    burst with probability burst_s / (calm_s + burst_s)), so every instant has that mean. ``f = 1`` is plain
    Poisson.
    """
    rate_calm = rate_rps * (calm_s + burst_s) / (calm_s + burst_factor * burst_s)
    bursting = bool(rng.random() < burst_s / (calm_s + burst_s))
    pairs = max(8, int(1.2 * duration_s / (calm_s + burst_s)))
    lengths, rates = np.empty(0), np.empty(0)
    while lengths.sum() < duration_s:
        means = np.tile([burst_s, calm_s] if bursting else [calm_s, burst_s], pairs)
        lengths = np.concatenate([lengths, rng.exponential(means)])
        steps = [burst_factor * rate_calm, rate_calm] if bursting else [rate_calm, burst_factor * rate_calm]
        rates = np.concatenate([rates, np.tile(steps, pairs)])
    ends = np.minimum(np.cumsum(lengths), duration_s)
    return _through_rate(
        _poisson_units(float(np.diff(ends, prepend=0.0) @ rates), rng), rates, ends, duration_s
    )


def poisson_in_rates(rates: Times, rng: Generator) -> Times:
    """Poisson arrivals whose rate is constant within each second. Shapes: [seconds] to [jobs]."""
    return _through_rate(_poisson_units(float(rates.sum()), rng), rates, _seconds(rates), float(len(rates)))


def even_in_rates(rates: Times, rng: Generator | None = None) -> Times:
    """Arrivals at equal gaps within each second: job *k* comes when *k* + ½ were due. Draws nothing.

    A rate that is no whole number carries its rest over into the next second, so no job is lost to rounding.
    """
    total = float(rates.sum())
    units: Times = np.arange(np.ceil(total), dtype=np.float64) + 0.5
    return _through_rate(units[units < total], rates, _seconds(rates), float(len(rates)))


def _seconds(rates: Times) -> Times:
    return np.arange(1.0, len(rates) + 1.0)


def _poisson_units(total: float, rng: Generator) -> Times:
    """A unit-rate Poisson process on [0, total), sorted."""
    return np.sort(rng.random(rng.poisson(total)) * total)


def _through_rate(units: Times, rates: Times, ends: Times, duration_s: float) -> Times:
    """Carry operational time to real time: the inverse of the cumulative rate.

    Shapes: ``units`` [jobs], sorted; ``rates``, ``ends`` [pieces], the rate of each piece and where it ends.
    """
    starts = np.concatenate([[0.0], ends[:-1]])
    due = np.cumsum(rates * (ends - starts))
    piece = np.minimum(np.searchsorted(due, units, side="left"), len(rates) - 1)
    before = np.concatenate([[0.0], due[:-1]])[piece]
    rate = np.where(rates[piece] > 0, rates[piece], 1.0)
    times: Times = np.minimum(starts[piece] + (units - before) / rate, ends[piece])
    return times[times < duration_s]


def _refuse_too_many(expected: float) -> None:
    if expected > MAX_JOBS:
        raise ConfigError(
            f"about {expected:.3g} jobs would arrive", field="arrivals", expected=f"at most {MAX_JOBS:,}"
        )
