"""The JSON process: decodes requests and encodes answers that are too large for the event loop, one at a time.

Run as ``python -m poise.ingress.decoding_process CONTROL START`` by ``poise.ingress.decoding``; both are file
descriptors. Each packet comes with the file of a room (``json_room``). It runs at low priority: what it does takes as
long as it takes, and must not take a core from those who answer.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import sys
from collections.abc import Callable, Sequence

from poise.errors import InternalError, MalformedRequestError, TooLargeError
from poise.ingress.child_end import (
    MAX_PACKET_BYTES,
    die_with_parent,
    leave,
    leave_signals_to_the_server,
)
from poise.ingress.json_room import (
    SLACK_BYTES,
    Broken,
    Decode,
    Decoded,
    Encode,
    Encoded,
    Malformed,
    NotFinite,
    Outcome,
    Place,
    PlacedTensor,
    Told,
    TooLarge,
    aligned,
    array_at,
    decode_told,
    encode_told,
    put,
    take_order,
)
from poise.protocol.answers import NotFiniteError, encode_answer
from poise.protocol.codec import decode_infer
from poise.protocol.requests import InferTensor

NICENESS = 10


def main(arguments: list[str]) -> int:
    """Carry orders out until the server is gone."""
    control_fd, start_fd = (int(argument) for argument in arguments)
    os.close(start_fd)  # there is nothing to know beforehand
    leave_signals_to_the_server()
    die_with_parent()
    os.nice(NICENESS)
    serve(socket.socket(fileno=control_fd))
    return 0


def serve(control: socket.socket) -> None:
    """Carry orders out until nobody is at the other end."""
    give_back = _allocator_gives_back()
    while True:
        data, fds, _, _ = socket.recv_fds(control, MAX_PACKET_BYTES, 1)
        if not data:
            return
        told = decode_told(data)
        (fd,) = fds
        place = carried_out(_room(fd), told.place)
        control.send(encode_told(Told(told.number, place)))
        give_back()


def _room(fd: int) -> mmap.mmap:
    try:
        return mmap.mmap(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def carried_out(room: mmap.mmap, place: Place) -> Place:
    """Carry an order out; return where in the room it is said what became of it."""
    order = take_order(room, place)
    free = order.free
    try:
        found, free = _decoded(room, order) if isinstance(order, Decode) else _encoded(room, order)
    except MalformedRequestError as error:
        found = Malformed(error.message)
    except TooLargeError as error:
        found = TooLarge(error.message)
    except NotFiniteError as error:
        found = NotFinite(error.output)
    except Exception as error:
        # Whatever it is, it is this request's: the process lives on for the others.
        found = Broken(f"{type(error).__name__}: {error}")
    return put(room, free, found)


def _decoded(room: mmap.mmap, order: Decode) -> tuple[Outcome, int]:
    request = decode_infer(
        memoryview(room)[: order.body_bytes],
        order.header_length,
        order.wire,
        json_depth=order.json_depth,
        most_tensors=order.most_tensors,
    )
    tensors, free = _placed(room, request.tensors, order.free)
    found = Decoded(
        items=request.items,
        available=request.available,
        tensors=tensors,
        slo_class=request.slo_class,
        deadline_s=request.deadline_s,
        accuracy_floor=request.accuracy_floor,
        priority=request.priority,
        reply=request.reply,
    )
    return found, free


def _placed(
    room: mmap.mmap, tensors: Sequence[InferTensor], free: int
) -> tuple[tuple[PlacedTensor, ...], int]:
    placed = []
    for tensor in tensors:
        free = aligned(free)
        if tensor.wire.datatype == "BYTES" and free + tensor.array.nbytes > len(room) - SLACK_BYTES:
            raise TooLargeError(
                f"input {tensor.wire.name!r}: got too many short elements in large JSON, expected binary data"
            )
        array_at(room, free, tensor.array.shape, tensor.array.dtype)[...] = tensor.array
        placed.append(PlacedTensor(tensor.wire, free, tensor.array.shape))
        free += tensor.array.nbytes
    return tuple(placed), free


def _encoded(room: mmap.mmap, order: Encode) -> tuple[Outcome, int]:
    wire = order.wire
    outputs = {
        placed.name: array_at(room, placed.at, placed.shape, wire.outputs[placed.name].dtype)
        for placed in order.outputs
    }
    (text, *_), _ = encode_answer(order.terms, order.answer, outputs, wire, order.labels.__getitem__)
    end = order.free + len(text)
    if end > len(room):
        raise InternalError(f"{len(text)} bytes of JSON do not fit into a room of {len(room)}")
    room[order.free : end] = text
    return Encoded(Place(order.free, len(text))), end


def _allocator_gives_back() -> Callable[[], object]:
    """Return what gives memory that is free back to the system, where the C library knows how."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return (lambda: None) if trim is None else (lambda: trim(0))


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
