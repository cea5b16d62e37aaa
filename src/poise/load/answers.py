"""What a server answered: read from its response, and scored against labels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.domain.datatypes import NUMPY_TYPE
from poise.domain.job import RefusalReason
from poise.domain.service import Service
from poise.load.connections import Reply
from poise.protocol.elements import from_bf16

_REFUSED = {429: "queue_full", 503: "not_ready", 504: "deadline_unreachable"}
"""Status -> reason, where the body does not name one."""
_FAULTS = frozenset(
    {
        RefusalReason.MODEL_FAILED,
        RefusalReason.WORKER_KILLER,
        RefusalReason.WORKER_LOST,
        RefusalReason.CANCELLED,
    }
)
_REASONS = frozenset(RefusalReason) - _FAULTS
"""What a server decides; faults are failures."""


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Response(msgspec.Struct):
    parameters: dict[str, Any] = {}
    outputs: list[_Output] = []


class _Error(msgspec.Struct):
    error: str = ""
    reason: str = ""


_decode_response = msgspec.json.Decoder(_Response).decode
_decode_error = msgspec.json.Decoder(_Error).decode


class Answer(msgspec.Struct, frozen=True):
    """An answer's particulars.

    Units: seconds. Shapes: ``scores`` [items], each item's; None where it cannot be told.
    """

    modalities: dict[str, int]
    variants: dict[str, int]
    expected_accuracy: float | None
    queue_s: float | None
    compute_s: float | None
    scores: NDArray[np.float64] | None


class AnswerReader:
    """Reads responses of one service."""

    def __init__(self, service: Service, labels: NDArray[np.generic]) -> None:
        self._output = next(iter(service.outputs))
        self._labels = labels if service.metric == "top1" and labels.ndim == 1 else None

    def read(self, reply: Reply, rows: NDArray[np.int64]) -> Answer:
        """Read the response to a request that carried these test items. Shapes: ``rows`` [items].

        Raises:
            ValueError: it does not follow the protocol, or is not an answer to that many items.
        """
        length = reply.header_length
        if length is not None and length > len(reply.body):
            raise ValueError("the header is longer than the body")
        response = _decode_response(reply.body if length is None else memoryview(reply.body)[:length])
        items = len(rows)
        found = response.parameters
        scores = None
        if self._labels is not None:
            output = _tensor(response, self._output, reply.body, length or len(reply.body))
            if len(output) != items:
                raise ValueError(f"{len(output)} rows of output for {items} items")
            scores = np.asarray(output.reshape(items, -1).argmax(axis=1) == self._labels[rows], np.float64)
        return Answer(
            modalities=_counts(found.get("poise_modalities"), items),
            variants=_counts(found.get("poise_variant"), items),
            expected_accuracy=_number(found.get("poise_accuracy")),
            queue_s=_seconds(found.get("poise_queue_us")),
            compute_s=_seconds(found.get("poise_compute_us")),
            scores=scores,
        )


def refusal(reply: Reply) -> tuple[bool, str]:
    """Return whether an HTTP answer other than 200 is a refusal (else a failure), and the reason."""
    try:
        reason = _decode_error(reply.body).reason
    except (msgspec.MsgspecError, UnicodeDecodeError):
        reason = ""
    if reason in _REASONS or reason in _FAULTS:
        return reason in _REASONS, reason
    if reply.status in _REFUSED:
        return True, _REFUSED[reply.status]
    return False, f"http_{reply.status}"


def error_text(reply: Reply) -> str:
    """Return what an HTTP answer other than 200 says, for people."""
    try:
        text = _decode_error(reply.body).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = ""
    return f"{reply.status} {text}".strip()


def _tensor(response: _Response, name: str, body: bytes, start: int) -> NDArray[np.generic]:
    """Return one output, wherever it stands in the response."""
    at = start
    for output in response.outputs:
        size = output.parameters.get("binary_data_size")
        if output.name == name:
            if output.datatype == "BF16" and size is not None:
                return from_bf16(np.frombuffer(body, "<u2", int(size) // 2, at)).reshape(output.shape)
            dtype = NUMPY_TYPE.get("FP32" if output.datatype == "BF16" else output.datatype)
            if dtype is None:
                raise ValueError(f"datatype {output.datatype!r}")
            if size is None:
                return np.asarray(output.data, dtype).reshape(output.shape)
            return np.frombuffer(body, dtype.newbyteorder("<"), int(size) // dtype.itemsize, at).reshape(
                output.shape
            )
        at += int(size or 0)
    raise ValueError(f"no output {name!r}")


def _counts(value: object, items: int) -> dict[str, int]:
    """Count items by label: one label for all, or one for each, comma-joined."""
    if not isinstance(value, str) or not value:
        return {}
    labels = value.split(",")
    if len(labels) == 1:
        return {value: items}
    if len(labels) != items:
        raise ValueError(f"{len(labels)} labels for {items} items")
    return dict(Counter(labels))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _seconds(value: object) -> float | None:
    return value / 1e6 if isinstance(value, int | float) else None
