"""The flags of a workload, for every command that takes one (``poise simulate``, ``poise load``).

A command decorated with ``takes_workload`` gets all of them as one ``WorkloadFlags``; ``open_flags`` makes of
it the workload to draw. Every field of a workload file has its flag here; a flag wins over the file.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import inspect
import lzma
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Annotated, Any, cast

import msgspec
import typer

from poise.domain.decoding import convert
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.domain.workload import Items, Workload
from poise.errors import ConfigError
from poise.files import open_workload
from poise.planning.latency_model import latency_model
from poise.workload import JobDraw, draw_jobs, planned_duration_s

MAX_TRACE_BYTES = 256 * 2**20
_OF_A_TRACE = ("trace", "from_s", "scale", "within")
_OF_A_PROCESS = ("process", "rate_rps", "cv", "burst_factor", "burst_s", "calm_s")


def _arrivals(help_: str) -> Any:
    return typer.Option(help=help_, rich_help_panel="When jobs arrive")


def _jobs(help_: str, *names: str) -> Any:
    return typer.Option(*names, help=help_, rich_help_panel="What jobs are like")


class WorkloadFlags(msgspec.Struct, frozen=True, kw_only=True):
    """What the flags said; None where one was not given. Units: those of the workload file's fields."""

    workload: Annotated[Path | None, _arrivals("A workload file; flags win over what it says.")] = None
    rate: Annotated[float | None, _arrivals("Mean jobs per second.")] = None
    duration: Annotated[float | None, _arrivals("Seconds for which jobs arrive.")] = None
    process: Annotated[str | None, _arrivals("poisson | even | mmpp | gamma.")] = None
    cv: Annotated[float | None, _arrivals("gamma: coefficient of variation of the gaps.")] = None
    burst_factor: Annotated[float | None, _arrivals("mmpp: rate in a burst over rate in calm.")] = None
    burst_s: Annotated[float | None, _arrivals("mmpp: mean seconds of a burst.")] = None
    calm_s: Annotated[float | None, _arrivals("mmpp: mean seconds of calm.")] = None
    trace: Annotated[
        Path | None, _arrivals("A trace: jobs per second, one number a line (.xz, .gz, .bz2).")
    ] = None
    from_s: Annotated[int | None, _arrivals("trace: first second.")] = None
    scale: Annotated[float | None, _arrivals("trace: multiplies its rates.")] = None
    within: Annotated[str | None, _arrivals("trace: poisson | even.")] = None
    class_share: Annotated[list[str] | None, _jobs("NAME or NAME=SHARE; repeat it.", "--class")] = None
    items: Annotated[float | None, _jobs("Mean items a job.")] = None
    items_dist: Annotated[str | None, _jobs("constant | normal | uniform | geometric.")] = None
    items_sd: Annotated[float | None, _jobs("normal: standard deviation.")] = None
    items_min: Annotated[int | None, _jobs("Fewest items a job.")] = None
    items_max: Annotated[int | None, _jobs("Most items a job.")] = None
    deadline_ms: Annotated[float | None, _jobs("Every job's deadline (default: its class's SLO).")] = None
    slack_ms: Annotated[float | None, _jobs("Deadline beyond the most accurate mode's latency.")] = None
    floor: Annotated[str | None, _jobs("Accuracy floor, or LOW:HIGH to draw it from.")] = None
    floor_per: Annotated[str | None, _jobs("run | job: how often the floor is drawn.")] = None
    missing: Annotated[list[str] | None, _jobs("MODALITY=SHARE of jobs without it; repeat it.")] = None
    seed: Annotated[int | None, _jobs("Fixes everything drawn (default: 1).")] = None


class OpenedWorkload(msgspec.Struct, frozen=True):
    """A workload with the text of its trace, ready to be drawn."""

    workload: Workload
    trace_text: str | None

    @property
    def duration_s(self) -> float:
        """For how long jobs arrive, in seconds."""
        return planned_duration_s(self.workload, self.trace_text)

    def draw(self, service: Service, profile: Profile | None) -> list[JobDraw]:
        """Draw the jobs; only deadlines by slack need the profile.

        Raises:
            ConfigError: what the service does not have, a trace that cannot be used, or no profile for a
            slack.
        """
        return draw_jobs(
            self.workload,
            classes=tuple(service.classes),
            index=service.modality_index,
            trace_text=self.trace_text,
            best_latency_s=None if profile is None else best_latency(service, profile),
        )


def takes_workload(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of a workload; its parameter ``flags`` gets them as one value.

    A flag that the command has itself stays its own.
    """
    own = inspect.signature(command, eval_str=True)
    parameters = [parameter for name, parameter in own.parameters.items() if name != "flags"]
    hints = inspect.get_annotations(WorkloadFlags, eval_str=True)
    added = {name: hint for name, hint in hints.items() if name not in own.parameters}
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters += [
        inspect.Parameter(name, keyword, default=None, annotation=hint) for name, hint in added.items()
    ]

    @functools.wraps(command)
    def with_flags(**given: Any) -> None:
        flags = WorkloadFlags(**{name: given.pop(name) for name in added})
        command(**given, flags=flags)

    with_flags.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_flags


def open_flags(flags: WorkloadFlags) -> OpenedWorkload:
    """Return the workload that the flags describe, over the file that they name.

    A process replaces the file's trace, and the other way round.

    Raises:
        ConfigError: neither a file nor arrivals, or a file, a flag or a trace that cannot be used.
    """
    base = None if flags.workload is None else open_workload(flags.workload)
    tree: dict[str, Any] = {"format": 1} if base is None else msgspec.to_builtins(base)
    tree["arrivals"] = _arrivals_of(tree.get("arrivals", {}), flags)
    tree["items"] = _items_of(tree.get("items", {}), flags)
    if flags.slack_ms is not None or flags.deadline_ms is not None:
        tree["deadline"] = _given(slack_ms=flags.slack_ms, fixed_ms=flags.deadline_ms)
    if flags.floor is not None or flags.floor_per is not None:
        tree["floor"] = {
            **(tree.get("floor") or {}),
            **_given(uniform=_range(flags.floor), per=flags.floor_per),
        }
    if flags.class_share:
        tree["classes"] = _shares(flags.class_share, "--class")
    if flags.missing:
        tree["missing"] = _shares(flags.missing, "--missing")
    tree |= _given(seed=flags.seed)
    workload = convert(tree, Workload, "the flags" if base is None else f"{flags.workload} with the flags")
    if workload.arrivals.trace is None:
        return OpenedWorkload(workload, None)
    within = None if flags.workload is None or flags.trace is not None else flags.workload.parent
    return OpenedWorkload(workload, read_trace(Path(workload.arrivals.trace), within))


def best_latency(service: Service, profile: Profile) -> Callable[[int], float]:
    """Return the latency of the service's most accurate mode by number of items, in seconds.

    The measured mean, with the threads of the first workers; of modes alike in accuracy the faster. More
    items than one batch may hold run in several.

    Raises:
        ConfigError: a variant is not measured with those threads.
    """
    kinds = service.allocation or ()
    threads, device = (kinds[0].threads, kinds[0].device) if kinds else (1, "cpu")
    tables: list[tuple[float, tuple[float, ...]]] = []
    for name in service.variants:
        try:
            model = latency_model(
                profile.variant(name),
                service.modality_index,
                statistic="mean",
                threads=threads,
                max_batch=service.scheduler.max_batch,
                device=device,
            )
        except ValueError as error:
            raise ConfigError(f"variant {name!r} with {threads} threads on {device}: {error}") from None
        for at, accuracy in enumerate(model.accuracy):
            alone = [0] * len(model.sets)
            table = []
            for batch in range(model.max_batch + 1):
                alone[at] = batch
                table.append(model.latency_s(alone))
            tables.append((-accuracy, tuple(table)))
    table_s = min(tables)[1]

    def latency_s(items: int) -> float:
        whole, rest = divmod(items, len(table_s) - 1)
        return whole * table_s[-1] + table_s[rest]

    return latency_s


def longer_than_slo(draws: Sequence[JobDraw], service: Service) -> int:
    """Return how many deadlines are longer than the SLO of their class, to which a server cuts them."""
    slo_s = {name: slo_class.latency_slo_s for name, slo_class in service.classes.items()}
    return sum(draw.deadline_s is not None and draw.deadline_s > slo_s[draw.slo_class] for draw in draws)


def _arrivals_of(base: dict[str, Any], flags: WorkloadFlags) -> dict[str, Any]:
    """Return the file's arrivals under the flags'."""
    held = dict(base)
    if flags.trace is not None:
        held = {field: value for field, value in held.items() if field not in _OF_A_PROCESS}
    elif flags.process is not None or flags.rate is not None:
        held = {field: value for field, value in held.items() if field not in _OF_A_TRACE}
        held["process"] = held.get("process") or "poisson"
    held |= _given(
        trace=None if flags.trace is None else str(flags.trace),
        from_s=flags.from_s,
        scale=flags.scale,
        within=flags.within,
        process=flags.process,
        rate_rps=flags.rate,
        cv=flags.cv,
        burst_factor=flags.burst_factor,
        burst_s=flags.burst_s,
        calm_s=flags.calm_s,
        duration_s=flags.duration,
    )
    if held.get("trace") is None and held.get("process") is None:
        raise ConfigError("nothing says when jobs arrive", expected="--workload, --rate or --trace")
    return held


def _items_of(base: dict[str, Any], flags: WorkloadFlags) -> dict[str, Any]:
    """Return the file's items under the flags'; ``--items 50`` alone means 50, whatever the most was."""
    held = base | _given(
        mean=flags.items, dist=flags.items_dist, sd=flags.items_sd, min=flags.items_min, max=flags.items_max
    )
    if (
        flags.items is not None
        and math.isfinite(flags.items)
        and flags.items_max is None
        and held.get("dist", "constant") == "constant"
    ):
        held["max"] = max(held.get("max", Items().max), round(flags.items))
    return held


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _range(text: str | None) -> list[float] | None:
    if text is None:
        return None
    low, _, high = text.partition(":")
    try:
        return [float(low), float(high or low)]
    except ValueError:
        raise ConfigError(f"got {text!r}", field="--floor", expected="0.7, or a range as 0.6:0.75") from None


def _shares(words: Sequence[str], flag: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for word in words:
        name, _, share = word.partition("=")
        if name in shares:
            raise ConfigError(f"{name!r} stands twice", field=flag, expected="each once")
        try:
            shares[name] = float(share or "1")
        except ValueError:
            raise ConfigError(f"got {word!r}", field=flag, expected="NAME=SHARE, as name=0.3") from None
    return shares


def read_trace(path: Path, within: Path | None = None) -> str:
    """Return the text of a trace; ``within`` is the folder that a path from a workload file may not leave."""
    if within is not None:
        real = (within / path).resolve()
        if path.is_absolute() or not real.is_relative_to(within.resolve()):
            raise ConfigError(
                f"got trace {str(path)!r}", field="arrivals.trace", expected="a path inside the file's folder"
            )
        path = real
    openers = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
    opener = cast("Callable[[Path, str], IO[bytes]]", openers.get(path.suffix, open))
    try:
        with opener(path, "rb") as file:
            data = file.read(MAX_TRACE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the trace cannot be read: {error.strerror or error}", file=str(path)) from None
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise ConfigError(f"the trace cannot be decompressed: {error}", file=str(path)) from None
    if len(data) > MAX_TRACE_BYTES:
        raise ConfigError(f"the trace is larger than {MAX_TRACE_BYTES} bytes", file=str(path))
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise ConfigError(f"byte {error.start} of the trace is no ASCII text", file=str(path)) from None
