"""Compressed bodies: what they become is counted before it is there, and given back."""

import asyncio
import gzip
import zlib
from typing import Any

import numpy as np
import pytest

from poise.errors import MalformedRequestError, QueueFullError, RequestError, TooLargeError
from poise.ingress.decoding import LARGE_JSON_BYTES, LargeJson
from poise.ingress.inflating import STEP_BYTES, Inflating, Share
from poise.protocol.compression import Inflater, deflate, inflate

LIMIT = 64 * 2**20


class Budget:
    """What all bodies may have at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = self.most = 0

    def take_body(self, size: int) -> bool:
        if self.taken + size > self.size:
            return False
        self.taken += size
        self.most = max(self.most, self.taken)
        return True

    def give_body(self, size: int) -> None:
        self.taken -= size


def content_of(size: int) -> bytes:
    rng = np.random.default_rng(size)
    return (rng.bytes(size // 2) + bytes(size))[:size]


@pytest.mark.parametrize("size", [0, 1, 1000, LARGE_JSON_BYTES, LARGE_JSON_BYTES + 1, 3 * STEP_BYTES + 7])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_was_compressed_comes_back_and_is_counted(size: int, encoding: Any):
    content = content_of(size)
    budget = Budget(LIMIT)

    async def run() -> None:
        share = Share(budget)
        body = deflate(encoding, content)
        found = await Inflating(LargeJson()).inflated(encoding, body, LIMIT, share)
        assert bytes(found) == content
        assert budget.taken == size
        share.shrink()
        assert budget.taken == 0

    asyncio.run(run())


def test_bombs_are_refused_before_they_are_there(monkeypatch: pytest.MonkeyPatch):
    bomb = gzip.compress(bytes(8 * STEP_BYTES))
    small = gzip.compress(b"{}")
    budget = Budget(20 * STEP_BYTES)
    inflated = [0]
    piece = Inflater.piece

    def counted(self: Inflater, most: int) -> bytes:
        found = piece(self, most)
        inflated[0] += len(found)
        return found

    monkeypatch.setattr(Inflater, "piece", counted)

    async def run() -> None:
        inflating = Inflating(LargeJson())
        shares = [Share(budget) for _ in range(30)]

        async def one(share: Share) -> Any:
            try:
                return await inflating.inflated("gzip", bomb, LIMIT, share)
            except RequestError:
                share.shrink()
                raise

        found = await asyncio.gather(*map(one, shares), return_exceptions=True)
        refused = [each for each in found if isinstance(each, QueueFullError)]
        assert len(refused) >= 28  # 20 steps are too few for three of eight
        assert len(refused) + sum(isinstance(each, memoryview) for each in found) == 30
        assert inflated[0] < 100 * STEP_BYTES  # of 240
        for share in shares:
            share.shrink()
        assert budget.taken == 0
        assert budget.most <= budget.size
        share = Share(budget)
        assert bytes(await inflating.inflated("gzip", small, LIMIT, share)) == b"{}"

    asyncio.run(run())


def test_a_client_that_leaves_meanwhile_gives_back_what_it_had():
    budget = Budget(LIMIT)

    async def run() -> None:
        share = Share(budget)
        bomb = gzip.compress(bytes(16 * STEP_BYTES))
        task = asyncio.ensure_future(Inflating(LargeJson()).inflated("gzip", bomb, LIMIT, share))
        while budget.taken < 2 * STEP_BYTES:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        share.shrink()
        assert budget.taken == 0

    asyncio.run(run())


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("most", [1, 7, 1000, 10**6])
def test_pieces_are_the_whole(encoding: Any, most: int):
    content = content_of(3000)
    inflater = Inflater(encoding, deflate(encoding, content), 3000)
    pieces = []
    while not inflater.complete:
        pieces.append(inflater.piece(most))
        assert len(pieces[-1]) <= most
    assert b"".join(pieces) == content


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [10, 300_000])
def test_bodies_that_are_not_whole_or_too_large(encoding: Any, size: int):
    content = content_of(size)
    body = deflate(encoding, content)
    assert inflate(encoding, body, size) == content
    with pytest.raises(TooLargeError, match=f"more than {size - 1} bytes"):
        inflate(encoding, body, size - 1)
    for cut in (body[:-1], body[: len(body) // 2]):
        with pytest.raises(MalformedRequestError, match="cut short"):
            inflate(encoding, cut, size)
    with pytest.raises(MalformedRequestError, match="follows"):
        inflate(encoding, body + b"x", size)
    with pytest.raises(MalformedRequestError, match="damaged"):
        inflate(encoding, body[:-4] + bytes(each ^ 255 for each in body[-4:]), size)
    bare = zlib.compressobj(wbits=-15)
    assert inflate("deflate", bare.compress(content) + bare.flush(), size) == content
