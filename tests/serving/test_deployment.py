"""The parts of a deployment: its memory, its cores, how its first workers load, and what it differs by."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.servers import copy_tiny
from tests.serving.test_adapted_server import emulated_service, opened
from tests.serving.test_reload import STATIC, edit

from poise.domain.allocation import Workers
from poise.errors import ConfigError, ConflictError, WorkerError
from poise.runtimes.cores import usable_cores
from poise.serving import deployment
from poise.serving.changes import changed_services, words_for_clients, words_of
from poise.serving.deployment import Opened, check_memory, shares_of
from poise.serving.keeper import StaticKeeper
from poise.serving.starting import all_or_none


class Cell:
    """Notes how workers are asked for."""

    def __init__(self) -> None:
        self.at_idle: list[bool] = []

    def load_worker(
        self, worker_id: int, kind: Workers, cores: tuple[int, ...], *, at_idle: bool = False
    ) -> None:
        self.at_idle.append(at_idle)

    def activate_worker(self, worker_id: int, kind: Workers, cores: tuple[int, ...]) -> None: ...
    def retire_worker(self, worker_id: int) -> None: ...
    def end_worker(self, worker_id: int) -> None: ...


@pytest.mark.parametrize("beside", [False, True])
def test_the_first_workers_beside_others_load_at_idle_priority(tiny, beside):
    async def started() -> list[bool]:
        cell, service = Cell(), opened(tiny)
        keeper = StaticKeeper(cell, service.folder, service.profile, (0, 1), at_idle=beside)
        starting = asyncio.ensure_future(keeper.start())
        await asyncio.sleep(0)
        for worker_id, seat in enumerate(keeper.seats, 1):
            keeper.loaded(worker_id, seat.kind, 0.1)
        await starting
        keeper.seats[0].pause_s = 0.0
        keeper.gone(1, "killed", loaded=True)
        while len(cell.at_idle) < 3:
            await asyncio.sleep(0)
        return cell.at_idle

    # one that is started again has nobody to wait for
    assert asyncio.run(started()) == [beside, beside, False]


def test_one_that_is_lost_as_the_last_has_loaded_is_started_again(tiny):
    """Its last word and its end may come in one turn of the event loop, before anybody hears that all are there."""

    async def asked() -> int:
        cell, service = Cell(), opened(tiny)
        keeper = StaticKeeper(cell, service.folder, service.profile, (0, 1))
        starting = asyncio.ensure_future(keeper.start())
        await asyncio.sleep(0)
        for worker_id, seat in enumerate(keeper.seats, 1):
            seat.pause_s = 0.0
            keeper.loaded(worker_id, seat.kind, 0.1)
        keeper.gone(2, "killed", loaded=True)
        keeper.gone(1, "killed", loaded=True)
        await starting
        while len(cell.at_idle) < 4:
            await asyncio.sleep(0)
        return keeper.states()["starting"]

    assert asyncio.run(asked()) == 2


def test_what_starts_together_is_ended_together():
    async def whole() -> None:
        ended = asyncio.Event()

        async def waits() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async def fails() -> None:
            await asyncio.sleep(0)
            raise WorkerError("no worker")

        with pytest.raises(WorkerError):
            await all_or_none([waits(), fails()])
        assert ended.is_set()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(whole())


def test_workers_that_find_no_memory_beside_the_others_are_refused(tiny, tmp_path, monkeypatch):
    service = opened(tiny)
    needed = sum(variant.memory_bytes for variant in service.profile.variants) * 2
    monkeypatch.setattr(deployment, "memory_left_bytes", lambda: needed)
    check_memory([service], None)
    monkeypatch.setattr(deployment, "memory_left_bytes", lambda: needed - 1)
    with pytest.raises(ConflictError, match=r"the new workers need \d+ MB beside those that answer"):
        check_memory([service], None)
    check_memory([opened(emulated_service(tmp_path / "emulated", STATIC))], None)


def test_services_that_stand_alone_share_the_cores():
    cores = usable_cores()
    assert shares_of(["only"]) == {"only": cores}
    both = shares_of(["one", "two"])
    assert set(both["one"]) | set(both["two"]) == set(cores)
    if len(cores) > 1:
        assert not set(both["one"]) & set(both["two"])
    assert all(shares_of([str(number) for number in range(100)]).values())


def hashed(service: Path) -> Opened:
    found = opened(service)
    return replace(found, files=found.folder.file_hashes())


def test_what_differs_is_named(tmp_path):
    service = copy_tiny(tmp_path / "tiny")
    before = hashed(service)
    assert changed_services([before], [hashed(service)]) == {}
    edit(service, "budget: {cores: 2", "budget: {cores: 1")
    (service / "late/head.onnx").write_bytes(b"other")
    after = hashed(service)
    assert changed_services([before], [after]) == {"tiny": ("budget", "late/head.onnx")}
    profile = replace(after.profile, device=replace(after.profile.device, cpu="another"))
    assert changed_services([after], [replace(after, profile=profile)]) == {"tiny": ("profile",)}
    assert changed_services([], [after]) == {"tiny": ("added",)}
    assert changed_services([after], []) == {"tiny": ("removed",)}
    assert words_of({"a": ("b", "c"), "d": ("e",)}) == "a: b, c; d: e"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ConfigError(
                "got 'onx'", file="service.yaml", line=12, field="variants.a.runtime", expected="onnx"
            ),
            "service.yaml:12: variants.a.runtime: got 'onx', expected onnx",
        ),
        (
            ConfigError("got 1", field="otel_endpoint", expected="http://HOST:PORT of a collector"),
            "otel_endpoint: got 1, expected http://HOST:PORT of a collector",
        ),
        (
            ConfigError("no service file at '/srv/secret/tiny'", expected="a folder"),
            "no service file at: the log says more",
        ),
        (
            ConfigError("cannot be read: No such file", file="/etc/poise/key.pem"),
            "key.pem: cannot be read: No such file",
        ),
        (
            ConfigError("/srv/tiny: cannot be read"),
            "it cannot be served: the log says more",
        ),
        (
            WorkerError(
                "a worker cannot start: a.onnx: variants.a.head: not what ONNX Runtime can load: INVALID"
            ),
            "a worker cannot start: a.onnx: variants.a.head: the log says more",
        ),
        (ConflictError("no service 'a' any more"), "no service 'a' any more"),
    ],
)
def test_clients_read_neither_where_files_lie_nor_what_libraries_say(error, words):
    assert words_for_clients(error) == words
