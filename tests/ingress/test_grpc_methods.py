"""How gRPC's requests get to a gate: small ones at once, large ones without keeping others waiting."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from tests.servers import DATATYPES
from tests.tiny import TINY

from poise.domain.job import RefusalReason
from poise.errors import ForbiddenError
from poise.files import open_service
from poise.ingress.gate import Gate, Gates, Refused
from poise.ingress.grpc_methods import INLINE_BYTES, LARGE_BYTES, CallError, GrpcMethods
from poise.ingress.guard import EVERYBODY, Identity
from poise.ingress.limits import Limits
from poise.protocol import inference_pb2 as pb
from poise.protocol.codec import InferRequest
from poise.protocol.wire import ServiceWire, wire_of

WIRE = wire_of(open_service(TINY).service, 1_000_000)
SHAPES = {"pixels": (2, 3), "wave": (4,), "letters": (2,), "length": (1,)}


class FakeGate:
    """Refuses everything, and tells what it was asked."""

    def __init__(self, wire: ServiceWire = WIRE, reason: RefusalReason = RefusalReason.QUEUE_FULL) -> None:
        self.wire = wire
        self.reason = reason
        self.asked: list[tuple[str, InferRequest]] = []
        self.on_ask: Callable[[], object] = int

    def admit(self, request: InferRequest) -> Refused:
        self.asked.append(("at once", request))
        return Refused(self.reason, "")

    async def admit_in_slices(self, request: InferRequest) -> Refused:
        self.asked.append(("in slices", request))
        self.on_ask()
        return Refused(self.reason, "")


def gates_of(gate: FakeGate) -> Gates:
    return Gates({"tiny": cast(Gate, gate)})


def message_of(items: int, *, typed: bool = False) -> tuple[bytes, dict[str, np.ndarray]]:
    rng = np.random.default_rng(items)
    message = pb.ModelInferRequest(model_name="tiny")
    arrays = {}
    for name, shape in SHAPES.items():
        array = arrays[name] = rng.integers(0, 200, (items, *shape)).astype(WIRE.inputs[name].dtype)
        tensor = message.inputs.add(name=name, datatype=DATATYPES[name], shape=array.shape)
        if typed:
            field = {"UINT8": "uint_contents", "INT64": "int64_contents"}.get(
                DATATYPES[name], "fp32_contents"
            )
            getattr(tensor.contents, field).extend(array.ravel().tolist())
        else:
            message.raw_input_contents.append(array.tobytes())
    return message.SerializeToString(), arrays


def infer(
    gates: Gates, message: bytes, remaining_s: float | None = None, identity: Identity = EVERYBODY
) -> CallError:
    async def whole() -> Any:
        method = GrpcMethods(gates, Limits(), (), None).table()["ModelInfer"]
        return await (await method(identity, message, remaining_s))

    with pytest.raises(CallError) as caught:
        asyncio.run(whole())
    return caught.value


@pytest.mark.parametrize(
    ("items", "typed", "way"),
    [
        (10, False, "at once"),
        (3000, False, "at once"),
        (30_000, False, "in slices"),
        (1000, True, "at once"),
        (5000, True, "in slices"),
    ],
)
def test_large_requests_are_taken_in_slices(items, typed, way):
    gate = FakeGate()
    message, arrays = message_of(items, typed=typed)
    assert (len(message) > (INLINE_BYTES if typed else LARGE_BYTES)) == (way == "in slices")
    assert infer(gates_of(gate), message).reason is RefusalReason.QUEUE_FULL
    ((how, request),) = gate.asked
    assert how == way
    for tensor in request.tensors:
        np.testing.assert_array_equal(tensor.array, arrays[tensor.wire.name])


@pytest.mark.parametrize("items", [10, 30_000])
def test_the_clients_deadline_counts_from_when_the_message_was_there(items):
    gate = FakeGate()
    infer(gates_of(gate), message_of(items)[0], 0.05)
    assert 0 < gate.asked[0][1].deadline_s <= 0.05
    infer(gates_of(gate), message_of(items)[0], 0.0)
    assert 0 < gate.asked[1][1].deadline_s <= 1e-6


@pytest.mark.parametrize("items", [10, 30_000])
def test_a_token_is_bound_to_its_classes(items):
    gate = FakeGate()

    async def whole() -> None:
        method = GrpcMethods(gates_of(gate), Limits(), (), None).table()["ModelInfer"]
        with pytest.raises(ForbiddenError, match="interactive"):
            await method(Identity("a", frozenset({"bulk"})), message_of(items)[0], None)

    asyncio.run(whole())
    assert not gate.asked


def test_a_reload_meanwhile_leads_to_the_gate_that_takes_jobs():
    old, new = FakeGate(reason=RefusalReason.DRAINING), FakeGate()
    gates = gates_of(old)
    old.on_ask = lambda: gates.replace({"tiny": cast(Gate, new)})
    assert infer(gates, message_of(30_000)[0]).reason is RefusalReason.QUEUE_FULL
    assert [len(gate.asked) for gate in (old, new)] == [1, 1]


def test_a_reload_that_changes_the_service_has_the_request_read_anew():
    smaller = msgspec.structs.replace(WIRE, max_items=20_000)
    old, new = FakeGate(), FakeGate(smaller)

    class Changing(Gates):
        def get(self, name: str) -> Gate | None:
            found = super().get(name)
            gates.replace({"tiny": cast(Gate, new)})
            return found

    gates = Changing({"tiny": cast(Gate, old)})
    with pytest.raises(Exception, match="got 30000 items, expected at most 20000"):
        infer(gates, message_of(30_000)[0])
    assert not old.asked
