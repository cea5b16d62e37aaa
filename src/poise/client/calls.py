"""Every call of the client as a value: the request to send, and how to read what comes back. No sockets here.

Both clients are shells around this: they differ only in how they wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec
from numpy.typing import ArrayLike

from poise.client.errors import RefusedError, ServerFailedError
from poise.client.plain import listed, number, plain, text, whole
from poise.client.response import Response
from poise.client.tensors import decode_json_tensor, decode_tensor, encode_tensor
from poise.client.values import Answer, ServerMetadata, ServiceMetadata
from poise.errors import MalformedRequestError, RequestError
from poise.protocol.status import HTTP_OF_ERROR

T = TypeVar("T")
Bytes = bytes | memoryview

_ERRORS = {code: error for error, code in HTTP_OF_ERROR.items()}
_encoder = msgspec.json.Encoder()
_ARGUMENT = {
    "poise_class": "slo_class",
    "poise_deadline_ms": "deadline_ms",
    "poise_accuracy_floor": "floor",
    "priority": "priority",
}
"""Which argument a parameter is given by."""


class Call(msgspec.Struct, Generic[T], frozen=True):
    """A request, and what to make of its response. ``headers`` are whole lines of the head, beside its usual ones."""

    method: str
    path: str
    read: Callable[[Response], T]
    headers: bytes = b""
    body: tuple[Bytes, ...] = ()

    def parts(self, root: str, head: bytes) -> tuple[Bytes, ...]:
        """Return the bytes to send, in parts; ``head`` holds the lines that all requests have."""
        size = sum(len(part) for part in self.body)
        length = b"Content-Length: %d\r\n" % size if self.method != "GET" else b""
        line = f"{self.method} {root}{self.path} HTTP/1.1\r\n".encode("ascii")
        return (b"".join((line, head, self.headers, length, b"\r\n")), *self.body)


class _Error(msgspec.Struct, frozen=True):
    error: str
    reason: str = ""


class _TensorParameters(msgspec.Struct, frozen=True):
    binary_data_size: int | None = None


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: _TensorParameters = _TensorParameters()
    data: list[Any] | None = None


class _Parameters(msgspec.Struct, frozen=True):
    poise_variant: str = ""
    poise_modalities: str = ""
    poise_accuracy: float | None = None
    poise_queue_us: float | None = None
    poise_compute_us: float | None = None
    poise_late: bool = False
    poise_below_floor: bool = False


class _Answer(msgspec.Struct, frozen=True):
    outputs: tuple[_Tensor, ...]
    id: str | None = None
    parameters: _Parameters = _Parameters()


_answer = msgspec.json.Decoder(_Answer)
_error = msgspec.json.Decoder(_Error)


def infer(
    service: str,
    inputs: Mapping[str, ArrayLike],
    *,
    slo_class: str | None,
    deadline_ms: float | None,
    floor: float | None,
    priority: int | None,
    outputs: Iterable[str] | None,
    request_id: str | None,
    parameters: Mapping[str, Any] | None,
) -> Call[Answer]:
    """Return the call that asks for one job.

    Raises:
        MalformedRequestError: an input, or another argument, that the protocol cannot carry.
    """
    if not isinstance(inputs, Mapping):
        raise MalformedRequestError(
            f"inputs: got a value of type {type(inputs).__name__}, expected a mapping of names to arrays"
        )
    if not inputs:
        raise MalformedRequestError("inputs: got none, expected those of one modality at least")
    described: list[dict[str, Any]] = []
    binary: list[Bytes] = []
    for name, given in inputs.items():
        datatype, shape, data = encode_tensor(text("inputs: a name", name), given)
        size = {"binary_data_size": len(data)}
        described.append({"name": name, "datatype": datatype, "shape": shape, "parameters": size})
        binary.append(data)
    request: dict[str, Any] = {"parameters": _parameters(parameters), "inputs": described}
    for name, as_json, value in (
        ("poise_class", text, slo_class),
        ("poise_deadline_ms", number, deadline_ms),
        ("poise_accuracy_floor", number, floor),
        ("priority", whole, priority),
    ):
        if value is not None:
            request["parameters"][name] = as_json(_ARGUMENT[name], value)
    if request_id is not None:
        request["id"] = text("request_id", request_id)
    if outputs is not None:
        request["outputs"] = [{"name": text("outputs: a name", name)} for name in listed("outputs", outputs)]
    header = _encoder.encode(request)
    headers = b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n" % len(
        header
    )
    path = f"{_path(service)}/infer"
    return Call("POST", path, lambda response: _read_answer(service, response), headers, (header, *binary))


def _parameters(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the parameters of a request as its caller gave them; outputs are always asked for in binary form."""
    if given is not None and not isinstance(given, Mapping):
        raise MalformedRequestError(
            f"parameters: got a value of type {type(given).__name__}, expected a mapping"
        )
    named = {
        text("parameters: a name", name): plain(f"parameters[{name!r}]", value)
        for name, value in (given or {}).items()
    }
    return {**named, "binary_data_output": True}


def _read_answer(service: str, response: Response) -> Answer:
    _check(response)
    body = memoryview(response.body)
    length = len(body) if response.header_length is None else response.header_length
    try:
        answer = _answer.decode(body[:length])
        outputs, at = {}, length
        for tensor in answer.outputs:
            size = tensor.parameters.binary_data_size
            if size is None:
                array = decode_json_tensor(tensor.datatype, tensor.shape, tensor.data or [])
            else:
                if size < 0 or at + size > len(body):
                    raise ValueError(f"output {tensor.name!r} is cut short")
                array = decode_tensor(tensor.datatype, tensor.shape, body[at : at + size])
                at += size
            if array.ndim == 0:
                raise ValueError(f"output {tensor.name!r} has no items")
            array.flags.writeable = False
            outputs[tensor.name] = array
        if not outputs:
            raise ValueError("no outputs")
    except (ValueError, OverflowError, TypeError) as error:
        raise _no_protocol(response, error) from None
    items = len(next(iter(outputs.values())))
    given = answer.parameters
    return Answer(
        service=service,
        id=answer.id,
        outputs=outputs,
        modalities=_one_each(given.poise_modalities, items),
        variants=_one_each(given.poise_variant, items),
        accuracy=given.poise_accuracy,
        queue_s=_seconds(given.poise_queue_us),
        compute_s=_seconds(given.poise_compute_us),
        late=given.poise_late,
        below_floor=given.poise_below_floor,
    )


def _one_each(text: str, items: int) -> tuple[str, ...]:
    """Return labels, one for each item; one alone is that of all."""
    labels = tuple(text.split(",")) if text else ()
    return labels * items if len(labels) == 1 else labels


def _seconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1e6


def server() -> Call[ServerMetadata]:
    """Return the call that asks a server what it is."""
    return Call("GET", "/v2", lambda response: _read(response, ServerMetadata))


def metadata(service: str) -> Call[ServiceMetadata]:
    """Return the call that asks for a service's tensors."""
    return Call("GET", _path(service), lambda response: _read(response, ServiceMetadata))


def live() -> Call[bool]:
    """Return the call that asks whether the server is there."""
    return Call("GET", "/v2/health/live", _is_ok)


def ready(service: str | None) -> Call[bool]:
    """Return the call that asks whether a service, or all of a server's, would take a job now."""
    return Call("GET", "/v2/health/ready" if service is None else f"{_path(service)}/ready", _is_ok)


def statistics(service: str) -> Call[dict[str, Any]]:
    """Return the call that asks for a service's statistics."""
    return Call("GET", f"{_path(service)}/stats", lambda response: _read(response, dict[str, Any]))


def config(service: str) -> Call[dict[str, Any]]:
    """Return the call that asks for a service's configuration."""
    return Call("GET", f"{_path(service)}/config", lambda response: _read(response, dict[str, Any]))


def label(service: str, request_id: str, labels: Iterable[Any]) -> Call[None]:
    """Return the call that says what would have been right, for each item of an answered request.

    Raises:
        MalformedRequestError: labels that JSON has not, or no list of them.
    """
    body = _encoder.encode({"id": text("request_id", request_id), "labels": listed("labels", labels)})
    return Call("POST", f"{_path(service)}/labels", _check, b"Content-Type: application/json\r\n", (body,))


def ask(method: str, path: str, value: Any) -> Call[Any]:
    """Return the call for whatever else a server offers: a value as JSON, if any, and JSON back.

    Raises:
        MalformedRequestError: no path that a request may have, or a value that JSON has not.
    """
    if not (text("path", path).startswith("/") and path.isascii() and path.isprintable()) or " " in path:
        raise MalformedRequestError(f"got path {path!r}, expected one such as /v2/models/NAME/ready")
    if not (text("method", method).isascii() and method.isalpha()):
        raise MalformedRequestError(f"got method {method!r}, expected one such as POST")
    body = () if value is None else (_encoder.encode(plain("value", value)),)
    headers = b"Content-Type: application/json\r\n" if body else b""
    return Call(method.upper(), path, lambda response: _read(response, Any), headers, body)


def _path(service: str) -> str:
    if not text("service", service):
        raise MalformedRequestError("service: got an empty text, expected a service's name")
    return f"/v2/models/{quote(service, safe='')}"


def _read(response: Response, kind: Any) -> Any:
    _check(response)
    if not response.body:
        return None
    try:
        return msgspec.json.decode(response.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _no_protocol(response, error) from None


def _is_ok(response: Response) -> bool:
    """Return whether it is so; anything but yes and not now is an error."""
    if response.status == 503:
        return False
    _check(response)
    return True


def _check(response: Response) -> None:
    """Return if the response says that all is well.

    Raises:
        RequestError: by its status, or ``RefusedError`` where it has a reason.
        ServerFailedError: the server's fault.
    """
    status = response.status
    if 200 <= status < 300:
        return
    try:
        told = _error.decode(response.body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        told = _Error("no reason given")
    words = f"the server answered {status}: {told.error}"
    if told.reason:
        raise RefusedError(words, reason=told.reason, status=status)
    if status in _ERRORS:
        raise _ERRORS[status](words)
    if 400 <= status < 500:
        raise RequestError(words)
    raise ServerFailedError(words, status=status)


def _no_protocol(response: Response, error: Exception) -> ServerFailedError:
    return ServerFailedError(
        f"what came back is not of the Open Inference Protocol: {error}", status=response.status
    )
