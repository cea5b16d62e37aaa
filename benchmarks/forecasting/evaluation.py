"""Forecasts of many moments, and the figures of them: errors, coverage, and the whole trade-off."""

from __future__ import annotations

from collections.abc import Sequence
from time import thread_time

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.forecasting.base import Forecaster, RateHistory
from poise.forecasting.windows import window_maxima

Array = NDArray[np.float64]
DAY_S = 86_400
PINBALL_LEVEL = 0.9
FACTORS = np.linspace(0.8, 2.0, 121)
RECORDED_S = 600
FINE_LEVELS = np.concatenate([np.linspace(0.5, 0.9, 41), np.linspace(0.902, 0.99, 45)])
WARM_UP = 20


class Moments(msgspec.Struct, frozen=True):
    """When forecasts are made, and what came. Shapes: ``at`` and ``came`` [k]. Units: seconds of the trace; jobs/s."""

    seconds: int
    at: NDArray[np.int64]
    came: Array


class Forecasts(msgspec.Struct, frozen=True):
    """A forecaster's answers. Shapes: ``rates`` [k, levels], ``took_s`` [k]. Units: jobs/s, processor seconds."""

    levels: tuple[float, ...]
    rates: Array
    took_s: Array
    fell_back: float

    def at(self, level: float) -> Array:
        """Return the rate at a level of each moment, as ``Forecast.at`` does."""
        return np.array([np.interp(level, self.levels, row) for row in self.rates])


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one forecaster, planned with at one level or times one factor.

    Units: jobs/s for ``error`` (mean absolute), ``over`` (mean of what was planned too much, 0 where too little) and
    ``pinball`` (at level .9); ``under`` is the share of moments where more came than was planned.
    """

    forecaster: str
    error: float
    under: float
    over: float
    pinball: float


class Coverage(msgspec.Struct, frozen=True):
    """Of a claimed level: the share of moments within it, over all and on the day where it is worst."""

    forecaster: str
    level: float
    covered: float
    worst_day: float


class Point(msgspec.Struct, frozen=True):
    """One point of a trade-off."""

    over: float
    under: float


def moments(rates: Array, first: int, step: int, seconds: int) -> Moments:
    """Return every ``step``-th moment from ``first`` whose target and last ten minutes were observed whole."""
    came, before = window_maxima(rates, seconds), window_maxima(rates, RECORDED_S)
    at = np.arange(first, len(came), step)
    at = at[~np.isnan(came[at]) & ~np.isnan(before[at - RECORDED_S])]
    return Moments(seconds, at, came[at])


def forecasts(forecaster: Forecaster, rates: Array, when: Moments) -> Forecasts:
    """Ask for a forecast at each moment. The forecaster is given the seconds before it, and no others."""
    answers, took_s = [], []
    for at in when.at[:WARM_UP]:
        forecaster.forecast(RateHistory(rates[:at], float(at)), when.seconds)
    for at in when.at:
        start = thread_time()
        answers.append(forecaster.forecast(RateHistory(rates[:at], float(at)), when.seconds))
        took_s.append(thread_time() - start)
    levels = max((answer.levels for answer in answers), key=len)
    rows = [np.interp(levels, answer.levels, answer.rates) for answer in answers]
    fell_back = float(np.mean([answer.forecaster != forecaster.name for answer in answers]))
    return Forecasts(levels, np.array(rows), np.array(took_s), fell_back)


def row(name: str, planned: Array, came: Array) -> Row:
    """Return the figures of what was planned."""
    short = came - planned
    return Row(
        forecaster=name,
        error=float(np.abs(short).mean()),
        under=float((short > 0).mean()),
        over=float(np.maximum(-short, 0).mean()),
        pinball=float(np.maximum(PINBALL_LEVEL * short, (PINBALL_LEVEL - 1) * short).mean()),
    )


def coverage(name: str, found: Forecasts, when: Moments, level: float) -> Coverage:
    """Return how often what came was within a level."""
    within = when.came <= found.at(level)
    days = when.at // DAY_S
    by_day = [float(within[days == day].mean()) for day in np.unique(days)]
    return Coverage(name, level, float(within.mean()), max(by_day, key=lambda share: abs(share - level)))


def times_factors(planned: Array, came: Array) -> list[Point]:
    """Return (over-provision, under-predicted share) of one plan times factors."""
    rows = [row("", planned * factor, came) for factor in FACTORS]
    return [Point(each.over, each.under) for each in rows]


def trade_off(found: Forecasts, came: Array) -> list[Point]:
    """Return (over-provision, under-predicted share) as one asks for more.

    Of a point forecast, times a factor. Of quantiles, along the levels, and beyond both ends times a factor.
    """
    if len(found.levels) == 1:
        return times_factors(found.rates[:, 0], came)
    planned = [found.rates[:, 0] * factor for factor in FACTORS[FACTORS < 1]]
    planned += [found.at(level) for level in FINE_LEVELS]
    planned += [found.rates[:, -1] * factor for factor in FACTORS[FACTORS > 1]]
    rows = [row("", each, came) for each in planned]
    return [Point(each.over, each.under) for each in rows]


def under_at(curve: Sequence[Point], over: float) -> float:
    """Return the share under-predicted where the curve has that over-provision; linear between its points."""
    ordered = sorted(curve, key=lambda point: point.over)
    return float(np.interp(over, [p.over for p in ordered], [p.under for p in ordered]))
