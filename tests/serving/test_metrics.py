"""What a server shows at /metrics: read with Prometheus' own client, added up against what was sent."""

import asyncio
import http.client
import json
import re
import signal
from collections import defaultdict

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.servers import DATATYPES, Server, copy_tiny, json_request, serving
from tests.tiny import TINY

from poise.domain.job import RefusalReason
from poise.files import open_service
from poise.scheduling.commands import Answer, AnswerPart
from poise.scheduling.events import AllocationAdopted, WorkerReady
from poise.serving.cell import Cell
from poise.serving.cell_state import SHOWN_WORKERS
from poise.serving.metrics import metrics_text

LABELS = {
    "poise_build_info": {"version", "python", "onnxruntime"},
    "poise_http_requests": {"route", "code"},
    "poise_arrived_jobs": {"slo_class"},
    "poise_jobs": {"slo_class", "outcome"},
    "poise_refused_jobs": {"reason"},
    "poise_items": {"variant", "modalities"},
    "poise_accuracy_expected_items": {"slo_class"},
    "poise_queue_seconds": {"slo_class"},
    "poise_compute_seconds": {"slo_class"},
    "poise_response_seconds": {"slo_class"},
    "poise_batch_seconds": {"variant"},
    "poise_batch_items": set(),
    "poise_workers": {"state"},
    "poise_workers_lost": set(),
    "poise_accuracy_floor_ratio": {"slo_class"},
    "poise_accuracy_balance_items": {"slo_class"},
    "poise_accuracy_balance_cap_items": {"slo_class"},
    "poise_plan_workers": {"resident", "batch_cap"},
    "poise_calibration_ratio": {"worker"},
    "poise_calibration_overhead_seconds": {"worker"},
    "poise_calibration_stage_ratio": {"worker", "variant", "stage"},
    "process_resident_memory_bytes": set(),
    "process_cpu_seconds": set(),
    "process_open_fds": set(),
}
"""Of the families that dashboards rest on, the labels; those of a histogram without ``le``."""


def parsed(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def scraped(server: Server) -> dict[str, Metric]:
    status, headers, body = server.request("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    return parsed(body.decode())


def sums(family: Metric, *labels: str) -> dict[tuple[str, ...], float]:
    """The values added up by some of the labels; of a histogram its counts."""
    found: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for sample in family.samples:
        if sample.name.removesuffix("_total") == family.name or sample.name.endswith("_count"):
            found[tuple(sample.labels[label] for label in labels)] += sample.value
    return found


@pytest.fixture(scope="module")
def used(tmp_path_factory, arrays):
    """A server of scope class, the families before and after some requests, and what was sent."""
    service = copy_tiny(tmp_path_factory.mktemp("services") / "tiny")
    file = service / "service.yaml"
    file.write_text(file.read_text().replace("{scope: job}", "{scope: class, credit_items: 40}"))
    with serving(service) as server:
        before = scraped(server)
        for _ in range(30):
            assert server.post(json_request(arrays, tuple(DATATYPES), 2))[0] == 200
        bulk = {"poise_class": "bulk"}
        assert server.post(json_request(arrays, ("pixels", "wave"), 3, parameters=bulk))[0] == 200
        refused = {"poise_class": "bulk", "poise_deadline_ms": 0.001}
        assert server.post(json_request(arrays, tuple(DATATYPES), 1, parameters=refused))[0] == 504
        assert server.request("GET", "/nowhere")[0] == 404
        assert server.request("GET", "/v2/models/tiny/infer")[0] == 405
        yield server, before, scraped(server)


def test_every_family_has_its_labels_and_a_name_by_the_rules(used):
    _, _, after = used
    for name, labels in LABELS.items():
        assert name in after, sorted(after)
        assert after[name].samples, name
        for sample in after[name].samples:
            assert set(sample.labels) - {"le"} == labels, sample
    for family in after.values():
        assert re.fullmatch(r"(poise|process)_[a-z_]+", family.name)
        assert family.documentation.endswith((".", "overhead")), family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total"), sample
            assert re.search(r"_(ms|us|milliseconds|kb|mb|percent)(_|$)", sample.name) is None
            # bounded: a client's words are never a label
            assert all(len(value) <= 40 for value in sample.labels.values()), sample
        keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(set(keys)) == len(keys), family.name


def test_arrivals_are_outcomes(used):
    _, _, after = used
    assert sums(after["poise_arrived_jobs"], "slo_class") == {("interactive",): 30, ("bulk",): 2}
    assert sums(after["poise_arrived_items"], "slo_class") == {("interactive",): 60, ("bulk",): 4}
    jobs = sums(after["poise_jobs"], "slo_class", "outcome")
    assert {series: count for series, count in jobs.items() if count} == {
        ("interactive", "answered"): 30,
        ("bulk", "answered"): 1,
        ("bulk", "refused"): 1,
    }
    refused = sums(after["poise_refused_jobs"], "reason")
    assert {reason: count for reason, count in refused.items() if count} == {("deadline_unreachable",): 1}


def test_items_by_mode_and_by_class_add_up(used):
    _, _, after = used
    assert sum(sums(after["poise_items"], "variant", "modalities").values()) == 63
    assert sums(after["poise_answered_items"], "slo_class") == {("interactive",): 60, ("bulk",): 3}
    expected = sums(after["poise_accuracy_expected_items"], "slo_class")
    profile = open_service(TINY).load_profile()
    accuracies = [mode.accuracy for variant in profile.variants for mode in variant.modes]
    assert 60 * min(accuracies) <= expected["interactive",] <= 60 * max(accuracies)


def test_times_are_counted_by_class_and_variant(used):
    _, _, after = used
    for name in ("poise_queue_seconds", "poise_compute_seconds", "poise_response_seconds"):
        assert sums(after[name], "slo_class") == {("interactive",): 30, ("bulk",): 1}
    batches = sums(after["poise_batch_seconds"], "variant")
    assert sum(batches.values()) == sums(after["poise_batch_items"])[()]
    assert set(batches) <= {("late",), ("whole",)}


def test_the_ledger_is_what_was_earned_and_at_most_its_cap(used):
    _, before, after = used
    cap = sums(after["poise_accuracy_balance_cap_items"], "slo_class")
    assert cap == {("interactive",): pytest.approx(16.0), ("bulk",): pytest.approx(20.0)}
    assert sums(before["poise_accuracy_balance_items"], "slo_class") == {("interactive",): 0, ("bulk",): 0}
    balance = sums(after["poise_accuracy_balance_items"], "slo_class")
    assert balance["interactive",] == pytest.approx(16.0)  # 60 items, each far above the floor: the cap
    earned = sums(after["poise_accuracy_expected_items"], "slo_class")["bulk",] - 3 * 0.5
    assert balance["bulk",] == pytest.approx(earned)


def test_workers_plan_and_calibration(used):
    _, _, after = used
    states = sums(after["poise_workers"], "state")
    assert states["idle",] + states["busy",] == 2
    assert sums(after["poise_workers_started"])[()] == 2
    assert sums(after["poise_plan_workers"], "resident") == {("late+whole",): 2}
    assert len(after["poise_calibration_ratio"].samples) == 2
    assert all(0 < sample.value <= 8 for sample in after["poise_calibration_stage_ratio"].samples)


def test_http_requests_by_route_and_status(used):
    _, before, after = used
    counts = sums(after["poise_http_requests"], "route", "code")
    infer = "/v2/models/{model}/infer"
    assert counts == {
        (infer, "200"): 31,
        (infer, "504"): 1,
        ("", "404"): 1,
        ("", "405"): 1,
        ("/metrics", "200"): 1,
    }
    assert sums(after["poise_http_connections"])[()] == 1  # that of the scrape
    opened = (
        sums(after["poise_http_connections_opened"])[()] - sums(before["poise_http_connections_opened"])[()]
    )
    assert opened == 30 + 2 + 2 + 1
    assert sums(after["poise_http_connections_refused"])[()] == 0


def test_the_process_is_the_servers_own(used):
    _, _, after = used
    assert sums(after["process_open_fds"])[()] > 3
    assert 10e6 < sums(after["process_resident_memory_bytes"])[()] < 10e9
    assert sums(after["process_cpu_seconds"])[()] > 0


def test_a_lost_worker_and_a_client_that_left_are_counted(tmp_path, arrays):
    with serving(copy_tiny(tmp_path / "tiny", workers=1)) as server:
        worker = server.workers()[0]
        worker.send_signal(signal.SIGKILL)
        server.wait_until(lambda: server.metric("poise_workers_lost_total") == 1)
        server.wait_until(lambda: server.metric("poise_workers_started_total") == 2)
        worker = server.workers()[0]
        worker.send_signal(signal.SIGSTOP)
        client = http.client.HTTPConnection(server.address)
        body = json.dumps(json_request(arrays, tuple(DATATYPES), 1))
        client.request("POST", "/v2/models/tiny/infer", body)
        server.wait_until(lambda: server.metric("poise_queue_jobs") == 1)
        client.close()
        gone = 'poise_http_requests_total{code="499",route="/v2/models/{model}/infer"}'
        server.wait_until(lambda: server.metric(gone) == 1)
        worker.send_signal(signal.SIGCONT)
        server.wait_until(lambda: server.metric('poise_refused_jobs_total{reason="cancelled"}') == 1)


def test_a_plan_is_shown_by_kind_and_share_and_few_workers_one_by_one():
    async def text() -> str:
        folder = open_service(TINY)
        cell = Cell(folder, folder.load_profile())
        for number in range(SHOWN_WORKERS + 5):
            cap_s = 0.025 if number % 2 else None
            cell.tell(WorkerReady(1.0, number, ("late", "whole"), batch_cap_s=cap_s))
        cell.tell(AllocationAdopted(2.0, {"bulk": {"late": 3.0, "whole": 1.0}}))
        found = metrics_text({"tiny": cell.metrics}).decode()
        await cell.stop()
        return found

    after = parsed(asyncio.run(text()))
    half = (SHOWN_WORKERS + 5) // 2
    resident = "late+whole"
    assert sums(after["poise_plan_workers"], "resident", "batch_cap") == {
        (resident, ""): half + 1,
        (resident, "0.025"): half,
    }
    assert sums(after["poise_plan_share_ratio"], "slo_class", "variant") == {
        ("bulk", "late"): 0.75,
        ("bulk", "whole"): 0.25,
    }
    assert len(after["poise_calibration_ratio"].samples) == SHOWN_WORKERS


def test_several_services_have_a_label_and_each_family_one_head():
    async def text() -> str:
        folder = open_service(TINY)
        cells = {name: Cell(folder, folder.load_profile()) for name in ("one", "two")}
        for cell in cells.values():
            cell.metrics.arrived("bulk", 2)
        answer = Answer(1, (AnswerPart(0, 2, 7, "late"),), 0.75, 0.0, 0.1, late=True, below_floor=True)
        cells["two"].metrics.answered("bulk", 2, answer)
        found = metrics_text({name: cell.metrics for name, cell in cells.items()}).decode()
        for cell in cells.values():
            await cell.stop()
        return found

    shown = asyncio.run(text())
    assert len(re.findall("^# TYPE poise_jobs_total ", shown, re.MULTILINE)) == 1
    after = parsed(shown)
    assert sums(after["poise_arrived_jobs"], "service", "slo_class")["one", "bulk"] == 1
    jobs = sums(after["poise_jobs"], "service", "slo_class", "outcome")
    assert {series: count for series, count in jobs.items() if count} == {("two", "bulk", "late"): 1}
    outcomes = {(name, outcome) for _, name, outcome in jobs}
    assert {outcome for name, outcome in outcomes if name == "interactive"} == {
        *("answered", "late", "refused", "failed")
    }, "every series is there before its first job"
    refused = sums(after["poise_refused_jobs"], "service", "reason")
    assert refused == {(service, reason.value): 0 for service in ("one", "two") for reason in RefusalReason}
    assert sums(after["poise_late_jobs"], "service") == {("one",): 0, ("two",): 1}
    assert sums(after["poise_below_floor_jobs"], "service") == {("one",): 0, ("two",): 1}
    expected = sums(after["poise_accuracy_expected_items"], "service", "slo_class")
    assert expected["two", "bulk"] == pytest.approx(1.5)
