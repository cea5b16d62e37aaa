"""A client's last request, for the next one: most clients send the same JSON again, before other binary tensors."""

from __future__ import annotations

import re

import msgspec
import numpy as np

from poise.protocol.codec import Body, decode_id, decode_infer
from poise.protocol.requests import InferRequest, InferTensor
from poise.protocol.wire import InputWire, ServiceWire

REMEMBERED_BYTES = 2 * 2**10
"""Longer JSON is decoded anew each time."""
TRIES = 8
"""Of a client that sent something else so often, only one request in so many is remembered: most is for nothing."""
CONVERTED = frozenset(("BF16", "BOOL", "BYTES"))
"""Datatypes whose elements are not used as they came: much of them takes long, in memory of their own."""

_PLAIN = rb"[0-9A-Za-z_.:/+-]{1,100}"  # an id that JSON writes as it is
_PLAIN_ID = re.compile(_PLAIN)
_GIVEN_ID = re.compile(rb'"id"\s*:\s*"(' + _PLAIN + rb')"')
_PROBE = b"~"

_Place = tuple[InputWire, int, int, tuple[int, ...]]


class _Layout(msgspec.Struct, frozen=True):
    """A request that was in order.

    ``before`` and ``behind``: its JSON around its id, which differs from request to request; all of it is ``before``
    where it has none that can be told. ``places``: where its tensors lie behind the JSON (count, offset in bytes,
    shape), ``size`` bytes in all. ``lengths``: tensors that follow from the JSON alone, each one number for all items.
    ``request``: the rest of it. Nothing here grows with the items: it is kept for as long as the connection is.
    """

    before: bytes
    behind: bytes
    wire: ServiceWire
    places: tuple[_Place, ...]
    size: int
    lengths: tuple[tuple[InputWire, int], ...]
    request: InferRequest

    def read(self, body: memoryview, header_length: int, wire: ServiceWire) -> InferRequest | None:
        """Return the request in a body, if it is of this layout."""
        if wire is not self.wire or len(body) - header_length != self.size:
            return None
        text = bytes(body[:header_length])
        reply = self.request.reply
        if not self.behind:
            if text != self.before:
                return None
        elif text.startswith(self.before) and text.endswith(self.behind):
            request_id = text[len(self.before) : len(text) - len(self.behind)]
            if not _PLAIN_ID.fullmatch(request_id):
                return None
            reply = msgspec.structs.replace(reply, id=request_id.decode("ascii"))
        else:
            return None
        tensors = [
            InferTensor(spec, np.frombuffer(body, spec.dtype, count, header_length + offset).reshape(shape))
            for spec, count, offset, shape in self.places
        ]
        items = self.request.items
        tensors += [InferTensor(spec, np.full(items, length, spec.dtype)) for spec, length in self.lengths]
        return msgspec.structs.replace(self.request, tensors=tuple(tensors), reply=reply)


class Layouts:
    """Decodes the requests of one client. The same JSON, held against the same service, says the same."""

    __slots__ = ("_last", "_missed")

    def __init__(self) -> None:
        self._last: _Layout | None = None
        self._missed = 0

    def decode(
        self, body: Body, header_length: int | None, wire: ServiceWire, *, json_depth: int, most_tensors: int
    ) -> InferRequest:
        """Return the request in a body, as ``decode_infer`` does, with the same limits each time.

        Raises:
            RequestError: as ``decode_infer``.
        """
        view = memoryview(body)
        brief = -1 if header_length is None or header_length > REMEMBERED_BYTES else header_length
        if self._last is not None and 0 <= brief <= len(view):
            found = self._last.read(view, brief, wire)
            if found is not None:
                self._missed = 0
                return found
        request = decode_infer(view, header_length, wire, json_depth=json_depth, most_tensors=most_tensors)
        if brief >= 0:
            self._missed += 1
            if self._missed <= TRIES or self._missed % TRIES == 0:
                self._last = _layout_of(view, brief, wire, request)
        return request


def _layout_of(
    body: memoryview, header_length: int, wire: ServiceWire, request: InferRequest
) -> _Layout | None:
    """Return the layout of a request, if all its tensors are views of the body, one after another."""
    places: list[_Place] = []
    lengths: list[tuple[InputWire, int]] = []
    size = 0
    for tensor in request.tensors:
        spec, array = tensor.wire, tensor.array
        if spec.name not in wire.inputs:
            lengths.append((spec, int(array[0])))
            continue
        if spec.datatype in CONVERTED:
            return None
        places.append((spec, array.size, size, array.shape))
        size += array.nbytes
    if header_length + size != len(body):  # some of them are in the JSON
        return None
    before, behind = _around_id(bytes(body[:header_length]), request.reply.id)
    return _Layout(
        before=before,
        behind=behind,
        wire=wire,
        places=tuple(places),
        size=size,
        lengths=tuple(lengths),
        request=msgspec.structs.replace(request, tensors=()),
    )


def _around_id(text: bytes, request_id: str | None) -> tuple[bytes, bytes]:
    """Return a request's JSON before and behind its id; all of it and nothing, where that is in doubt.

    What stands there is the id if it says the same, and another in its place is the id then: text in quotes, without a
    backslash, changes nothing else of what JSON says.
    """
    given = _GIVEN_ID.search(text)
    if given is not None and given[1].decode() == request_id:
        before, behind = text[: given.start(1)], text[given.end(1) :]
        if decode_id(before + _PROBE + behind) == _PROBE.decode():
            return before, behind
    return text, b""
