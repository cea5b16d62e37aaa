"""E1 against every plan there is, on curves as they are measured: uneven, flat in places, falling, with fixed costs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from poise.planning.frontier import ACCURACY_TOLERANCE, Frontier, FrontierTable, frontier_table, frontiers
from poise.planning.latency_model import LatencyModel, StageGroup
from poise.planning.oracle import every_plan

TOLERANCE = 1.001 * ACCURACY_TOLERANCE
SHAPES = ("measured", "linear", "plateaus", "falling", "free", "cut")


def curve(rng: np.random.Generator, shape: str, largest: int) -> tuple[float, ...]:
    """L[0..largest] in seconds, of milliseconds."""
    sizes = np.arange(1, largest + 1)
    fixed, each = rng.uniform(0, 0.01), rng.uniform(0.0001, 0.005)
    table = fixed + each * sizes
    if shape == "measured":
        table *= rng.uniform(0.7, 1.3, largest)
    elif shape == "plateaus":
        width = int(rng.integers(2, 5))
        table = fixed + each * width * np.ceil(sizes / width)
    elif shape == "falling":
        table[rng.integers(largest)] /= 3
    elif shape == "free":
        table = np.where(sizes < rng.integers(1, largest + 1), 0.0, table)
    elif shape == "cut":
        table[rng.integers(1, largest + 1) :] = math.inf
    return (0.0, *table.tolist())


def accuracies(rng: np.random.Generator, kind: str, sets: int) -> tuple[float, ...]:
    found: NDArray[np.floating] = rng.uniform(0.3, 1.0, sets)
    if kind == "tied":
        found = np.round(found * 10) / 10
    elif kind == "counted":
        found = np.round(found * 600) / 600
    elif kind == "close":
        found = 0.8 + 4e-10 * rng.integers(0, 8, sets)
    return tuple(found.tolist())


KINDS = ("any", "tied", "counted", "close")
models = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "shapes": st.lists(st.sampled_from(SHAPES), min_size=5, max_size=5),
        "kind": st.sampled_from(KINDS),
    }
)


def encoders(seed: int, shapes: list[str], kind: str, modalities: int, largest: int) -> LatencyModel:
    rng = np.random.default_rng(seed)
    sets = tuple(range(1, 1 << modalities))
    groups = [
        StageGroup(uses=tuple(bool(s >> m & 1) for s in sets), table=curve(rng, shapes[m], largest))
        for m in range(modalities)
    ]
    groups.append(StageGroup(uses=(True,) * len(sets), table=curve(rng, shapes[4], largest)))
    return LatencyModel(sets, accuracies(rng, kind, len(sets)), tuple(groups), largest)


def graphs(seed: int, shapes: list[str], kind: str, count: int, largest: int) -> LatencyModel:
    rng = np.random.default_rng(seed)
    groups = tuple(
        StageGroup(uses=tuple(s == g for s in range(count)), table=curve(rng, shapes[g % 5], largest))
        for g in range(count)
    )
    return LatencyModel(tuple(range(1, count + 1)), accuracies(rng, kind, count), groups, largest)


def assert_exact(model: LatencyModel, frontier: Frontier) -> None:
    """Hold a frontier against all plans of its batch size."""
    took_s = {plan: model.latency_s(plan) for plan in every_plan(frontier.batch, len(model.sets))}
    plans = [plan for plan, latency_s in took_s.items() if latency_s < math.inf]
    latency_s = np.array([took_s[plan] for plan in plans])
    accuracy = np.array(plans) @ np.array(model.accuracy) / frontier.batch if plans else np.zeros(0)
    assert bool(len(frontier)) == bool(plans)
    for p in range(len(frontier)):
        counts = tuple(frontier.counts[p].tolist())
        assert frontier.latency_s[p] == model.latency_s(counts), (
            "a point says what its plan takes, to the bit"
        )
        assert frontier.accuracy[p] == pytest.approx(
            np.dot(counts, model.accuracy) / frontier.batch, abs=1e-13
        )
    assert all(a < b for a, b in itertools.pairwise(frontier.latency_s))
    assert all(a < b for a, b in itertools.pairwise(frontier.accuracy))
    order = np.argsort(accuracy)
    reached, cheapest_s = accuracy[order], np.minimum.accumulate(latency_s[order][::-1])[::-1]
    for target in np.unique(reached)[:: len(plans) // 300 + 1].tolist():
        point = frontier.cheapest_at(target)
        assert point is not None
        assert frontier.accuracy[point] >= target - TOLERANCE
        assert frontier.latency_s[point] <= cheapest_s[np.searchsorted(reached, target)] + 1e-11
        assert frontier.latency_s[point] >= cheapest_s[np.searchsorted(reached, target - TOLERANCE)] - 1e-11
    order = np.argsort(latency_s)
    within_s, highest = latency_s[order], np.maximum.accumulate(accuracy[order])
    for limit_s in np.unique(within_s)[:: len(plans) // 300 + 1].tolist():
        point = frontier.best_within(limit_s + 1e-11)
        assert point is not None
        assert (
            frontier.accuracy[point] >= highest[np.searchsorted(within_s, limit_s, "right") - 1] - TOLERANCE
        )


@settings(max_examples=40)
@given(models, st.sampled_from([(1, 9), (2, 9), (3, 4)]))
def test_encoders_are_exact(model: dict, size: tuple[int, int]) -> None:
    built = encoders(**model, modalities=size[0], largest=size[1])
    for frontier in frontiers(built)[1:]:
        assert_exact(built, frontier)


@settings(max_examples=40)
@given(models, st.sampled_from([(1, 9), (2, 9), (3, 9), (5, 5), (15, 2)]))
def test_graphs_are_exact(model: dict, size: tuple[int, int]) -> None:
    built = graphs(**model, count=size[0], largest=size[1])
    for frontier in frontiers(built)[1:]:
        assert_exact(built, frontier)


@settings(max_examples=6)
@given(models)
def test_four_modalities_are_exact(model: dict) -> None:
    built = encoders(**model, modalities=4, largest=3)
    for frontier in frontiers(built)[1:]:
        assert_exact(built, frontier)


@pytest.mark.parametrize("dearest_s", [0.011, 5.0])
@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_graphs_are_exact_at_batch_64(dearest_s: float, jitter: float) -> None:
    """So large that most candidates are set aside before any are sorted, by bands of latency, fine and coarse."""
    rng = np.random.default_rng(1)
    groups = []
    for g, each_s in enumerate((0.001, 0.00237, 0.0053, dearest_s)):
        table = each_s * np.arange(1, 65) * rng.uniform(1 - jitter, 1 + jitter, 64)
        groups.append(StageGroup(uses=tuple(s == g for s in range(4)), table=(0.0, *table.tolist())))
    model = LatencyModel((1, 2, 3, 4), (0.5, 0.701, 0.8503, 0.92), tuple(groups), 64)
    assert_exact(model, frontiers(model)[64])


@settings(max_examples=6)
@given(models)
def test_both_methods_find_the_same_at_sizes_that_cannot_be_tried_out(model: dict) -> None:
    """A stage of no cost that two graphs share makes them a case for the other method."""
    additive = graphs(**model, count=3, largest=20)
    free = StageGroup(uses=(True, True, False), table=(0.0,) * 21)
    shared = LatencyModel(additive.sets, additive.accuracy, (*additive.groups, free), 20)
    for one, other in zip(frontiers(additive), frontiers(shared), strict=True):
        assert one.latency_s == other.latency_s
        assert one.accuracy == pytest.approx(
            other.accuracy, abs=1e-12
        )  # of equally good plans either is taken


def test_ties_leave_one_point() -> None:
    """Three graphs alike but for one that is slower: a single point for each batch size."""
    curves = [(0.0, 0.1, 0.2, 0.3), (0.0, 0.1, 0.2, 0.3), (0.0, 0.2, 0.4, 0.6)]
    groups = tuple(
        StageGroup(uses=tuple(s == g for s in range(3)), table=table) for g, table in enumerate(curves)
    )
    found = frontiers(LatencyModel((1, 2, 3), (0.7, 0.7, 0.7), groups, 3))
    assert [len(frontier) for frontier in found] == [0, 1, 1, 1]
    assert [frontier.latency_s for frontier in found[1:]] == [[0.1], [0.2], [0.3]]


def test_accuracies_closer_than_the_tolerance_do_not_add_up_to_a_wrong_answer() -> None:
    """A chain of points, each within the tolerance of the one before, keeps those that are not within the first's."""
    sets, step = 8, 4e-10
    groups = tuple(
        StageGroup(uses=tuple(s == g for s in range(sets)), table=(0.0, 1.0 + g)) for g in range(sets)
    )
    accuracy = tuple(0.5 + step * s for s in range(sets))
    (_, frontier) = frontiers(LatencyModel(tuple(range(1, sets + 1)), accuracy, groups, 1))
    for s, target in enumerate(accuracy):
        point = frontier.cheapest_at(target)
        assert point is not None
        assert target - ACCURACY_TOLERANCE <= frontier.accuracy[point] + 1e-15
        assert frontier.latency_s[point] <= 1.0 + s
    assert frontier.latency_s[0] == 1.0
    assert len(frontier) == 4, "every other one is more than half the tolerance above the last"


def model_of_two() -> LatencyModel:
    return encoders(5, ["measured"] * 5, "any", 2, 6)


def test_a_table_from_its_plans_says_the_same() -> None:
    table = frontier_table(model_of_two())
    again = FrontierTable(table.model, table.counts.copy(), table.starts.copy())
    for batch in range(7):
        one, other = table.frontier(batch), again.frontier(batch)
        assert (one.latency_s, one.accuracy) == (other.latency_s, other.accuracy)
        assert [one.plan(p) for p in range(len(one))] == [other.plan(p) for p in range(len(other))]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda counts, starts: (counts[:, :2], starts), "another shape"),
        (lambda counts, starts: (counts, starts[:-1]), "another shape"),
        (lambda counts, starts: (counts[:-1], starts), "do not divide"),
        (lambda counts, starts: (counts, starts[::-1]), "do not divide"),
        (lambda counts, starts: (counts + 1, starts), "not of its batch size"),
        (lambda counts, starts: (counts - counts[0], starts), "not of its batch size"),
        (lambda counts, starts: (counts[:, ::-1], starts), "do not rise"),
    ],
)
def test_a_table_of_what_are_no_plans_is_refused(change, said) -> None:
    table = frontier_table(model_of_two())
    with pytest.raises(ValueError, match=said):
        FrontierTable(table.model, *change(table.counts, table.starts))
