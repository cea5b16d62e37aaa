"""Large tensors go into their rows a slice at a time, and come out the same; who is cut short leaves no row behind."""

import asyncio

import msgspec
import numpy as np
import pytest
from tests.tiny import TINY

from poise.domain.job import RefusalReason
from poise.files import open_service
from poise.ingress.gate import PendingJob, Refused
from poise.protocol.requests import InferRequest, InferTensor, ReplyTerms
from poise.protocol.wire import InputWire
from poise.serving.arena import RowAllocator
from poise.serving.cell import Cell
from poise.serving.intake import copy_in, slowly_copy_all_in, slowly_copy_in

ROWS = 12


def tensor_of(shape: tuple[int, ...], free: int | None, items: int, length: int) -> InferTensor:
    actual = tuple(length if axis == free else size for axis, size in enumerate(shape))
    declared = tuple(-1 if axis == free else size for axis, size in enumerate(shape))
    dtype = np.dtype(np.float32)
    longest = 0 if free is None else shape[free]
    wire = InputWire("x", "x", 1, "FP32", dtype, declared, free, longest)
    array = np.random.default_rng(items).random((items, *actual)).astype(dtype)
    return InferTensor(wire, array)


@pytest.mark.parametrize(
    ("shape", "free", "length"),
    [
        ((4,), None, 0),
        ((300_000,), None, 0),
        ((1000, 200), None, 0),
        ((1000, 200), 0, 700),
        ((1000, 200), 1, 3),
        ((1000, 200), 0, 1000),
        ((2, 400_000), 1, 399_999),
    ],
)
def test_slices_hold_what_one_copy_does(shape: tuple[int, ...], free: int | None, length: int) -> None:
    tensor = tensor_of(shape, free, 5, length)
    at_once, slowly = np.ones((2, ROWS, *shape), np.float32)
    copy_in(at_once, 3, tensor)
    asyncio.run(slowly_copy_in(slowly, 3, tensor))
    np.testing.assert_array_equal(slowly, at_once)


def test_a_copy_that_is_given_up_frees_its_rows() -> None:
    tensor = tensor_of((1000, 200), None, 5, 0)
    rows = RowAllocator(ROWS)
    first = rows.take(5)
    assert first is not None
    request = request_of((tensor,), 5)

    async def run() -> None:
        arena = {"x": np.zeros((ROWS, 1000, 200), np.float32)}
        copying = asyncio.ensure_future(slowly_copy_all_in(arena, rows, first, request))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert rows.used == 5
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying

    asyncio.run(run())
    assert rows.used == 0


def request_of(tensors: tuple[InferTensor, ...], items: int) -> InferRequest:
    return InferRequest(
        items=items,
        available=7,
        tensors=tensors,
        slo_class="bulk",
        deadline_s=60.0,
        accuracy_floor=0.0,
        priority=0,
        reply=ReplyTerms(None, (), own_terms=False),
    )


@pytest.mark.parametrize("end", ["drain", "stop", None])
def test_a_cell_that_drains_meanwhile_refuses(end: str | None) -> None:
    """No job is accepted after the drain began, and none is left waiting for ever."""

    async def run() -> None:
        folder = open_service(TINY)
        whole = msgspec.structs.replace(
            folder.service, scheduler=msgspec.structs.replace(folder.service.scheduler, queue_items=500_000)
        )
        folder = msgspec.structs.replace(folder, service=whole)
        cell = Cell(folder, folder.load_profile(), arena_bytes=64 * 2**20)
        cell.started = True
        wire = cell.wire
        items = 200_000
        pixels = InferTensor(wire.inputs["pixels"], np.zeros((items, 2, 3), np.uint8))
        wave = InferTensor(wire.inputs["wave"], np.zeros((items, 4), np.float32))
        request = request_of((pixels, wave), items)
        assert cell.rows.capacity >= items
        entering = asyncio.ensure_future(cell.admit_in_slices(request))
        await asyncio.sleep(0)
        assert not entering.done()
        assert cell.rows.used == items
        if end == "drain":
            cell.drain()
        elif end == "stop":
            await cell.stop()
        found = await entering
        if end is None:
            assert isinstance(found, PendingJob)
            assert found.outcome == Refused(RefusalReason.NO_WORKER, "no worker is ready")
        else:
            assert isinstance(found, Refused)
            assert found.reason is RefusalReason.DRAINING
        assert cell.rows.used == 0
        assert not cell._jobs
        if end != "stop":
            await cell.stop()

    asyncio.run(run())
