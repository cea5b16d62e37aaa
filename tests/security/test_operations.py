"""What the server reads and does beside requests: files, names, processes, errors. Named in ``guards.py``."""

import ast
import asyncio
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from tests.security.target import StubGate, attacked, infer, request, wave
from tests.servers import serving, tiny
from tests.tiny import TINY

import poise
from poise.domain.service import Modality, Service, TensorSpec, Variant
from poise.errors import ConfigError, WorkerError
from poise.files import open_service
from poise.files.arrays import load_labelled
from poise.ingress.gate import Answered, PendingJob
from poise.serving.arena import Arena, plan_layout

__all__ = ["tiny"]

SOURCE = Path(poise.__file__).parent
# multiprocessing pickles what it sends, and names the memory that it shares
PICKLES = frozenset(
    ("multiprocessing", "pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle")
)
FETCHERS = frozenset(("urllib.request", "http.client", "requests", "httpx", "aiohttp", "ftplib", "urllib3"))
NEVER = ("torch.jit.load", "eval", "exec")
LOADERS = ("np.load", "numpy.load", "torch.load", *NEVER)
CLIENT_SIDE = ("cli", "client", "load")
"""Packages that are run by whoever asks, not by the server."""
SENDERS = ("telemetry/otel.py",)
"""Sends spans to where the operator says, and reads nothing."""


def imports(package: Path) -> Iterator[tuple[Path, str]]:
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield file, alias.name
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield file, node.module
                for alias in node.names:
                    yield file, f"{node.module}.{alias.name}"


def calls(package: Path) -> Iterator[tuple[Path, str, dict[str, str]]]:
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = dotted(node.func)
                if name in LOADERS:
                    yield (
                        file,
                        name,
                        {each.arg: ast.unparse(each.value) for each in node.keywords if each.arg},
                    )


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def check_no_pickle(package: Path) -> None:
    assert [(file, name) for file, name in imports(package) if name.split(".")[0] in PICKLES] == []
    for file, name, arguments in calls(package):
        if name in ("np.load", "numpy.load"):
            assert arguments.get("allow_pickle") == "False", file
        if name == "torch.load":
            assert arguments.get("weights_only") == "True", file
        assert name not in NEVER, f"{name} in {file}"


def check_no_fetching(package: Path) -> None:
    for file, name in imports(package):
        inner = file.relative_to(package)
        if inner.parts[0] not in CLIENT_SIDE and inner.as_posix() not in SENDERS:
            assert name not in FETCHERS, f"{file} imports {name}"


def test_nothing_is_unpickled():
    check_no_pickle(SOURCE)


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from dill import load",
        "np.load(file)",
        "np.load(f, allow_pickle=True)",
        "torch.load(f)",
    ],
)
def test_a_pickle_would_be_found(tmp_path, text):
    (tmp_path / "module.py").write_text(text)
    with pytest.raises(AssertionError):
        check_no_pickle(tmp_path)


def test_the_server_fetches_nothing():
    check_no_fetching(SOURCE)


def test_a_fetching_import_would_be_found(tmp_path):
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "module.py").write_text("from urllib import request")
    with pytest.raises(AssertionError):
        check_no_fetching(tmp_path)


def test_arrays_with_pickles_in_them_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    np.savez(tmp_path / "evil.npz", x=np.array([Evil()], dtype=object))
    with pytest.raises(ConfigError):
        load_labelled(tmp_path / "evil.npz", open_service(TINY).service)
    assert not (tmp_path / "pwned").exists()


def named(name: str) -> Service:
    spec = TensorSpec(datatype="FP32", shape=(1,))
    return Service(
        format=1,
        service=name,
        modalities={"all": Modality(inputs={"x": spec})},
        outputs={"y": spec},
        variants={"paper": Variant(runtime="emulated")},
    )


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", "a\n", "ä", "a" * 65, "a\x00", "a%2fb", "{a}"])
def test_names_are_of_a_strict_pattern(name):
    with pytest.raises(ValueError):
        named(name)
    assert named("a-b_c.1").service == "a-b_c.1"


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "a/../../outside", "link", "folder/inner"])
def test_no_path_leaves_the_services_folder(tmp_path, path):
    (tmp_path / "outside").write_text("secret")
    folder = tmp_path / "service"
    folder.mkdir()
    (folder / "service.yaml").write_text((TINY / "service.yaml").read_text())
    (folder / "a").mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "inner").write_text("secret")
    (folder / "folder").symlink_to(tmp_path / "elsewhere")
    opened = open_service(folder)
    with pytest.raises(ConfigError):
        opened.resolve(path, "field")
    assert opened.resolve("service.yaml", "field") == folder / "service.yaml"


def test_an_error_of_ours_says_nothing_of_it(caplog):
    class Broken(StubGate):
        def admit(self, request):
            raise WorkerError("the password is swordfish")

    with attacked(gate=Broken()) as target:
        code, _, body = target.ask(infer(wave()))
        assert (code, msgspec.json.decode(body)) == (500, {"error": "internal error"})
        assert "swordfish" in caplog.text
        assert target.ask(request())[0] == 200


@pytest.mark.parametrize("accepts", [[], ["Accept-Encoding: gzip"]])
def test_an_answer_that_cannot_be_written_keeps_nobody_waiting(accepts):
    class Late(StubGate):
        def admit(self, request):
            pending = super().admit(request)
            assert isinstance(pending, PendingJob)
            outcome, pending.outcome = pending.outcome, None
            assert isinstance(outcome, Answered)
            broken = Answered(outcome.answer, {})  # an output is not there
            asyncio.get_running_loop().call_soon(pending.settle, broken)
            return pending

    with attacked(gate=Late()) as target:
        client = target.connect()
        client.send(infer(wave(), *accepts) + infer(wave(), *accepts))
        assert [client.reply()[0] for _ in range(2)] == [500, 500]


def test_the_arena_is_nobody_elses():
    arena = Arena.create(plan_layout(open_service(TINY).service))
    try:
        assert stat.S_IMODE(os.fstat(arena.fd).st_mode) == 0o600
        assert os.fstat(arena.fd).st_nlink == 0, "it has no name that another could open"
        assert not os.get_inheritable(arena.fd)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        assert fcntl.fcntl(arena.fd, fcntl.F_GET_SEALS) & seals == seals
        for size in (0, arena.layout.size_bytes + 4096):
            with pytest.raises(PermissionError):
                os.ftruncate(arena.fd, size)
    finally:
        arena.close()


def mapped(pid: int) -> set[str]:
    """The inodes of the arenas that a process has mapped."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return set()
    return {line.split()[4] for line in lines if "memfd:poise-arena" in line}


@pytest.mark.slow
def test_the_arena_is_gone_with_a_server_that_is_killed(tiny):
    before = set(Path("/dev/shm").iterdir())
    with serving(tiny) as server:
        workers = server.workers()
        inodes = mapped(server.process.pid)
        assert inodes
        assert all(inodes & mapped(worker.pid) for worker in workers)
        assert set(Path("/dev/shm").iterdir()) <= before, "it has no name"
        server.process.kill()
        server.process.wait(60)
        assert psutil.wait_procs(workers, 60)[1] == []
    assert not any(inodes & mapped(pid) for pid in psutil.pids())
    assert set(Path("/dev/shm").iterdir()) <= before
