"""The generator against a real server on a real socket: every planned job has exactly one outcome."""

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from poise.domain.service import Service
from poise.domain.workload import Arrivals, Items, Workload
from poise.errors import ConfigError
from poise.files import LabelledItems
from poise.load import LoadOptions, LoadRun, load_report, parse_url, run_load, send_load
from poise.workload import JobDraw, draw_jobs, streams, summarise

QUICK = LoadOptions(warm_up=0, grace_s=0.0, min_jobs=1)


def job(number: int = 0, slo_class: str = "answers", **fields: Any) -> JobDraw:
    defaults: dict[str, Any] = {
        "arrival_s": 0.0,
        "items": 1,
        "deadline_s": None,
        "accuracy_floor": None,
        "available": 3,
    }
    return JobDraw(number=number, slo_class=slo_class, **{**defaults, **fields})


def send(
    serve: Any,
    service: Service,
    items: LabelledItems,
    jobs: Sequence[JobDraw],
    *,
    options: LoadOptions = QUICK,
    prepare: Callable[[Any], None] | None = None,
    on_progress: Callable[[Any, int, int], None] | None = None,
) -> tuple[LoadRun, list[Any]]:
    """Run a server and the load in one loop; return the run and what the server saw."""

    async def both() -> tuple[LoadRun, list[Any]]:
        async with serve() as (tiny, endpoint):
            if prepare is not None:
                prepare(tiny)
            run = await send_load(
                jobs,
                service,
                items,
                endpoint,
                contents=streams(1).contents,
                options=options,
                on_progress=None if on_progress is None else lambda sent, done: on_progress(tiny, sent, done),
            )
            return run, tiny.seen

    return asyncio.run(both())


def test_nothing_is_lost_among_answers_refusals_hangs_and_resets(serve, service, items):
    shares = {"answers": 4.0, "refuses": 1.0, "hangs": 1.0, "resets": 1.0, "garbles": 1.0, "breaks": 1.0}
    workload = Workload(
        format=1,
        arrivals=Arrivals(process="poisson", rate_rps=1000, duration_s=0.4),
        classes=shares,
        items=Items(dist="uniform", max=4),
        missing={"second": 0.3},
    )
    jobs = draw_jobs(workload, classes=list(service.classes), index=service.modality_index)
    run, seen = send(serve, service, items, jobs)
    assert [outcome.number for outcome in run.outcomes] == list(range(len(jobs)))
    # a request that nobody answers in time may be given up before the server has read it
    planned_by_class = Counter(planned.slo_class for planned in jobs)
    seen_by_class = Counter(each.slo_class for each in seen)
    assert planned_by_class - seen_by_class <= Counter(hangs=planned_by_class["hangs"])
    expected = {
        "answers": ("answered", ""),
        "refuses": ("refused", "deadline_unreachable"),
        "hangs": ("failed", "timeout"),
        "resets": ("failed", "reset"),
        "garbles": ("failed", "bad_answer"),
        "breaks": ("failed", "http_500"),
    }
    for planned, outcome in zip(jobs, run.outcomes, strict=True):
        status, reason = expected[planned.slo_class]
        assert outcome.status == status
        # an aborted connection is seen as a reset or as an end, as the system has it
        also = {"reset": "closed", "timeout": "connect_timeout"}.get(reason, reason)
        assert outcome.reason in (reason, also)
        assert (outcome.slo_class, outcome.items) == (planned.slo_class, planned.items)
        assert outcome.done_s >= outcome.sent_s
    assert planned_by_class.keys() == expected.keys()
    assert summarise(run.outcomes, 0.4).answered == planned_by_class["answers"]


def test_an_answer_is_read_whole(serve, service, items):
    run, _ = send(serve, service, items, [job(0, items=3), job(1, "json", available=1, accuracy_floor=0.5)])
    first, second = run.outcomes
    assert first.modalities == {"first+second": 3}
    assert first.variants == {"small": 3}
    assert first.expected_accuracy == 0.9
    assert (first.deadline_s, first.accuracy_floor, second.accuracy_floor) == (60.0, 0.8, 0.5)
    assert second.modalities == {"first": 1}
    assert run.queue_s == [0.0015, 0.0015]
    assert run.compute_s == [0.0025, 0.0025]


@pytest.mark.parametrize("slo_class", ["answers", "json"])
def test_every_test_item_is_sent_once_before_any_is_sent_again(serve, service, items, slo_class):
    sizes = [1, 7, 20, 22, 30, 20]  # 50 and 50 items: two rounds
    run, seen = send(serve, service, items, [job(i, slo_class, items=size) for i, size in enumerate(sizes)])
    by_size = [each.inputs["first"][:, 0].astype(int).tolist() for each in seen]
    assert Counter(np.concatenate(by_size).tolist()) == dict.fromkeys(range(50), 2)
    for each in seen:
        assert (each.inputs["second"] == -each.inputs["first"][:, :1]).all()
    assert summarise(run.outcomes, 1.0).served_accuracy == pytest.approx(0.8)
    assert len(run.scores) == 100
    assert Counter(run.score_items.tolist()) == dict.fromkeys(range(50), 2)
    wrong = set(run.score_items[run.scores == 0].tolist())
    assert wrong == set(range(0, 50, 5))


def test_the_same_seed_sends_the_same_requests(serve, service, items):
    jobs = [job(i, items=2) for i in range(5)]

    def bodies() -> list[bytes]:
        _, seen = send(serve, service, items, jobs)
        return sorted(msgspec.json.encode(each.inputs["first"].tolist()) for each in seen)

    assert bodies() == bodies()


def test_a_request_says_what_the_job_asks_for(serve, service, items):
    jobs = [job(0), job(1, deadline_s=0.5, accuracy_floor=0.61, available=2)]
    _, seen = send(serve, service, items, jobs, options=LoadOptions(warm_up=0, min_jobs=1, token="secret"))
    plain, asking = sorted(seen, key=lambda each: len(each.header["parameters"]))
    assert plain.header["parameters"] == {"binary_data_output": True, "poise_class": "answers"}
    assert set(plain.inputs) == {"first", "second"}
    assert asking.header["parameters"]["poise_deadline_ms"] == 500.0
    assert asking.header["parameters"]["poise_accuracy_floor"] == 0.61
    assert set(asking.inputs) == {"second"}
    assert {each.authorization for each in seen} == {"Bearer secret"}


def test_jobs_are_sent_whatever_became_of_those_before(serve, service, items):
    """Open loop: the server answers nothing until it has seen every request."""
    count = 40

    def open_gate(tiny, sent, done):
        if len(tiny.seen) == count:
            tiny.gate.set()

    jobs = [job(i, arrival_s=0.001 * i) for i in range(count)]
    run, _ = send(serve, service, items, jobs, prepare=lambda tiny: tiny.gate.clear(), on_progress=open_gate)
    assert {outcome.status for outcome in run.outcomes} == {"answered"}
    assert run.health.most_in_flight == count
    assert run.health.connections == count


def test_a_job_that_finds_no_free_connection_fails_at_once(serve, service, items):
    def open_gate(tiny, sent, done):
        if done == 4:
            tiny.gate.set()

    run, seen = send(
        serve,
        service,
        items,
        [job(i) for i in range(5)],
        options=LoadOptions(warm_up=0, min_jobs=1, connections=1),
        prepare=lambda tiny: tiny.gate.clear(),
        on_progress=open_gate,
    )
    assert [outcome.reason for outcome in run.outcomes] == ["", *["no_connection"] * 4]
    assert len(seen) == 1
    assert not run.health.valid
    assert "4 jobs found no free connection" in " ".join(run.health.reasons)


def test_connections_are_used_again(serve, service, items):
    """Warm-up requests come one after another; with the check's before and the job's after, all on one."""
    run, seen = send(serve, service, items, [job(0)], options=LoadOptions(warm_up=1, min_jobs=1))
    assert len(seen) == 2
    assert run.health.connections == 1


def test_warm_up_is_not_counted(serve, service, items):
    jobs = [job(i, deadline_s=30.0) for i in range(20)]
    run, seen = send(serve, service, items, jobs, options=LoadOptions(warm_up=5, min_jobs=1))
    assert len(run.outcomes) == run.health.jobs == 20
    assert len(seen) == 25
    assert all("poise_deadline_ms" not in each.header["parameters"] for each in seen[:5])


def test_reasons_that_the_server_names(serve, service, items):
    run, _ = send(serve, service, items, [job(0, "names"), job(1, "short", items=2)])
    assert (run.outcomes[0].status, run.outcomes[0].reason) == ("refused", "floor_unreachable")
    assert (run.outcomes[1].status, run.outcomes[1].reason) == ("failed", "bad_answer")


def test_with_a_metric_of_its_own_nothing_is_scored(serve, service, items):
    own = msgspec.structs.replace(service, metric="python:metric.py:score")
    run, _ = send(serve, own, items, [job(0)])
    assert run.outcomes[0].correct is None
    assert len(run.scores) == 0


def test_no_jobs(serve, service, items):
    run, seen = send(serve, service, items, [])
    assert (run.outcomes, seen) == ([], [])


def test_too_few_jobs_are_not_valid(serve, service, items):
    run, _ = send(serve, service, items, [job(0)], options=LoadOptions(warm_up=0))
    assert not run.health.valid
    assert any(reason.startswith("1 jobs, at least 1000") for reason in run.health.reasons)


def test_the_collector_is_back_after_a_run(serve, service, items):
    send(serve, service, items, [job(0)])
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_server_that_is_not_there(service, items):
    with pytest.raises(ConfigError, match=r"no server answers at http://127\.0\.0\.1:9 \(connect refused\)"):
        run_load([job(0)], service, items, parse_url("127.0.0.1:9"), contents=np.random.default_rng(1))


def test_a_server_that_is_not_ready(serve, service, items):
    def not_ready(tiny):
        tiny.ready_status = 503

    with pytest.raises(ConfigError, match="503 still loading"):
        send(serve, service, items, [job(0)], prepare=not_ready)


def test_a_server_without_the_service(serve, service, items):
    other = msgspec.structs.replace(service, service="other")
    with pytest.raises(ConfigError, match="404"):
        send(serve, other, items, [job(0)])


def test_a_server_that_takes_no_request_ends_the_run(serve, service, items):
    with pytest.raises(ConfigError, match="takes none of the requests; it says: 400 no way to the floor"):
        send(serve, service, items, [job(0, "names")], options=LoadOptions(warm_up=1))


def test_the_report(serve, service, items):
    run, _ = send(serve, service, items, [job(i, items=10) for i in range(10)])
    report = load_report(
        run,
        service="tiny",
        url="http://127.0.0.1",
        seed=1,
        duration_s=1.0,
        floor_scope="class",
        classes=tuple(service.classes),
        rng=np.random.default_rng(1),
    )
    assert report.run.served_accuracy == pytest.approx(0.8)
    interval = report.run.served_accuracy_interval
    assert interval is not None
    assert 0.6 < interval.low < 0.8 < interval.high < 1.0
    assert report.queue_s is not None
    assert report.queue_s.p99 == 0.0015
    assert sum(report.timeline.offered) == 10
    assert msgspec.json.decode(msgspec.json.encode(report), type=type(report)) == report
