"""What a worker really takes against what the profile says: ``real = factor · profile + overhead``.

*factor* compares the time that the worker measured in its stages with the profile's medians: the median of the
last ratios, each weighted by its predicted time, so that a hundred tiny batches, whose time is mostly noise, do
not speak for a large one. *overhead* is what came on top between dispatch and answer, beyond the profile's way
to a worker and back: the median of the last differences. Medians ignore outliers up to half the window. Each
stage of a variant has such a factor of its own, which says how its share of the time differs from the profile's
(``shape``). Each worker has its own, so that a slow one does not spoil another's. The head-room for slow batches is
the profile's: planning uses the quantile that the service file names, and the factor stretches it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection, Mapping

WINDOW = 32
ENOUGH = 8
LIMIT = 8.0
STALE_S = 5.0
"""What was measured longer ago than this is given up rather than refuse jobs because of it."""
SHAPE_STEP = math.log(1.1)
"""Stages are told apart where their factors differ by a tenth or more."""
SHAPE_EVERY = 8
"""Batches between two looks at the stages."""

Shape = tuple[tuple[str, float], ...]
"""(stage, its factor over the worker's) of a variant; stages that are as the profile says are left out."""


class Ratios:
    """The last ratios of measured to predicted time, each weighted by its predicted time."""

    __slots__ = ("_values", "_weights")

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=WINDOW)
        self._weights: deque[float] = deque(maxlen=WINDOW)

    def __len__(self) -> int:
        return len(self._values)

    def add(self, measured_s: float, predicted_s: float) -> None:
        """Take one measurement."""
        self._values.append(measured_s / predicted_s)
        self._weights.append(predicted_s)

    def median(self) -> float:
        """Return the weighted median, within ``1/LIMIT`` to ``LIMIT``."""
        values, weights = self._values, self._weights
        if weights.count(weights[0]) == len(weights):  # batches of one size: numbers sort faster than pairs
            return _bounded(sorted(values)[_middle(weights)])
        ordered = sorted(zip(values, weights, strict=True))
        return _bounded(ordered[_middle([weight for _, weight in ordered])][0])


class OrderedRatios:
    """The same, kept in order: for a median that is asked for after every measurement.

    Pairs are ordered by ratio, then weight.
    """

    __slots__ = ("_recent", "_values", "_weights")

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._values: list[float] = []
        self._weights: list[float] = []

    def add(self, measured_s: float, predicted_s: float) -> None:
        """Take one measurement."""
        recent, values, weights = self._recent, self._values, self._weights
        if len(recent) == WINDOW:
            value, weight = recent[0]
            at = bisect_left(values, value)
            while weights[at] != weight:
                at += 1
            del values[at], weights[at]
        value = measured_s / predicted_s
        recent.append((value, predicted_s))
        at = bisect_left(values, value)
        while at < len(values) and values[at] == value and weights[at] < predicted_s:
            at += 1
        values.insert(at, value)
        weights.insert(at, predicted_s)

    def median(self) -> float:
        """Return the weighted median, within ``1/LIMIT`` to ``LIMIT``."""
        return _bounded(self._values[_middle(self._weights)])


def _middle(weights: Collection[float]) -> int:
    """Return the first place by which half of the weight has been seen."""
    half = sum(weights) / 2
    seen = 0.0
    for at, weight in enumerate(weights):
        seen += weight
        if seen >= half:
            return at
    return len(weights) - 1


def _bounded(ratio: float) -> float:
    return LIMIT if ratio > LIMIT else 1 / LIMIT if ratio < 1 / LIMIT else ratio


class Calibration:
    """Running factors and overhead of one worker; 1 and 0 until enough batches were measured. Units: seconds."""

    __slots__ = (
        "_batches", "_extra_s", "_measured_s", "_ordered_extra_s", "_stages", "_whole", "factor", "overhead_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self._whole = OrderedRatios()
        self._stages: dict[str, dict[str, Ratios]] = {}
        """By variant and stage."""
        self._extra_s: deque[float] = deque(maxlen=WINDOW)
        self._ordered_extra_s: list[float] = []
        self._measured_s = float("-inf")
        self._batches = 0
        self.factor = 1.0
        self.overhead_s = 0.0

    def forget_if_stale(self, now_s: float) -> bool:
        """Go back to the profile if nothing was measured for a while; say whether that changes anything.

        A worker that looks too slow for every job is given none, and so would look slow for ever.
        """
        if now_s - self._measured_s < STALE_S or (self.factor, self.overhead_s) == (1.0, 0.0):
            return False
        self._whole = OrderedRatios()
        self._stages.clear()
        self._extra_s.clear()
        self._ordered_extra_s.clear()
        self.factor, self.overhead_s = 1.0, 0.0
        return True

    def observe(
        self,
        *,
        now_s: float,
        run_s: float,
        variant: str,
        measured_s: Mapping[str, float],
        predicted_s: Mapping[str, float],
        way_s: float,
    ) -> bool:
        """Take one batch: dispatch to answer, its stages as measured and as predicted, the predicted way.

        Without measured stages the whole of ``run_s`` is compared. Returns whether ``shape`` is worth a look.
        """
        expected_s = sum(predicted_s.values())
        stages_s = sum(measured_s.values()) if measured_s else max(0.0, run_s - way_s)
        if not (expected_s > 0 and 0 <= stages_s <= run_s < math.inf):
            return False
        for time_s in measured_s.values():
            if time_s < 0:
                return False
        self._measured_s = now_s
        self._whole.add(stages_s, expected_s)
        extras_s, ordered_s = self._extra_s, self._ordered_extra_s
        if len(extras_s) == WINDOW:
            del ordered_s[bisect_left(ordered_s, extras_s[0])]
        extra_s = run_s - stages_s - way_s
        extras_s.append(extra_s)
        insort(ordered_s, extra_s)
        if len(measured_s) > 1:
            self._add_stages(variant, measured_s, predicted_s)
        self._batches += 1
        if len(extras_s) < ENOUGH:
            return False
        self.factor = self._whole.median()
        overhead_s = ordered_s[len(ordered_s) // 2]
        self.overhead_s = overhead_s if overhead_s > 0.0 else 0.0
        return self._batches % SHAPE_EVERY == 0

    def _add_stages(
        self, variant: str, measured_s: Mapping[str, float], predicted_s: Mapping[str, float]
    ) -> None:
        stages = self._stages.get(variant)
        if stages is None:
            stages = self._stages[variant] = {}
        for stage, time_s in measured_s.items():
            stage_s = predicted_s.get(stage, 0.0)
            if stage_s > 0:
                ratios = stages.get(stage)
                if ratios is None:
                    ratios = stages[stage] = Ratios()
                ratios.add(time_s, stage_s)

    def shape(self, variant: str) -> Shape:
        """Return the stages of a variant whose share of the time is not as profiled, in steps of a tenth."""
        found: list[tuple[str, float]] = []
        for stage, ratios in self._stages.get(variant, {}).items():
            if len(ratios) >= ENOUGH:
                steps = round(math.log(ratios.median() / self.factor) / SHAPE_STEP)
                if steps:
                    found.append((stage, math.exp(steps * SHAPE_STEP)))
        return tuple(sorted(found))

    def stages(self) -> dict[tuple[str, str], float]:
        """Return each stage's factor by (variant, stage), as far as enough batches were measured."""
        return {
            (variant, stage): ratios.median()
            for variant, stages in self._stages.items()
            for stage, ratios in stages.items()
            if len(ratios) >= ENOUGH
        }

    def profile_s(self, real_s: float) -> float:
        """Return how much profile time fits into a real time."""
        return (real_s - self.overhead_s) / self.factor

    def real_s(self, profile_s: float) -> float:
        """Return how long a profile time really takes."""
        return profile_s * self.factor + self.overhead_s
