import contextlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.errors import InternalError
from poise.serving.messages import (
    CannotStart,
    Done,
    Failed,
    Ready,
    Run,
    Stop,
    decode_from_worker,
    decode_start,
    decode_to_worker,
    encode,
    pack_runs,
    unpack_runs,
)

RUNS = st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 2**12), st.integers(1, 255)), min_size=1)


def items(runs: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
    return [(row, mask) for first, count, mask in runs for row in range(first, first + count)]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=8))
def test_runs_come_back_as_the_same_items(runs):
    packed = pack_runs(runs)
    assert items(unpack_runs(packed)) == items(runs)
    assert len(packed) <= 9 * len(runs)


def test_neighbours_with_one_mask_are_one_run():
    assert list(unpack_runs(pack_runs([(4, 2, 1), (6, 1, 1), (7, 3, 2), (11, 1, 2)]))) == [
        (4, 3, 1),
        (7, 3, 2),
        (11, 1, 2),
    ]


@given(RUNS, st.integers(0, 2**40), st.text(max_size=64))
def test_messages_to_a_worker(runs, batch_id, variant):
    for message in (Run(batch_id, variant, pack_runs(runs)), Stop()):
        assert decode_to_worker(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [Ready(0.5, 10**9), CannotStart("no"), Done(3, (("head", 0.001),)), Failed(3, "raised")],
)
def test_messages_from_a_worker(message):
    assert decode_from_worker(encode(message)) == message


@given(st.binary(max_size=200))
def test_garbage_is_an_internal_error(data):
    for decode in (decode_start, decode_to_worker, decode_from_worker):
        with contextlib.suppress(InternalError):
            decode(data)


def test_a_message_of_the_other_direction_is_refused():
    with pytest.raises(InternalError):
        decode_to_worker(encode(Done(1, ())))
