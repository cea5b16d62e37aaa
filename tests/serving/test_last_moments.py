"""What comes in the very moment in which a server begins, changes or ends."""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.faults.servers import CODES, item, serving_with, write_faulty
from tests.servers import POISE, copy_endless
from tests.serving.test_ending import SOLVES

ONE = json.dumps(item(1.0)).encode()


def slow_files(call: int, seconds: float) -> str:
    """Code that has the service's files take so long to be read at one of its calls."""
    return f"""
import sys, time
import poise.cli.serve as serve
inner, calls = serve.opened_services, []
def slow(paths):
    calls.append(1)
    if len(calls) == {call}:
        print("reading", file=sys.stderr, flush=True)
        time.sleep({seconds})
    return inner(paths)
serve.opened_services = slow
"""


def test_a_replaced_deployment_is_stopped_with_the_server(tmp_path: Path) -> None:
    recording = tmp_path / "recording.jsonl"
    service = write_faulty(tmp_path / "faulty")
    with (
        serving_with(service, "--record", str(recording)) as server,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        for _ in range(20):
            assert server.post(ONE)[0] == 200
        endless = json.dumps(item(float(CODES["sleeps_for_ever"]))).encode()
        waits = pool.submit(server.post, endless)
        server.wait_until(lambda: server.metric("poise_queue_jobs") == 1)
        assert server.request("POST", "/v2/poise/reload")[0] == 200
        server.process.terminate()
        server.wait_until(lambda: "draining" in server.log())
        server.process.terminate()
        assert waits.result()[0] == 503
        assert server.process.wait(60) == 1
    assert recording.read_bytes().count(b"\n") > 20


@pytest.mark.parametrize("signals", [1, 2])
def test_a_reload_that_reads_for_ever_keeps_no_server_from_ending(tmp_path: Path, signals: int) -> None:
    service = write_faulty(tmp_path / "faulty")
    with serving_with(service, before=slow_files(2, 600)) as server:
        server.process.send_signal(signal.SIGHUP)
        server.wait_until(lambda: "reading" in server.log())
        for _ in range(signals):
            server.process.terminate()
        assert server.process.wait(60) in ((0,) if signals == 1 else (0, 1))
        assert "Traceback" not in server.log()


def test_a_start_that_reads_for_ever_ends_when_it_is_told_to(tmp_path: Path) -> None:
    code = f"{slow_files(1, 600)}\nfrom poise.cli.main import main\nmain()"
    command = [sys.executable, "-c", code, "serve", str(write_faulty(tmp_path / "faulty")), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as starting:
        assert starting.stderr is not None
        assert starting.stderr.readline() == "reading\n"
        starting.terminate()
        assert starting.wait(60) == 0
        assert starting.stderr.read() == "stopped; every accepted job was answered\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_after_the_last_job_changes_nothing(tmp_path: Path, number: signal.Signals) -> None:
    closed = """
import sys, time
from poise.serving.ending import Signals
inner = Signals.close
def close(self):
    inner(self)
    print("closed", file=sys.stderr, flush=True)
    time.sleep(1)
Signals.close = close
"""
    with serving_with(write_faulty(tmp_path / "faulty"), before=closed) as server:
        server.process.terminate()
        server.wait_until(lambda: "closed" in server.log())
        server.process.send_signal(number)
        assert server.process.wait(60) == 0


@pytest.mark.parametrize("of", ["ingress", "emulated"])
def test_ctrl_c_reaches_children_that_have_only_begun(tmp_path: Path, of: str) -> None:
    """A terminal sends it to all of them, and Python raises KeyboardInterrupt until something else is said."""
    emulated = of == "emulated"
    service = copy_endless(tmp_path / "tiny") if emulated else write_faulty(tmp_path / "faulty")
    more = [] if emulated else ["--ingress", "1"]
    for later_s in (0.0, 0.05, 0.1, 0.2):
        # a shell's background is without SIGINT
        command = ["env", "--default-signal=INT", *POISE, "serve", str(service), "--port", "0", *more]
        with (
            (tmp_path / "stderr").open("w+") as errors,
            subprocess.Popen(command, stdout=errors, stderr=errors, start_new_session=True) as server,
        ):
            process = psutil.Process(server.pid)
            while server.poll() is None and not process.children():
                pass
            try:
                server.wait(later_s)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGINT)
            assert server.wait(60) == 0
            errors.seek(0)
            assert "Traceback" not in errors.read()


def test_a_worker_whose_model_has_a_thread_of_its_own_ends_as_others_do(tmp_path: Path) -> None:
    service = write_faulty(tmp_path / "faulty")
    model = (service / "mine.py").read_text()
    (service / "mine.py").write_text(f"{model}\n{SOLVES}")
    told = """
import sys
from poise.serving.pool import WorkerPool
inner = WorkerPool._exited
def exited(self, worker, status):
    print("a worker's status:", status, file=sys.stderr, flush=True)
    inner(self, worker, status)
WorkerPool._exited = exited
"""
    with serving_with(service, before=told) as server:
        assert server.post(ONE)[0] == 200
        assert server.terminate() == 0
        assert "a worker's status: 0" in server.log()
        assert "terminate called" not in server.log()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_process_whose_streams_were_closed_before_it_began_ends_as_others_do(stream: str) -> None:
    code = (
        "import sys, threading\n"
        "from poise.ingress.child_end import leave\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        f"assert sys.{stream} is None\n"
        "leave(3)\n"
    )
    number = {"stdout": 1, "stderr": 2}[stream]
    ended = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {number}>&-', sys.executable, code], check=False)
    assert ended.returncode == 3
