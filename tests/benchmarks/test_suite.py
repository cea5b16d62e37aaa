"""The parts of the benchmarks that only reckon."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.planning.latency_model import LatencyModel, StageGroup

SUITE = Path(__file__).resolve().parents[2] / "benchmarks" / "suite"


def load(name: str) -> ModuleType:
    """Load a module of the suite by its path: the suite is no package of poise."""
    spec = importlib.util.spec_from_file_location(f"poise_benchmarks_{name}", SUITE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fluid_bound, spread, load_search = load("fluid_bound"), load("spread"), load("load_search")

# Two modes of one item each: right 60 % of the time in 1 ms, 90 % in 4 ms. A batch of two costs the first
# 1 ms in all, the second 8 ms.
MODEL = LatencyModel(
    sets=(1, 2),
    accuracy=(0.6, 0.9),
    groups=(
        StageGroup(uses=(True, False), table=(0.0, 0.001, 0.001)),
        StageGroup(uses=(False, True), table=(0.0, 0.004, 0.008)),
    ),
    max_batch=2,
)


def test_the_bound_of_a_mix_is_the_hull_between_its_configurations():
    # Half the items by the second mode (4 ms), half by the first in batches of two (0.5 ms): 2.25 ms an item.
    assert fluid_bound.fluid_bound_rps(MODEL, 1.0, 0.75) == pytest.approx(1 / 0.00225)


def test_a_configuration_beyond_the_slo_does_not_count():
    # Batches of two take 1 ms or more: within 0.9 ms nothing is left.
    assert fluid_bound.fluid_bound_rps(MODEL, 0.001, 0.6) == pytest.approx(2000)
    assert fluid_bound.fluid_bound_rps(MODEL, 0.0009, 0.6) == 0


def test_a_floor_for_each_item_leaves_no_mix():
    assert fluid_bound.fluid_bound_rps(MODEL, 1.0, 0.75, each=True) == pytest.approx(250)
    assert fluid_bound.fluid_bound_rps(MODEL, 1.0, 0.95, each=True) == 0


def test_a_floor_that_no_mix_reaches_has_no_time():
    assert math.isinf(fluid_bound.least_item_s([(0.5, 1.0), (0.8, 2.0)], 0.81))


ACCURACIES = st.integers(0, 20).map(lambda twentieths: twentieths / 20)
POINTS = st.lists(st.tuples(ACCURACIES, st.floats(0.001, 1)), min_size=1, max_size=8)


@given(POINTS, ACCURACIES)
def test_the_hull_is_the_best_of_all_pairs(points, floor):
    best = math.inf
    for low, low_s in points:
        for high, high_s in points:
            if low >= floor:
                best = min(best, low_s)
            elif high >= floor:
                best = min(best, low_s + (high_s - low_s) * (floor - low) / (high - low))
    assert fluid_bound.least_item_s(points, floor) == pytest.approx(best, rel=1e-6, abs=1e-6)


def test_a_spread_is_the_median_and_both_ends():
    found = spread.spread_of([3.0, 1.0, 2.0, 10.0])
    assert (found.median, found.low, found.high, found.runs) == (2.5, 1.0, 10.0, 4)
    assert found.text() == "2.5 (1.0 to 10.0)"
    assert spread.spread_of([0.5]).text(".0%") == "50%"
    with pytest.raises(ValueError, match="no values"):
        spread.spread_of([])


def test_values_agree_within_a_share_of_the_smallest():
    assert spread.within((100.0, 110.0), 0.1)
    assert not spread.within((111.0, 100.0), 0.1)


@pytest.mark.parametrize("limit", [40.0, 95.0, 100.0, 170.0])
def test_the_search_ends_near_the_limit_from_either_side(limit):
    tried = []

    def holds(load):
        tried.append(load)
        return load <= limit

    found = load_search.highest_held(holds, 100.0, most=20)
    assert found <= limit <= found * 1.03 + 1e-9
    assert len(tried) <= 12
    assert load_search.highest_held(lambda load: False, 100.0, most=4) == 0.0
