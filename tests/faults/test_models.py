"""Models that raise, answer nonsense, take all memory, never return or end their process: each costs its own job."""

import concurrent.futures
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.servers import CODES, Traffic, item, serving_with, workers_of, write_faulty
from tests.servers import Server

SHORT_PATIENCE = "import poise.serving.batches as batches; batches.HUNG_AFTER_S = 5.0"
GOOD_BEFORE, GOOD_AFTER = 5, 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One worker; one that keeps a batch for five seconds is taken for hung."""
    service = write_faulty(tmp_path_factory.mktemp("faulty") / "faulty")
    with serving_with(service, before=SHORT_PATIENCE) as running:
        yield running


def among_good_ones(server: Server, code: int, *, lethal: bool = False) -> tuple[int, dict]:
    """Post a bad item among good ones; all those are answered, and the bad one's reply is returned.

    ``lethal``: it ends the only worker, and what comes before the next one is there is told so at the door.
    """
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        early = [pool.submit(server.post, item(float(i))) for i in range(GOOD_BEFORE)]
        bad = pool.submit(server.post, item(float(code)))
        late = [pool.submit(server.post, item(float(i))) for i in range(GOOD_AFTER)]
        for i, good in [*enumerate(early), *enumerate(late)]:
            status, answer = good.result()
            if lethal and status == 503:
                assert answer["reason"] == "no_worker"
                continue
            assert status == 200, answer
            assert answer["outputs"][0]["data"] == [2.0 * i, 2.0, 4.0, 6.0]
        return bad.result()


@pytest.mark.parametrize("fault", ["raises", "has_a_wrong_shape", "allocates"])
def test_a_model_that_fails_fails_its_own_job(server: Server, fault: str) -> None:
    (before,) = workers_of(server)
    status, answer = among_good_ones(server, CODES[fault])
    assert (status, answer["reason"]) == (500, "model_failed")
    assert "ValueError" not in answer["error"]  # detail is for the log
    (after,) = workers_of(server)
    assert after.pid == before.pid  # and the worker lives on


def test_an_answer_that_is_no_number_is_not_sent_as_json(server: Server) -> None:
    status, answer = server.post(item(float(CODES["is_not_a_number"])))
    assert status == 400  # whoever sends what makes a NaN, and asks for JSON, has no 5xx for it
    assert "output 'y' holds a NaN" in answer["error"]
    binary = {**item(float(CODES["is_not_a_number"])), "parameters": {"binary_data_output": True}}
    status = server.request("POST", "/v2/models/faulty/infer", json.dumps(binary).encode())[0]
    assert status == 200  # whoever asks for bytes gets the model's


@pytest.mark.parametrize("fault", ["kills_itself", "allocates_until_killed"])
def test_a_job_that_ends_two_workers_is_refused_and_ends_no_third(server: Server, fault: str) -> None:
    killers = server.metric('poise_refused_jobs_total{reason="worker_killer"}')
    lost = server.metric("poise_workers_lost_total")
    status, answer = among_good_ones(server, CODES[fault], lethal=True)
    assert (status, answer["reason"]) == (500, "worker_killer")
    assert server.metric('poise_refused_jobs_total{reason="worker_killer"}') == killers + 1
    server.wait_until(lambda: server.metric('poise_workers{state="starting"}') == 0)
    for i in range(10):
        assert server.post(item(float(i)))[0] == 200
    assert server.metric("poise_workers_lost_total") == lost + 2


def test_a_model_that_never_returns_is_ended_with_its_worker(server: Server) -> None:
    lost = server.metric("poise_workers_lost_total")
    status, answer = among_good_ones(server, CODES["sleeps_for_ever"], lethal=True)
    assert (status, answer["reason"]) == (500, "worker_killer")
    assert server.metric("poise_workers_lost_total") == lost + 2
    assert "hangs on batch" in server.log()


@pytest.mark.slow
def test_a_worker_that_is_stopped_under_load_costs_no_job(tmp_path: Path) -> None:
    service = write_faulty(tmp_path / "faulty", workers=2)
    with serving_with(service, before=SHORT_PATIENCE) as server:
        stopped = workers_of(server)[0]
        traffic = Traffic(server.url, "faulty", lambda number: json.dumps(item(number % 100)).encode())

        def stop() -> None:
            stopped.suspend()
            server.wait_until(lambda: not stopped.is_running())

        traffic.run(100, 3, stop)
        assert not traffic.lost
        assert traffic.statuses == {"200": traffic.sent}
        assert server.terminate() == 0
