"""The comparison of the policies: bounds, settings, tasks and the file of finished cells."""

import importlib
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.planning.latency_model import LatencyModel, StageGroup
from poise.scheduling.policies import POLICIES

fluid_bound = importlib.import_module("suite.fluid_bound")
settings = importlib.import_module("scheduling.settings")
tasks = importlib.import_module("scheduling.tasks")
cells = importlib.import_module("scheduling.cells")
run = importlib.import_module("run")

# Two modes: right 60 % of the time, 1 ms for one or two items; right 90 % of the time, 4 ms an item.
MODEL = LatencyModel(
    sets=(1, 2),
    accuracy=(0.6, 0.9),
    groups=(
        StageGroup(uses=(True, False), table=(0.0, 0.001, 0.001)),
        StageGroup(uses=(False, True), table=(0.0, 0.004, 0.008)),
    ),
    max_batch=2,
)
SIZES = {1: 0.5, 2: 0.5}


def forever(items: int) -> float:
    return math.inf


def test_with_single_items_the_bound_of_jobs_is_that_of_items():
    for each in (False, True):
        expected = fluid_bound.fluid_bound_rps(MODEL, 0.005, 0.75, each=each)
        assert fluid_bound.jobs_bound_rps(MODEL, {1: 1.0}, lambda n: 0.005, 0.75, each=each) == pytest.approx(
            expected
        )


def test_a_floor_on_the_mean_of_all_counts_items():
    # Half the items by the second mode (4 ms), half in pairs by the first (0.5 ms each): 1.5 items of 2.25 ms.
    assert fluid_bound.jobs_bound_rps(MODEL, SIZES, forever, 0.75) == pytest.approx(1 / 0.003375)


def test_a_floor_on_each_job_is_met_by_whole_items():
    # One item: the second mode, 4 ms. Two: one by each mode, 4 + 0.5 ms.
    assert fluid_bound.jobs_bound_rps(MODEL, SIZES, forever, 0.75, each=True) == pytest.approx(1 / 0.00425)
    # Two items at 0.8: both by the second mode.
    assert fluid_bound.jobs_bound_rps(MODEL, SIZES, forever, 0.8, each=True) == pytest.approx(1 / 0.006)
    assert fluid_bound.jobs_bound_rps(MODEL, SIZES, forever, 0.95, each=True) == 0


def test_jobs_use_only_batches_within_their_own_deadline():
    # Single items are due after 2 ms: the first mode alone. The pairs' items make up for it: two thirds of all
    # items, so a mean of 0.7 needs half of them by the second mode.
    def deadline_s(items):
        return 0.002 if items == 1 else 1.0

    expected_s = 0.5 * 0.0005 + 0.5 * 2 * (0.5 * 0.004 + 0.5 * 0.0005)
    assert fluid_bound.jobs_bound_rps(MODEL, SIZES, deadline_s, 0.7) == pytest.approx(1 / expected_s)
    assert fluid_bound.jobs_bound_rps(MODEL, SIZES, deadline_s, 0.7, each=True) == 0


ACCURACIES = st.integers(0, 20).map(lambda twentieths: twentieths / 20)
POINTS = st.lists(st.tuples(ACCURACIES, st.floats(0.001, 1)), min_size=1, max_size=6)


@given(POINTS, POINTS, st.sampled_from([0.2, 0.5, 0.7]), ACCURACIES)
def test_the_least_mix_is_the_best_split_of_the_floor(first, second, share, floor):
    # The optimum splits the floor so that one of the two stands at a vertex of its hull.
    splits = [(a, (floor - share * a) / (1 - share)) for a, _ in first]
    splits += [((floor - (1 - share) * b) / share, b) for b, _ in second]
    best = min(
        share * fluid_bound.least_item_s(first, a) + (1 - share) * fluid_bound.least_item_s(second, b)
        for a, b in splits
    )
    parts = [(share, fluid_bound.lower_hull(first)), (1 - share, fluid_bound.lower_hull(second))]
    assert fluid_bound._least_of_mix_s(parts, floor) == pytest.approx(best, rel=1e-6, abs=1e-6)


def test_tvlt_is_what_it_says():
    for shape in settings.TVLT_SHAPES:
        tvlt = settings.tvlt(shape)
        assert tvlt.best_s(1) == pytest.approx(0.020)
        assert tvlt.best_s(5) == pytest.approx(0.020 * (shape + 5) / (shape + 1))
        assert tvlt.deadline_s(5) == pytest.approx(tvlt.best_s(5) + 0.017)
        assert max(tvlt.mean_model.accuracy) == 0.7431962
        assert tvlt.bound_rps(tvlt.floor_at(0.5), "job") <= tvlt.bound_rps(tvlt.floor_at(0.5), "class")


def test_paced_jobs_come_so_many_a_second_with_gaps_in_proportion_to_size():
    drawn = settings.tvlt(4).draw(7.5, 10.0, seed=3)
    assert len(drawn) == 75
    assert [job.number for job in drawn] == list(range(75))
    for second in range(10):
        within = [job for job in drawn if second <= job.arrival_s < second + 1]
        assert len(within) in (7, 8)
        gaps = np.diff([*(job.arrival_s for job in within), second + 1])
        each = gaps / [job.items for job in within]
        assert each == pytest.approx(np.full(len(within), each[0]))


def test_a_changed_setting_keeps_its_deadlines():
    plain = settings.tvlt(4)
    changed = plain.changed(scale=2.0, jitter=0.1, cores=2)
    assert changed.best_s(3) == pytest.approx(2 * plain.best_s(3))
    assert changed.deadline_s(3) == plain.deadline_s(3)
    point = changed.profile.variants[0].stages[0].latency[0]
    assert point.p95_s == pytest.approx(1.1645 * point.mean_s)
    assert changed.service.budget.cores == 2


def common(policy: str = "edf") -> dict[str, Any]:
    return {"setting": "blocking", "policy": policy, "floor_share": 0.5, "scope": "class", "seeds": 2}


def sample(load: float) -> Any:
    return tasks.Sample(**common(), load_rps=load, duration_s=20.0)


def test_a_search_finds_a_load_that_holds():
    setting = settings.blocking()
    task = tasks.Search(**common(), guess_rps=30.0, jobs=300, tolerance=0.05)
    found = tasks.carry_out(task, setting).loads_rps
    assert len(found) == 2
    for seed, load in enumerate(found, 1):
        service = setting.served(setting.floor_at(0.5), "class")
        duration_s = tasks.run_length_s(setting, load, 300)
        jobs = setting.draw(load, duration_s, seed)
        report = tasks.simulate(
            service, setting.profile, jobs, duration_s=duration_s, policy="edf", seed=seed
        ).report
        assert report.attainment >= tasks.TARGET
        assert load <= 1.05 * setting.all_modalities_rps * (1 + setting.slo_s / duration_s)


def test_the_parts_of_a_run_with_a_slowed_worker_are_all_of_it():
    task = tasks.Wrong(**common(), load_rps=30.0, duration_s=60.0, calibrate=True, slow=2.0, cores=2)
    for each in tasks.carry_out(task, settings.blocking()).runs:
        assert set(each.parts) == {"before", "settling", "settled"}
        assert sum(part.jobs for part in each.parts.values()) == each.whole.jobs
        assert each.parts["before"].jobs == pytest.approx(each.whole.jobs / 2, rel=0.1)


def tenants(burst_rps: float) -> Any:
    classes = (
        tasks.TenantClass("steady", 1.0, 0.5, 1.0, 5.0),
        tasks.TenantClass("bursty", 2.0, 0.25, 1.0, 4.0, burst_rps),
    )
    return tasks.Tenants(**common(), classes=classes, duration_s=30.0, burst_from_s=10.0, burst_to_s=20.0)


def test_a_burst_adds_jobs_of_one_class_and_leaves_the_others():
    setting = settings.blocking()

    def arrivals(task: Any, name: str) -> set[float]:
        return {job.arrival_s for job in tasks.tenants_draws(task, setting, 1) if job.slo_class == name}

    calm, bursting = tenants(0.0), tenants(50.0)
    assert arrivals(calm, "steady") == arrivals(bursting, "steady")
    more = arrivals(bursting, "bursty") - arrivals(calm, "bursty")
    assert arrivals(calm, "bursty") < arrivals(bursting, "bursty")
    assert len(more) == pytest.approx(500, rel=0.15)
    assert min(more) >= 10 and max(more) < 20
    runs = tasks.carry_out(bursting, setting).runs
    assert runs[0].parts["bursty, burst"].jobs > 10 * runs[0].parts["steady"].jobs / 3


def open_cells(path: Path) -> tuple[Any, list[str]]:
    said: list[str] = []
    return cells.Cells(path, {}, 2, said.append), said


def test_finished_cells_are_kept_and_not_simulated_again(tmp_path):
    path = tmp_path / "cells.jsonl"
    wanted = [sample(5.0), sample(9.0), sample(5.0)]
    first, said = open_cells(path)
    found = first.run(wanted)
    assert len(found) == 2 and "2 cells to simulate" in said[0]
    direct = tasks.carry_out(wanted[1], settings.blocking())
    assert found[wanted[1]].runs == direct.runs
    again, said = open_cells(path)
    assert again.run(wanted) == found and not said
    path.write_bytes(path.read_bytes()[:-5])  # cut off while it was written
    third, said = open_cells(path)
    assert {task: answer.runs for task, answer in third.run(wanted).items()} == {
        task: answer.runs for task, answer in found.items()
    }
    assert "1 cells to simulate, 1 known" in said[0]


def test_cells_of_other_code_are_dropped(tmp_path):
    path = tmp_path / "cells.jsonl"
    open_cells(path)[0].run([sample(5.0)])
    path.write_bytes(b"0" * 64 + path.read_bytes()[64:])
    first, said = open_cells(path)
    first.run([sample(5.0)])
    assert "1 cells to simulate, 0 known" in said[0]


def test_a_cell_that_fails_says_why(tmp_path):
    task = msgspec.structs.replace(sample(5.0), setting="nowhere")
    with pytest.raises(RuntimeError, match="there is no setting 'nowhere'"):
        open_cells(tmp_path / "cells.jsonl")[0].run([task])


def test_every_benchmark_that_is_there_can_be_run():
    present = [name for name, module in run.BENCHMARKS.items() if find_spec(module)]
    assert set(run.GROUPS["scheduling"]) <= set(present)
    for name in present:
        module = run.module_of(name)
        assert (
            callable(module.measure) and callable(module.grids) and issubclass(module.Result, msgspec.Struct)
        )


def test_every_policy_there_is_is_compared():
    compared = importlib.import_module("scheduling.common").ORDER
    # What ``weighted`` does lies in the shares of an allocation: it is compared where those are, with the adapters.
    assert set(POLICIES) - {"weighted"} <= set(compared)
