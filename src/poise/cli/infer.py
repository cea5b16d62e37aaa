"""``poise infer``: one request to a server, and its answer in words."""

from __future__ import annotations

import time
import zipfile
import zlib
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from poise.cli.connecting import Ca, Cert, Key, TokenFile, tls_with, token_of
from poise.cli.console import out, print_json
from poise.client import Answer, Client, NoAnswerError, ServerFailedError, ServiceMetadata
from poise.errors import ConfigError

Arrays = dict[str, NDArray[Any]]
TOP = 3
SERVICE = "/v2/models/"


def infer(
    url: Annotated[
        str, typer.Argument(help="A server, or one of its services: http://host:port\\[/v2/models/NAME].")
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
    token_file: TokenFile = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Send one request and print the outputs, the modality sets used, variant, accuracy and times."""
    first, last = _range(item, items)
    arrays = _load(file)
    root, _, path = url.rstrip("/").partition(SERVICE)
    try:
        with Client(root, token=token_of(token_file), tls=tls_with(ca, cert, key)) as client:
            service = unquote(path) if path else _only_service(client, root)
            chosen = _cut(_choose(client.metadata(service), arrays, modalities), first, last, file)
            begin = time.perf_counter()
            answer = client.infer(service, chosen, slo_class=slo_class, deadline_ms=deadline_ms, floor=floor)
            total_s = time.perf_counter() - begin
    except (NoAnswerError, ServerFailedError) as error:
        raise ConfigError(error.message, expected="a running server") from None
    if as_json:
        print_json(_described(answer, total_s))
    else:
        _show(answer, first, total_s)


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
    expected = "an .npz with an array for each input, as numpy.savez writes it"
    try:
        with file.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                raise ConfigError("it is no .npz", file=str(file), expected=expected)
            with np.load(opened, allow_pickle=False) as archive:
                return {name: _array(archive, name, file) for name in archive.files}
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror or 'it is damaged'}", file=str(file), expected=expected
        ) from None
    except zipfile.BadZipFile:
        raise ConfigError("it is damaged", file=str(file), expected=expected) from None


def _array(archive: Any, name: str, file: Path) -> NDArray[Any]:
    """Return an array of an archive.

    Raises:
        ConfigError: it is damaged, holds Python objects, or is no array of items.
    """
    try:
        array = archive[name]
    except (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error):
        array = None
    if isinstance(array, np.ndarray) and array.ndim:
        return array
    raise ConfigError(
        f"{name!r} is no array of items, or is damaged",
        file=str(file),
        expected="arrays of numbers or text, the items first",
    )


def _only_service(client: Client, root: str) -> str:
    models = client.server().models
    if len(models) != 1:
        raise ConfigError(
            f"{root} names {len(models)} services", expected=f"a URL such as {root}{SERVICE}NAME"
        )
    return models[0]


def _choose(service: ServiceMetadata, arrays: Arrays, modalities: str | None) -> Arrays:
    names = None if modalities is None else set(modalities.split("+"))
    known = {tensor.modality for tensor in service.inputs}
    if names is not None and not names <= known:
        raise ConfigError(f"got --modalities {modalities!r}", expected=f"some of {'+'.join(sorted(known))}")
    chosen = {}
    for tensor in service.inputs:
        if names is not None and tensor.modality not in names:
            continue
        if tensor.name in arrays:
            chosen[tensor.name] = arrays[tensor.name]
        elif names is not None:
            raise ConfigError(
                f"the file has no array {tensor.name!r}", expected=f"all inputs of {modalities}"
            )
    if not chosen:
        raise ConfigError(
            f"the file has nothing to send: its arrays are {', '.join(sorted(arrays)) or 'none'}",
            expected=f"arrays named as the service's inputs: {', '.join(tensor.name for tensor in service.inputs)}",
        )
    return chosen


def _cut(arrays: Arrays, first: int, last: int | None, file: Path) -> Arrays:
    """Return the items to send.

    Raises:
        ConfigError: there are none of them.
    """
    count = min(len(array) for array in arrays.values())
    if first >= (count if last is None else min(last, count)):
        asked = f"item {first}" if last == first + 1 else f"items {first}:{'' if last is None else last}"
        raise ConfigError(
            f"got {asked}, and the file has {count:,} items",
            file=str(file),
            expected="some of them, counted from 0",
        )
    return {name: array[first:last] for name, array in arrays.items()}


def _described(answer: Answer, total_s: float) -> dict[str, Any]:
    return {
        "service": answer.service,
        "items": answer.items,
        "variant": answer.variant,
        "modalities": list(answer.modalities),
        "accuracy": answer.accuracy,
        "late": answer.late,
        "below_floor": answer.below_floor,
        "queue_s": answer.queue_s,
        "compute_s": answer.compute_s,
        "total_s": total_s,
        "outputs": {name: array.tolist() for name, array in answer.outputs.items()},
    }


def _show(answer: Answer, first: int, total_s: float) -> None:
    table = Table(box=None, header_style="bold")
    for column in ("item", "modalities", *answer.outputs):
        table.add_column(column)
    for i in range(answer.items):
        cells = [_cell(array[i]) for array in answer.outputs.values()]
        table.add_row(str(first + i), answer.modalities[i] if answer.modalities else "", *cells)
    out.print(table)
    words = [] if answer.accuracy is None else [f"expected accuracy {answer.accuracy:.3f}"]
    words += ["late"] if answer.late else []
    words += ["below its floor"] if answer.below_floor else []
    words = [f"variant {answer.variant or 'unknown'}", *words]
    times = [f"{total_s * 1e3:.2f} ms in all"]
    for seconds, of in ((answer.queue_s, "queued"), (answer.compute_s, "computed")):
        times += [] if seconds is None else [f"{seconds * 1e3:.2f} {of}"]
    out.print(f"{', '.join(words)}; {', '.join(times)}", highlight=False, soft_wrap=True)


def _cell(value: NDArray[Any]) -> str:
    """Return an output of one item: its largest elements by index, or the single one."""
    flat = value.ravel()
    if len(flat) == 1:
        return f"{flat[0]:g}"
    order = np.argsort(flat)[::-1][:TOP]
    return ", ".join(f"{i}: {flat[i]:g}" for i in order)
