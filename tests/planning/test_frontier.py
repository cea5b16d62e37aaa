"""E1 against the exhaustive oracle, on random profiles whose curves are not convex, with plateaus and fixed costs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.planning.frontier import Frontier, frontiers
from poise.planning.latency_model import LatencyModel, StageGroup, restrict
from poise.planning.oracle import cheapest_latency_s, every_plan

MAX_BATCH = 5


@st.composite
def curves(draw: st.DrawFn, max_batch: int) -> tuple[float, ...]:
    """L[0..max]: any non-negative curve (it may even fall), sometimes not measured to the end."""
    steps = draw(
        st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.5, 7.0]), min_size=max_batch, max_size=max_batch)
    )
    fixed = draw(st.sampled_from([0.0, 1.0, 4.0]))
    table = [0.0]
    for step in steps:
        table.append((table[-1] or fixed) + step)
    if draw(st.booleans()):
        dip = draw(st.integers(1, max_batch))
        table[dip] = table[dip] / 2
    known = draw(st.integers(2, max_batch + 1))
    return tuple(table[:known]) + (math.inf,) * (max_batch + 1 - known)


ACCURACIES = st.sampled_from([0.0, 0.3, 0.5, 0.5, 0.61, 0.75, 0.9, 1.0])


@st.composite
def encoder_models(draw: st.DrawFn, modalities: int | None = None) -> LatencyModel:
    count = draw(st.integers(1, 3)) if modalities is None else modalities
    sets = tuple(range(1, 1 << count))
    groups = [
        StageGroup(uses=tuple(bool(s >> m & 1) for s in sets), table=draw(curves(MAX_BATCH)))
        for m in range(count)
    ]
    head = tuple(draw(curves(MAX_BATCH)))
    groups.append(
        StageGroup(uses=(True,) * len(sets), table=tuple(0.0 if math.isinf(v) else v for v in head))
    )
    return LatencyModel(
        sets=sets, accuracy=tuple(draw(ACCURACIES) for _ in sets), groups=tuple(groups), max_batch=MAX_BATCH
    )


@st.composite
def graph_models(draw: st.DrawFn) -> LatencyModel:
    count = draw(st.integers(1, 4))
    groups = tuple(
        StageGroup(uses=tuple(s == g for s in range(count)), table=draw(curves(MAX_BATCH)))
        for g in range(count)
    )
    return LatencyModel(
        sets=tuple(range(1, count + 1)),
        accuracy=tuple(draw(ACCURACIES) for _ in range(count)),
        groups=groups,
        max_batch=MAX_BATCH,
    )


def assert_exact(model: LatencyModel, batch: int, frontier: Frontier) -> None:
    reachable = sorted(
        {
            sum(n * a for n, a in zip(plan, model.accuracy, strict=True)) / batch
            for plan in every_plan(batch, len(model.sets))
            if model.latency_s(plan) < math.inf
        }
    )
    assert len(frontier) <= len(reachable)
    for target in reachable:
        point = frontier.cheapest_at(target)
        assert point is not None
        assert frontier.latency_s[point] == pytest.approx(cheapest_latency_s(model, batch, target), abs=1e-9)
    if reachable:
        assert frontier.cheapest_at(reachable[-1] + 1e-6) is None
    for p in range(len(frontier)):
        counts = frontier.counts[p].tolist()
        assert sum(counts) == batch
        assert frontier.latency_s[p] == pytest.approx(model.latency_s(counts), abs=1e-9)
        assert frontier.accuracy[p] == pytest.approx(
            sum(n * a for n, a in zip(counts, model.accuracy, strict=True)) / batch
        )
    assert all(a < b for a, b in zip(frontier.latency_s, frontier.latency_s[1:], strict=False))
    assert all(a < b for a, b in zip(frontier.accuracy, frontier.accuracy[1:], strict=False))


@settings(max_examples=60)
@given(encoder_models())
def test_shared_stages_match_the_oracle(model: LatencyModel) -> None:
    found = frontiers(model)
    # two modalities have 3 sets, three have 7: the oracle tries up to 462 plans a batch
    for batch in range(1, MAX_BATCH + 1):
        assert_exact(model, batch, found[batch])


@settings(max_examples=60)
@given(graph_models())
def test_additive_stages_match_the_oracle(model: LatencyModel) -> None:
    for batch, frontier in enumerate(frontiers(model)):
        if batch:
            assert_exact(model, batch, frontier)


@settings(max_examples=15)
@given(encoder_models(modalities=4), st.integers(0, 2**15 - 1))
def test_four_modalities_match_the_oracle_at_small_batches(model: LatencyModel, dropped: int) -> None:
    kept = [s for s in range(15) if dropped >> s & 1] or [14]
    small = restrict(model, kept)
    found = frontiers(LatencyModel(small.sets, small.accuracy, small.groups, max_batch=2))
    for batch in (1, 2):
        assert_exact(small, batch, found[batch])


def test_an_encoder_runs_once_for_all_items_that_use_it() -> None:
    """Two sets that share a costly encoder: mixing them costs its fixed part once, which additive plans cannot."""
    encoder = StageGroup(uses=(True, False, True), table=(0.0, 10.0, 11.0))
    other = StageGroup(uses=(False, True, True), table=(0.0, 1.0, 2.0))
    model = LatencyModel(sets=(1, 2, 3), accuracy=(0.6, 0.5, 0.9), groups=(encoder, other), max_batch=2)
    frontier = frontiers(model)[2]
    point = frontier.cheapest_at(0.75)
    assert point is not None
    assert frontier.latency_s[point] == pytest.approx(12.0)
    assert dict(frontier.pairs(point)) == {1: 1, 3: 1}


def test_a_batch_that_was_not_measured_has_no_plans() -> None:
    only = StageGroup(uses=(True,), table=(0.0, 1.0, math.inf))
    model = LatencyModel(sets=(1,), accuracy=(0.5,), groups=(only,), max_batch=2)
    assert [len(frontier) for frontier in frontiers(model)] == [0, 1, 0]


def test_more_shared_stages_than_can_be_treated_are_refused() -> None:
    sets = tuple(range(1, 32))
    groups = tuple(StageGroup(uses=tuple(bool(s >> m & 1) for s in sets), table=(0.0, 1.0)) for m in range(5))
    with pytest.raises(ValueError, match="at most 4"):
        frontiers(LatencyModel(sets=sets, accuracy=(0.5,) * 31, groups=groups, max_batch=1))


def test_a_frontier_rises_vertex_by_vertex_at_growing_prices() -> None:
    found = Frontier(1, (1,), [0.010, 0.011, 0.020, 0.050], [0.6, 0.61, 0.8, 0.9], np.ones((4, 1), np.int16))
    prices_s, latencies_s = found.rises
    assert prices_s == pytest.approx([0.05, 0.3])  # the second point lies below the line to the third
    assert latencies_s == [0.010, 0.020, 0.050]
    assert Frontier(1, (1,), [], [], np.ones((0, 1), np.int16)).rises == ([], [])
