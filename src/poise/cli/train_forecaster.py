"""``poise train-forecaster``: a forecaster's file from a trace of the past."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from poise.cli.console import err, out, print_json
from poise.cli.workload_flags import read_trace
from poise.errors import ConfigError
from poise.files.history import HistoryReader
from poise.forecasting.base import RateHistory
from poise.workload import parse_trace, slice_trace

HORIZONS_S = (1, 2, 5, 30, 60)
SQLITE_BEGINS = b"SQLite format 3\0"


class Kind(StrEnum):
    """What can be trained."""

    SEASONAL = "seasonal"
    LSTM = "lstm"


class TrainedForecaster(msgspec.Struct, frozen=True):
    """What was trained, as it is printed. Units: seconds; ``observed_s`` of the trace are what it was trained on.

    ``horizons_s``: those that have a model of their own; an lstm has the next minute's only.
    """

    kind: str
    file: str
    bytes: int
    horizons_s: list[int]
    observed_s: int
    took_s: float


def train_forecaster(
    trace: Annotated[
        Path,
        typer.Argument(
            help="jobs per second, one whole number a line (.xz, .gz and .bz2 too), or a server's history"
        ),
    ],
    to: Annotated[Path, typer.Option("--out", help="the file to write; named by adapter.forecaster.file")],
    *,
    kind: Annotated[Kind, typer.Option(help="which forecaster")] = Kind.SEASONAL,
    horizon: Annotated[
        list[int] | None,
        typer.Option(
            help="seasonal: forecast so many seconds ahead; may be repeated (default: 1, 2, 5, 30, 60)"
        ),
    ] = None,
    from_s: Annotated[
        int, typer.Option("--from-s", help="train on the trace from this second on", min=0)
    ] = 0,
    duration_s: Annotated[
        int | None, typer.Option("--duration-s", help="train on so many seconds (default: to the end)", min=1)
    ] = None,
    begins_at_s: Annotated[
        float,
        typer.Option(
            "--begins-at-s", help="when the trace begins, in seconds since the epoch, for hours and days"
        ),
    ] = 0.0,
    service: Annotated[str, typer.Option(help="a history of several services: which of them")] = "",
    gaps: Annotated[bool, typer.Option("--gaps", help="a 0 in the trace is a gap in the recording")] = False,
    seed: Annotated[int, typer.Option(help="of what is drawn at random", min=0, max=2**31 - 1)] = 1,
    json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Train a forecaster on a trace. An lstm needs torch and onnx, which the extra "train" of poise brings."""
    if kind is Kind.LSTM and horizon:
        raise ConfigError(
            "an lstm forecasts the next minute", field="--horizon", expected="it with seasonal only"
        )
    if not to.parent.is_dir() or to.is_dir():
        what = f"{str(to)!r} is a folder" if to.is_dir() else f"there is no folder {str(to.parent)!r}"
        raise ConfigError(what, field="--out", expected="a file to write")
    if not math.isfinite(begins_at_s):
        raise ConfigError(f"got {begins_at_s}", field="--begins-at-s", expected="a number of seconds")
    if _is_history(trace):
        history = _observed(trace, service)
    else:
        history = _history(trace, from_s, duration_s, begins_at_s, gaps)
    horizons_s = sorted(set(horizon or HORIZONS_S)) if kind is Kind.SEASONAL else [60]
    observed_s = int(np.count_nonzero(~np.isnan(history.rates)))
    err.print(f"training {kind} on {observed_s:,} s of {trace.name}", highlight=False)
    start = time.perf_counter()
    data = _seasonal(history, horizons_s, seed, trace.name) if kind is Kind.SEASONAL else _lstm(history, seed)
    took_s = round(time.perf_counter() - start, 2)
    _write(to, data)
    trained = TrainedForecaster(
        kind=str(kind),
        file=str(to),
        bytes=len(data),
        horizons_s=horizons_s,
        observed_s=observed_s,
        took_s=took_s,
    )
    if json:
        print_json(trained)
    else:
        out.print(
            f"{to}: {kind}, {len(data):,} bytes, trained in {took_s:.0f} s", highlight=False, soft_wrap=True
        )


def _is_history(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE_BEGINS)) == SQLITE_BEGINS
    except OSError:
        return False  # what is wrong with it is said where it is read


def _observed(path: Path, service: str) -> RateHistory:
    """Return what a server observed, with the time of day; gaps are known there."""
    reader = HistoryReader(path)
    try:
        return reader.rates(service)
    finally:
        reader.close()


def _history(trace: Path, from_s: int, duration_s: int | None, begins_at_s: float, gaps: bool) -> RateHistory:
    rates = slice_trace(
        parse_trace(read_trace(trace), trace.name), from_s=from_s, duration_s=duration_s, source=trace.name
    )
    if gaps:
        rates = np.where(rates == 0, np.nan, rates)
    return RateHistory(rates, begins_at_s + from_s + len(rates))


def _seasonal(history: RateHistory, horizons_s: Sequence[int], seed: int, source: str) -> bytes:
    from poise.forecasting.seasonal import encode_seasonal
    from poise.forecasting.seasonal_training import LONGEST_HORIZON_S, train_seasonal

    if horizons_s[0] < 1 or horizons_s[-1] > LONGEST_HORIZON_S:
        raise ConfigError(
            f"got horizons {list(horizons_s)}",
            field="--horizon",
            expected=f"1 to {LONGEST_HORIZON_S} seconds",
        )
    model = train_seasonal(history, horizons_s, seed=seed)
    if model is None:
        raise ConfigError(
            f"{len(history.rates):,} s of load are too little to train on",
            file=source,
            expected="four hours or more",
        )
    return encode_seasonal(model)


def _lstm(history: RateHistory, seed: int) -> bytes:
    from poise.forecasting.lstm_training import train_lstm

    return train_lstm(history, seed=seed)


def _write(path: Path, data: bytes) -> None:
    """Write the whole file or none of it."""
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"cannot be written: {error.strerror or error}", file=str(path)) from None
