"""Damaged messages to a server over gRPC, and bytes that are hardly HTTP/2."""

import contextlib
import socket
from collections import Counter
from typing import Any

import grpc
import numpy as np
from tests.fuzz.damage import DATATYPES, SETS, SHAPES, SIZES, Damage
from tests.fuzz.http import FoundError

from poise.ingress.grpc_methods import SERVICE
from poise.protocol import inference_pb2 as pb

FORBIDDEN = frozenset({grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
AT_ONCE = 32
WAIT_S = 30.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes.fromhex("000000040000000000")
HEADERS = bytes.fromhex("00000a010500000001") + b"\x83\x86\x84\x41\x05hello"


def fuzz_grpc(address: str, calls: int, seed: int) -> Counter[str]:
    """Make so many calls; return how often each status came back.

    Raises:
        FoundError: a status that no client may bring about.
    """
    damage = Damage(np.random.default_rng(seed))
    statuses: Counter[str] = Counter()
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(address, options) as channel:
        opened: Any = channel
        stubs = {name: opened.unary_unary(f"/{SERVICE}/{name}") for name in [*METHODS, "Nothing"]}
        left = calls
        while left > 0:
            sent = [call_of(damage) for _ in range(min(AT_ONCE, left))]
            left -= len(sent)
            waiting = [(stubs[name].future(data, timeout=WAIT_S), name, data) for name, data in sent]
            for future, name, data in waiting:
                code = future.code()
                internal = code is grpc.StatusCode.INTERNAL and name != "ModelInfer"
                if code in FORBIDDEN or internal or future.details() == "internal error":
                    raise FoundError(f"{code} {future.details()} from {name}", [data])
                statuses[code.name] += 1
    return statuses


def fuzz_http2(address: str, connections: int, seed: int) -> int:
    """Open so many connections and send what is hardly HTTP/2; return how many the server ended."""
    damage = Damage(np.random.default_rng(seed))
    host, _, port = address.rpartition(":")
    ended = 0
    for _ in range(connections):
        data = PREFACE + SETTINGS + b"".join(frame(damage) for _ in range(3))
        with (
            socket.create_connection((host, int(port)), WAIT_S) as client,
            contextlib.suppress(ConnectionError),
        ):
            client.sendall(damage.damaged(data) if damage.chance(0.7) else damage.some_bytes(300))
            client.shutdown(socket.SHUT_WR)
            while client.recv(2**16):
                pass
            ended += 1
    return ended


def frame(damage: Damage) -> bytes:
    """A frame with a length that is true, of any type, with any flags, on any of the first streams."""
    if damage.chance(0.3):
        return HEADERS
    payload = damage.some_bytes(60)
    head = [0, 0, len(payload), int(damage.rng.integers(12)), int(damage.rng.integers(256)), 0, 0, 0]
    return bytes([*head, int(damage.rng.integers(4))]) + payload


def call_of(damage: Damage) -> tuple[str, bytes]:
    """A method and a message that it may be meant for."""
    if damage.chance(0.15):
        return damage.one_of([*METHODS, "Nothing"]), damage.some_bytes(100)
    if damage.chance(0.1):
        return damage.one_of([name for name in METHODS if name != "ModelInfer"]), damage.damaged(
            b"\n\x04tiny\x12\x011"
        )
    message = pb.ModelInferRequest(model_name="tiny")
    names = damage.one_of(SETS)
    items = int(damage.rng.integers(1, 4))
    raw = damage.chance(0.5)
    for name in names:
        shape = [items, *SHAPES[name]]
        if damage.chance(0.1):
            shape[int(damage.rng.integers(len(shape)))] = damage.one_of(
                (0, -1, 2**31, 2**63 - 1, -(2**63), 5)
            )
        tensor = message.inputs.add(name=name, datatype=DATATYPES[name], shape=shape)
        if raw:
            message.raw_input_contents.append(damage.rng.bytes(items * SIZES[name]))
        else:
            count = items * int(np.prod(SHAPES[name]))
            numbers = damage.rng.integers(0, 9, count).tolist()
            contents = {"UINT8": "uint_contents", "INT64": "int64_contents", "FP32": "fp32_contents"}
            getattr(tensor.contents, contents[DATATYPES[name]]).extend(numbers)
    if damage.chance(0.3):
        message.parameters["timeout"].int64_param = damage.one_of((0, 1, -1, 2**63 - 1))
        message.parameters["poise_class"].string_param = damage.one_of(("bulk", "interactive", "", "x"))
        message.parameters["poise_accuracy_floor"].double_param = damage.one_of(
            (0.5, float("nan"), -1.0, 1e308)
        )
    data = message.SerializeToString()
    return "ModelInfer", damage.damaged(data) if damage.chance(0.8) else data
