"""``poise serve`` with an adapter, as a user starts it: real sockets, real or emulated workers, a history to read."""

import concurrent.futures
import contextlib
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.servers import DATATYPES, POISE, Server, copy_tiny, json_request, serving
from tests.tiny import copy_of_tiny

from poise.cli.serve import adapting_of
from poise.errors import ConfigError
from poise.files import open_service
from poise.files.history import HistoryReader, history_path
from poise.runtimes.cores import usable_cores
from poise.scheduling.events import AllocationAdopted, WorkerReady, WorkerRetiring
from poise.scheduling.log import decode_log
from poise.serving.deployment import Configuration, Opened
from poise.serving.server import ServerSettings, run_server
from poise.simulation.replay import replay

EMULATED = """
budget: {cores: 12, memory: 2GB}
adapter: {policy: poise, interval_s: 1, forecaster: {kind: last-max}}
"""


def emulated_service(target: Path, more: str = EMULATED, name: str = "tiny") -> Path:
    """A service of one emulated variant with a budget beyond any machine of the tests."""
    copy_of_tiny(target)
    text = (target / "emulated.yaml").read_text()
    text = re.sub(r"budget: .*\n", "", text)
    text = re.sub(r"latency_slo_ms: \d+", "latency_slo_ms: 60000", text)
    text = text.replace("service: tiny", f"service: {name}")
    (target / "service.yaml").write_text(text + more)
    profile = target / "emulated_profile.json"
    profile.write_text(profile.read_text().replace('"service": "tiny"', f'"service": "{name}"'))
    return target


def reader(service: Path) -> contextlib.closing[HistoryReader]:
    return contextlib.closing(HistoryReader(history_path(service / "service.yaml")))


def asked(server: Server, arrays: dict[str, np.ndarray], count: int) -> list[int]:
    request = json_request(arrays, tuple(DATATYPES))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return [status for status, _ in pool.map(lambda _: server.post(request), range(count))]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory, arrays) -> tuple[Path, Path]:
    """The service and the log of a server that adapted for some seconds, then stopped."""
    folder = tmp_path_factory.mktemp("adapted")
    service, log = emulated_service(folder / "tiny"), folder / "log.jsonl"
    with serving(service, "--record", str(log)) as server:
        children = server.workers()
        assert len(children) == 1  # all emulated workers share a process
        assert server.metric("poise_cores_in_use") > len(psutil.Process().cpu_affinity() or ())
        before = server.metric('poise_decisions_total{outcome="adopted",reason="start"}')
        assert before <= 1

        def parked() -> bool:
            assert set(asked(server, arrays, 8)) == {200}
            return server.metric('poise_workers{state="standby"}') > 0

        server.wait_until(parked)
        assert server.metric("poise_adapter_faults_total") == 0
        assert server.metric("poise_solver_failures_total") == 0
        assert server.metric("poise_solve_seconds_count") > 0
        assert server.metric("poise_plan_age_seconds") < 60
        # while the server runs, its history can be read
        asking = [*POISE, "history", str(service), "--json"]
        shown = subprocess.run(asking, capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(shown.stdout)[0]["policy"] == "poise"
        assert server.terminate() == 0
    return service, log


def test_the_history_tells_what_was_decided_and_done(emulated):
    service, _ = emulated
    with reader(service) as kept:
        decisions = [each.decision for each in kept.decisions(1000)]
        assert decisions[0].reason == "start"
        assert any(decision.outcome == "adopted" and decision.parks for decision in decisions)
        changes = {change.what for change in kept.changes(0, 1e12)}
        assert {"loading", "loaded", "active", "parked"} <= changes
        jobs = sum(second.jobs for second in kept.seconds(1000))
        met = sum(second.met for second in kept.seconds(1000))
        assert jobs >= met > 0


def test_the_scheduler_of_an_adapted_server_replays(emulated):
    _, log = emulated
    with log.open("rb") as lines:
        header, entries = decode_log(lines, log.name)
        report = replay(header, entries)
    assert report.differing == ()
    with log.open("rb") as lines:
        happened = {type(event) for event, _ in decode_log(lines)[1]}
    assert {WorkerReady, WorkerRetiring, AllocationAdopted} <= happened


def test_a_restarted_server_remembers_the_load(emulated):
    service, _ = emulated
    with reader(service) as kept:
        known = len(kept.rates().rates)
        last = kept.decisions(1)[0].id
    assert known > 0
    with serving(service) as server:
        server.wait_until(lambda: server.metric("poise_solve_seconds_count") > 0)
        assert server.terminate() == 0
    with reader(service) as kept:
        assert len(kept.rates().rates) > known
        first = kept.decision(last + 1)
        assert first is not None
        assert first.decision.reason == "start"


@pytest.mark.parametrize("spoil", ["corrupt", pytest.param("elsewhere", marks=pytest.mark.slow)])
def test_a_server_goes_on_without_its_history(tmp_path, arrays, spoil):
    service = emulated_service(tmp_path / "tiny")
    options: tuple[str, ...] = ()
    if spoil == "corrupt":
        history_path(service / "service.yaml").write_bytes(b"this was never a database" * 400)
        words = "is set aside as service.history.sqlite.aside-1"
    else:
        options = ("--history", str(tmp_path / "no" / "folder.sqlite"))
        words = "unable to open database file; serving goes on"
    with serving(service, *options) as server:
        assert set(asked(server, arrays, 8)) == {200}
        server.wait_until(lambda: words in server.log())
        assert server.terminate() == 0


@pytest.mark.slow
def test_a_lost_host_is_a_loss_of_all_its_workers_and_they_come_back(tmp_path, arrays):
    with serving(emulated_service(tmp_path / "tiny")) as server:
        (host,) = server.workers()
        host.kill()
        server.wait_until(lambda: [child.pid for child in server.workers()] not in ([], [host.pid]))
        server.wait_until(lambda: asked(server, arrays, 1) == [200])
        assert server.metric("poise_adapter_faults_total") == 0


def test_two_services_share_one_budget(tmp_path, arrays):
    more = EMULATED.replace("interval_s: 1", "interval_s: 5")
    one = emulated_service(tmp_path / "one", more, "one")
    two = emulated_service(tmp_path / "two", more, "two")
    with serving(one, str(two), "--cores", "6") as server:
        for name in ("one", "two"):
            server.service = name
            assert set(asked(server, arrays, 5)) == {200}
            answered = f'poise_jobs_total{{outcome="answered",service="{name}",slo_class="interactive"}}'
            assert server.metric(answered) == 5
        models = json.loads(server.request("GET", "/v2")[2])["models"]
        assert models == ["one", "two"]
        server.service = "three"
        status, answer = server.post(json_request(arrays, tuple(DATATYPES)))
        assert (status, answer["error"]) == (404, "no model 'three', expected one or two")
        server.wait_until(lambda: server.metric('poise_solve_seconds_count{service="one"}') > 0)
        assert server.metric('poise_adapter_faults_total{service="one"}') == 0
        assert server.metric('poise_cores_in_use{service="one"}') <= 6
        assert server.terminate() == 0
    with reader(one) as kept:
        decision = kept.decisions(1)[0].decision
        assert {"one/interactive", "two/interactive"} <= decision.planned_rps.keys()
        services = {second.service for second in kept.seconds(100)}
        assert services == {"one", "two"}


@pytest.mark.slow
def test_real_workers_adapt(tmp_path, arrays):
    service = copy_tiny(tmp_path / "tiny")
    file = service / "service.yaml"
    file.write_text(
        file.read_text() + "adapter: {policy: poise, interval_s: 1, forecaster: {kind: last-max}}\n"
    )
    with serving(service) as server:
        assert set(asked(server, arrays, 40)) == {200}
        before = {child.pid for child in server.workers()}
        victim = server.workers()[0]
        victim.kill()
        server.wait_until(lambda: {child.pid for child in server.workers()} - before != set())
        assert set(asked(server, arrays, 40)) == {200}
        assert server.metric("poise_adapter_faults_total") == 0
        assert server.terminate() == 0
    with reader(service) as kept:
        assert "lost" in {change.what for change in kept.changes(0, 1e12)}


@pytest.mark.parametrize(
    ("policy", "cores", "words"),
    [
        ("nonsense", None, r"adapter.policy: got 'nonsense', expected one of static, poise, infadapter"),
        ("static", 3, "--cores: got 3, expected an adapter"),
    ],
)
def test_what_cannot_be_adapted_is_the_operators_error(tmp_path, policy, cores, words):
    with pytest.raises(ConfigError, match=words):
        adapting_of([opened(emulated_service(tmp_path / "tiny"))], policy, cores, None)


def test_a_policy_for_one_service_is_refused_for_two(tmp_path):
    two = [opened(emulated_service(tmp_path / name, name=name)) for name in ("one", "two")]
    with pytest.raises(ConfigError, match="got 'infadapter' for 2 services"):
        adapting_of(two, "infadapter", None, None)


@pytest.fixture
def signals_restored() -> Iterator[None]:
    """A server takes the signals of its process for good."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_services_of_one_name_are_refused(tmp_path, signals_restored):
    one = opened(emulated_service(tmp_path / "tiny"))
    with pytest.raises(ConfigError, match="got service 'tiny' twice"):
        run_server(lambda closed: Configuration((one, one)), ServerSettings(port=0), lambda listening: None)


def test_real_workers_get_no_more_cores_than_there_are(tmp_path):
    service = copy_tiny(tmp_path / "tiny", workers=1000)
    found = adapting_of([opened(service)], "poise", None, None)
    assert found is not None
    assert sum(workers.cores for workers in found.initial) <= len(usable_cores())
    emulated = adapting_of([opened(emulated_service(tmp_path / "emulated"))], "poise", 500, None)
    assert emulated is not None
    assert sum(workers.cores for workers in emulated.initial) == 500


def opened(service: Path) -> Opened:
    folder = open_service(service)
    return Opened(folder, folder.load_profile())
