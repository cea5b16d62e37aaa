"""The scheduler and the adapter together in virtual time: nothing is lost, time is charged, cores are counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from poise.adapting.policies import Served
from poise.domain.adapter_settings import AdapterSettings
from poise.domain.profile import (
    CapacityPoint,
    LatencyPoint,
    ModeProfile,
    Profile,
    StageProfile,
    VariantProfile,
)
from poise.domain.service import (
    Budget,
    Modality,
    SchedulerSettings,
    Service,
    SLOClass,
    TensorSpec,
    Variant,
    WorkerKind,
)
from poise.errors import ConfigError
from poise.forecasting.base import Forecast, RateHistory
from poise.planning.core_allocation import allocate_cores
from poise.simulation.adapted import AdaptedRun, simulate_adapted
from poise.simulation.faults import Faults, LostWorker
from poise.workload.arrivals import poisson_in_rates
from poise.workload.jobs import JobDraw

SLO_S = 0.5
LOAD_S = {"small": 2.0, "large": 4.0}


def profile() -> Profile:
    return Profile(
        format=1,
        service="family",
        variants=tuple(
            VariantProfile(
                name=name,
                load_time_s=LOAD_S[name],
                memory_bytes=1000,
                modes=(ModeProfile(modalities=("image",), accuracy=accuracy),),
                stages=(
                    StageProfile(
                        name="image",
                        modality_sets=(("image",),),
                        latency=(LatencyPoint(threads=1, batch=1, mean_s=1 / core_rps),),
                    ),
                ),
                capacity=tuple(CapacityPoint(cores=n, rps=core_rps * n, slo_s=SLO_S) for n in range(1, 9)),
            )
            for name, accuracy, core_rps in (("small", 0.7, 25.0), ("large", 0.8, 10.0))
        ),
    )


def service(policy: str, **adapter: Any) -> Service:
    given = {"interval_s": 5.0, "headroom": 1.1, "stabilise": 2, **adapter}
    return Service(
        format=1,
        service="family",
        modalities={"image": Modality(inputs={"image": TensorSpec(datatype="UINT8", shape=(4,))})},
        outputs={"logits": TensorSpec(datatype="FP32", shape=(2,))},
        variants={"small": Variant(runtime="emulated"), "large": Variant(runtime="emulated")},
        classes={"default": SLOClass(latency_slo_ms=1000 * SLO_S)},
        budget=Budget(cores=8, memory=1_000_000),
        scheduler=SchedulerSettings(policy=policy, max_batch=1),
        adapter=msgspec.structs.replace(AdapterSettings(), **given),
    )


class LastRates:
    """The largest of the last five seconds, and a fifth more at .95."""

    name = "last-rates"

    def forecast(self, history: RateHistory, horizon_s: float) -> Forecast:
        rate = float(np.nan_to_num(history.rates[-5:]).max()) if len(history.rates) else 0.0
        return Forecast(horizon_s, (0.5, 0.95), (rate, 1.2 * rate), self.name)


def draws(rates: Sequence[float], seed: int = 1) -> list[JobDraw]:
    times = poisson_in_rates(np.array(rates, np.float64), np.random.default_rng(seed))
    return [JobDraw(i, at, "default", 1, None, None, 1) for i, at in enumerate(times.tolist())]


UP_AND_DOWN = [20.0] * 15 + [90.0] * 20 + [150.0] * 15 + [20.0] * 30


def run(
    adapter: str,
    policy: str,
    rates: Sequence[float] = UP_AND_DOWN,
    *,
    faults: Faults | None = None,
    **more: Any,
) -> AdaptedRun:
    return simulate_adapted(
        Served(service(policy, **more), profile()),
        draws(rates),
        duration_s=len(rates),
        adapter=adapter,
        forecaster=LastRates(),
        faults=Faults() if faults is None else faults,
    )


CASES = [
    ("infadapter", "weighted"),
    ("model-switching", "weighted"),
    ("horizontal", "weighted"),
    ("vpa", "weighted"),
    ("hpa", "weighted"),
    ("poise", "poise"),
    ("infadapter", "poise"),
    ("static", "poise"),
]


@pytest.mark.parametrize(("adapter", "policy"), CASES)
def test_every_job_has_its_outcome_and_the_budget_holds(adapter: str, policy: str) -> None:
    found = run(adapter, policy)
    assert found.report.lost_jobs == 0
    assert found.report.jobs == len(draws(UP_AND_DOWN))
    assert max(beat.cores for beat in found.beats) <= 8 + 1e-9
    assert sum(beat.met + beat.missed for beat in found.beats) <= found.report.jobs
    assert sum(beat.jobs for beat in found.beats) <= found.report.jobs
    assert 0 < found.report.mean_cores <= 8
    assert found.report.adapter == adapter


@pytest.mark.parametrize(("adapter", "policy"), [("infadapter", "weighted"), ("poise", "poise")])
def test_the_same_arguments_give_the_same_run(adapter: str, policy: str) -> None:
    one, other = run(adapter, policy), run(adapter, policy)
    assert one.beats == other.beats
    drop = {"solve_s": 0.0, "allocation": None}
    assert [msgspec.structs.replace(d, **drop) for d in one.decisions] == [
        msgspec.structs.replace(d, **drop) for d in other.decisions
    ]


def test_cores_follow_the_load() -> None:
    found = run("poise", "poise")
    cores = [beat.cores for beat in found.beats]
    assert np.mean(cores[5:15]) < np.mean(cores[25:35]) <= np.mean(cores[40:50])
    assert np.mean(cores[60:]) < np.mean(cores[40:50])
    assert found.report.loads == 0  # all variants stay resident
    assert found.report.attainment > 0.99


def test_a_static_allocation_is_what_was_declared() -> None:
    declared = (WorkerKind(variants=("small",), count=3),)
    served = Served(msgspec.structs.replace(service("poise"), allocation=declared), profile())
    found = simulate_adapted(
        served, draws([20.0] * 20), duration_s=20.0, adapter="static", forecaster=LastRates()
    )
    assert found.report.mean_cores == pytest.approx(3.0)
    assert found.report.reconfigurations == 0
    assert found.report.variant_share == {"small": 1.0}


def test_a_newcomer_answers_only_once_it_has_loaded() -> None:
    """``horizontal`` on ``large``: at 5 s it asks for more, which take their 4 s and the solver's time."""
    found = run("horizontal", "weighted", [9.0] * 3 + [30.0] * 17, variant="large")
    grown = next(d for d in found.decisions if d.loads and d.reason != "start")
    cores = {round(beat.at_s): beat.cores for beat in found.beats}
    surge = {round(beat.at_s): beat.surge_cores for beat in found.beats}
    at_s = int(grown.at_s)
    assert cores[at_s + 3] == cores[at_s]
    assert surge[at_s + 2] == pytest.approx(grown.loads)
    assert cores[at_s + 6] == pytest.approx(cores[at_s] + grown.loads)


def test_a_worker_that_dies_is_loaded_again() -> None:
    found = run("infadapter", "weighted", [40.0] * 30, faults=Faults(lost=(LostWorker(1, 10.5),)))
    assert found.report.lost_jobs == 0
    assert found.report.loads >= 1
    assert any(d.reason == "worker" for d in found.decisions)
    assert found.beats[-1].cores >= found.beats[5].cores


def test_a_solver_that_raises_leaves_the_last_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [0]

    def failing(*args: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] > 2:
            raise RuntimeError("out of memory")
        return allocate_cores(*args, **more)

    monkeypatch.setattr("poise.adapting.core_policies.allocate_cores", failing)
    found = run("infadapter", "weighted", [20.0] * 15 + [90.0] * 15)
    failed = [d for d in found.decisions if d.outcome == "failed"]
    assert failed
    assert "out of memory" in failed[0].trouble
    assert found.beats[-1].cores == found.beats[12].cores
    assert found.report.lost_jobs == 0


def test_no_load_at_all_keeps_one_worker() -> None:
    found = run("poise", "poise", [1.0] + [0.0] * 20 + [1.0] * 3)
    assert min(beat.cores for beat in found.beats) >= 1


def test_a_thousandfold_jump_is_survived() -> None:
    found = run("poise", "poise", [2.0] * 8 + [2000.0] * 3 + [2.0] * 8)
    assert found.report.lost_jobs == 0
    assert found.report.refused  # what cannot be held is refused at once
    assert found.report.goodput_rps > 0


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.policy.*got 'magic'.*one of static, poise, infadapter"):
        run("magic", "poise")


def test_variants_may_be_named_in_any_order() -> None:
    declared = (WorkerKind(variants=("large", "small"), count=4),)
    served = Served(msgspec.structs.replace(service("poise"), allocation=declared), profile())
    found = simulate_adapted(
        served, draws(UP_AND_DOWN), duration_s=80.0, adapter="poise", forecaster=LastRates()
    )
    assert found.report.lost_jobs == 0
    assert found.report.attainment > 0.98
