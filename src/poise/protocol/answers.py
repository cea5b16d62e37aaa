"""An answer as the protocol writes it: a JSON header, and binary tensors behind it where they were asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from poise.domain.job import RefusalReason
from poise.domain.slots import bytes_in
from poise.protocol.codec import ReplyTerms
from poise.protocol.elements import from_bf16, to_bf16, to_bytes
from poise.protocol.wire import VERSION, Array, OutputWire, ServiceWire
from poise.scheduling.commands import Answer

_encoder = msgspec.json.Encoder()


class NotFiniteError(Exception):
    """An output holds what JSON does not have."""

    def __init__(self, output: str) -> None:
        self.output = output
        super().__init__(
            f"output {output!r} holds a NaN, an infinity or bytes that are not UTF-8, which JSON cannot carry: "
            "ask for binary_data"
        )


def encode_answer(
    terms: ReplyTerms,
    answer: Answer,
    outputs: Mapping[str, Array],
    wire: ServiceWire,
    label: Callable[[int], str],
) -> tuple[tuple[bytes | memoryview, ...], int | None]:
    """Return the body in parts, and the length of its JSON where binary tensors follow.

    Raises:
        NotFiniteError: an output asked for in JSON holds what JSON does not have.
    """
    described: list[dict[str, Any]] = []
    binary: list[memoryview] = []
    for name, as_binary in terms.outputs:
        array = outputs[name]
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": wire.outputs[name].datatype,
            "shape": array.shape,
        }
        if as_binary:
            content = to_bytes(array, wire.outputs[name])
            tensor["parameters"] = {"binary_data_size": len(content)}
            binary.append(content)
        else:
            tensor["data"] = _elements(array, wire.outputs[name])
        described.append(tensor)
    header: dict[str, Any] = {"model_name": wire.name, "model_version": VERSION}
    if terms.id:
        header["id"] = terms.id
    header["parameters"] = answer_parameters(answer, label)
    header["outputs"] = described
    text = _encoder.encode(header)
    return (text, *binary), len(text) if binary else None


def _elements(array: Array, spec: OutputWire) -> list[Any]:
    """Return the elements of an output as JSON has them."""
    if spec.datatype == "BYTES":
        try:
            return [value.decode() for value in bytes_in(array).ravel()]
        except UnicodeDecodeError:
            raise NotFiniteError(spec.name) from None
    if spec.datatype == "BF16":
        array = from_bf16(to_bf16(array))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise NotFiniteError(spec.name)
    found: list[Any] = array.ravel().tolist()
    return found


def answer_parameters(answer: Answer, label: Callable[[int], str]) -> dict[str, Any]:
    """Return what an answer says of itself, under the names of the protocol's ``parameters``."""
    parts = sorted(answer.parts, key=lambda part: part.first_item)
    labels = [label(part.modalities) for part in parts for _ in range(part.items)]
    variants = [part.variant for part in parts for _ in range(part.items)]
    parameters: dict[str, Any] = {
        # one for all items, or one for each, as their modality sets
        "poise_variant": variants[0] if len(set(variants)) == 1 else ",".join(variants),
        "poise_modalities": ",".join(labels),
        "poise_accuracy": answer.accuracy,
        "poise_queue_us": round(answer.queue_s * 1e6),
        "poise_compute_us": round(answer.compute_s * 1e6),
    }
    if answer.late:
        parameters["poise_late"] = True
    if answer.below_floor:
        parameters["poise_below_floor"] = True
    return parameters


def encode_error(message: str, reason: RefusalReason | None = None) -> bytes:
    """Return the body of an error; a refusal says its reason in one word beside it, for programs."""
    body = {"error": message}
    if reason is not None:
        body["reason"] = reason.value
    return _encoder.encode(body)


def encode_json(value: Any) -> bytes:
    """Return any other body."""
    return _encoder.encode(value)
