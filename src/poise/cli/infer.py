"""``poise infer``: one request to a server, and its answer in words."""

from __future__ import annotations

import asyncio
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from poise.cli.console import out, print_json
from poise.domain.datatypes import NUMPY_TYPE
from poise.errors import ConfigError, RequestError

if TYPE_CHECKING:
    import aiohttp

Arrays = dict[str, NDArray[Any]]
TOP = 3
TIMEOUT_S = 60.0


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Any] = {}


class _Server(msgspec.Struct, frozen=True):
    models: tuple[str, ...] = ()


class _Model(msgspec.Struct, frozen=True):
    name: str
    inputs: tuple[_Tensor, ...]


class _Answer(msgspec.Struct, frozen=True):
    outputs: tuple[_Tensor, ...]
    parameters: dict[str, Any] = {}


class _Error(msgspec.Struct, frozen=True):
    error: str


def infer(
    url: Annotated[
        str, typer.Argument(help="A server, or one of its services: http://host:port[/v2/models/NAME].")
    ],
    file: Annotated[Path, typer.Argument(help="An .npz whose arrays are named as the service's inputs.")],
    *,
    item: Annotated[
        int | None, typer.Option(help="Send this item of the file (default: the first).", min=0)
    ] = None,
    items: Annotated[str | None, typer.Option(help="Send items a:b of the file.")] = None,
    modalities: Annotated[str | None, typer.Option(help="Send only these, such as clip+speech.")] = None,
    slo_class: Annotated[str | None, typer.Option("--class", help="The SLO class.")] = None,
    deadline_ms: Annotated[float | None, typer.Option(help="A deadline shorter than the class's.")] = None,
    floor: Annotated[float | None, typer.Option(help="An accuracy floor.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Send one request and print the outputs, the modality sets used, variant, accuracy and times."""
    first, last = _range(item, items)
    parameters: dict[str, Any] = {
        name: value
        for name, value in (
            ("poise_class", slo_class),
            ("poise_deadline_ms", deadline_ms),
            ("poise_accuracy_floor", floor),
        )
        if value is not None
    }
    arrays = {name: array[first:last] for name, array in _load(file).items()}
    result = asyncio.run(_ask(url.rstrip("/"), arrays, modalities, parameters))
    if as_json:
        print_json({**result, "outputs": {name: array.tolist() for name, array in result["outputs"].items()}})
    else:
        _show(result, first)


def _range(item: int | None, items: str | None) -> tuple[int, int | None]:
    if items is None:
        return (item or 0), (item or 0) + 1
    first, colon, last = items.partition(":")
    if item is not None or not colon or not all(part.isdigit() or not part for part in (first, last)):
        raise ConfigError(
            f"got --items {items!r}", expected="a:b with whole numbers, and no --item beside it"
        )
    return int(first or 0), int(last) if last else None


def _load(file: Path) -> Arrays:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        )
        raise ConfigError(f"not an npz of plain arrays: {reason}", file=str(file)) from None


async def _ask(
    url: str, arrays: Arrays, modalities: str | None, parameters: dict[str, Any]
) -> dict[str, Any]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            if "/v2/models/" not in urlsplit(url).path:
                url = f"{url}/v2/models/{await _only_model(session, url)}"
            model = msgspec.json.decode(await _get(session, url), type=_Model)
            chosen = _choose(model, arrays, modalities)
            header, body = _encode(model, chosen, parameters)
            begin = time.perf_counter()
            async with session.post(
                f"{url}/infer", data=body, headers={"Inference-Header-Content-Length": str(header)}
            ) as response:
                data = await response.read()
                total_s = time.perf_counter() - begin
                if response.status != 200:
                    raise RequestError(_refusal(response.status, data))
                json_length = response.headers.get("Inference-Header-Content-Length")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ConfigError(
            f"no usable answer from {url}: {str(error) or type(error).__name__}", expected="a running server"
        ) from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{url} does not speak the Open Inference Protocol: {error}") from None
    return _decode(model.name, data, int(json_length) if json_length else len(data), total_s)


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url) as response:
        data = await response.read()
        if response.status != 200:
            raise RequestError(_refusal(response.status, data))
        return data


async def _only_model(session: aiohttp.ClientSession, url: str) -> str:
    models = msgspec.json.decode(await _get(session, f"{url}/v2"), type=_Server).models
    if len(models) != 1:
        raise ConfigError(
            f"{url} names {len(models)} services", expected=f"a URL such as {url}/v2/models/NAME"
        )
    return models[0]


def _choose(model: _Model, arrays: Arrays, modalities: str | None) -> Arrays:
    names = None if modalities is None else set(modalities.split("+"))
    known = {str(tensor.parameters.get("modality", tensor.name)) for tensor in model.inputs}
    if names is not None and not names <= known:
        raise ConfigError(f"got --modalities {modalities!r}", expected=f"some of {'+'.join(sorted(known))}")
    chosen = {}
    for tensor in model.inputs:
        if names is not None and str(tensor.parameters.get("modality", tensor.name)) not in names:
            continue
        if tensor.name in arrays:
            chosen[tensor.name] = arrays[tensor.name]
        elif names is not None:
            raise ConfigError(
                f"the file has no array {tensor.name!r}", expected=f"all inputs of {modalities}"
            )
    if not chosen or not all(len(array) for array in chosen.values()):
        raise ConfigError(
            "the file has nothing to send",
            expected=f"arrays named {[t.name for t in model.inputs]}, and such items",
        )
    return chosen


def _encode(model: _Model, arrays: Arrays, parameters: dict[str, Any]) -> tuple[int, bytes]:
    inputs, binary = [], []
    for tensor in model.inputs:
        if tensor.name in arrays:
            array = arrays[tensor.name]
            if array.dtype != NUMPY_TYPE[tensor.datatype]:
                raise ConfigError(f"array {tensor.name!r} has type {array.dtype}", expected=tensor.datatype)
            binary.append(np.ascontiguousarray(array).tobytes())
            inputs.append(
                {
                    "name": tensor.name,
                    "datatype": tensor.datatype,
                    "shape": array.shape,
                    "parameters": {"binary_data_size": len(binary[-1])},
                }
            )
    header = msgspec.json.encode({"parameters": {**parameters, "binary_data_output": True}, "inputs": inputs})
    return len(header), b"".join((header, *binary))


def _decode(service: str, data: bytes, json_length: int, total_s: float) -> dict[str, Any]:
    answer = msgspec.json.decode(data[:json_length], type=_Answer)
    outputs, offset = {}, json_length
    for tensor in answer.outputs:
        size = int(tensor.parameters["binary_data_size"])
        flat = np.frombuffer(data[offset : offset + size], NUMPY_TYPE[tensor.datatype])
        outputs[tensor.name] = flat.reshape(tensor.shape)
        offset += size
    given = answer.parameters
    return {
        "service": service,
        "items": len(next(iter(outputs.values()))),
        "variant": given.get("poise_variant"),
        "modalities": str(given.get("poise_modalities", "")).split(","),
        "accuracy": given.get("poise_accuracy"),
        "late": bool(given.get("poise_late", False)),
        "below_floor": bool(given.get("poise_below_floor", False)),
        "queue_s": given.get("poise_queue_us", 0) / 1e6,
        "compute_s": given.get("poise_compute_us", 0) / 1e6,
        "total_s": total_s,
        "outputs": outputs,
    }


def _refusal(status: int, data: bytes) -> str:
    try:
        text = msgspec.json.decode(data, type=_Error).error
    except msgspec.DecodeError:
        text = "no reason given"
    return f"the server answered {status}: {text}"


def _show(result: dict[str, Any], first: int) -> None:
    table = Table(box=None, header_style="bold")
    for column in ("item", "modalities", *result["outputs"]):
        table.add_column(column)
    for i in range(result["items"]):
        cells = [_cell(array[i]) for array in result["outputs"].values()]
        table.add_row(str(first + i), result["modalities"][min(i, len(result["modalities"]) - 1)], *cells)
    out.print(table)
    notes = "".join(
        f", {word}" for key, word in (("late", "late"), ("below_floor", "below its floor")) if result[key]
    )
    out.print(
        f"variant {result['variant']}, expected accuracy {result['accuracy']:.3f}{notes}; "
        f"{result['total_s'] * 1e3:.2f} ms in all, {result['queue_s'] * 1e3:.2f} queued, "
        f"{result['compute_s'] * 1e3:.2f} computed",
        highlight=False,
        soft_wrap=True,
    )


def _cell(value: NDArray[Any]) -> str:
    """Return an output of one item: its largest elements by index, or the single one."""
    flat = value.ravel()
    if len(flat) == 1:
        return f"{flat[0]:g}"
    order = np.argsort(flat)[::-1][:TOP]
    return ", ".join(f"{i}: {flat[i]:g}" for i in order)
