"""``poise infer``: one request to a server, and its answer in words."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from poise.cli.console import out, print_json
from poise.client import Answer, Client, NoAnswerError, ServerFailedError, ServiceMetadata
from poise.errors import ConfigError

Arrays = dict[str, NDArray[Any]]
TOP = 3
SERVICE = "/v2/models/"
TOKEN = "POISE_TOKEN"


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
    token_file: Annotated[
        Path | None, typer.Option(help=f"The server's token (default: that in {TOKEN}, if any).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Send one request and print the outputs, the modality sets used, variant, accuracy and times."""
    first, last = _range(item, items)
    arrays = {name: array[first:last] for name, array in _load(file).items()}
    root, _, path = url.rstrip("/").partition(SERVICE)
    try:
        with Client(root, token=_token(token_file)) as client:
            service = unquote(path) if path else _only_service(client, root)
            chosen = _choose(client.metadata(service), arrays, modalities)
            begin = time.perf_counter()
            answer = client.infer(service, chosen, slo_class=slo_class, deadline_ms=deadline_ms, floor=floor)
            total_s = time.perf_counter() - begin
    except (NoAnswerError, ServerFailedError) as error:
        raise ConfigError(error.message, expected="a running server") from None
    if as_json:
        print_json(_described(answer, total_s))
    else:
        _show(answer, first, total_s)


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN)
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"cannot be read: {reason}", file=str(file), expected="a token") from None


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
    if not chosen or not all(len(array) for array in chosen.values()):
        raise ConfigError(
            "the file has nothing to send",
            expected=f"arrays named {[tensor.name for tensor in service.inputs]}, and such items",
        )
    return chosen


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
