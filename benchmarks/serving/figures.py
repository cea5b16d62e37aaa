"""The figures of the comparison, as its result file has them."""

from __future__ import annotations

import msgspec
from suite.spread import Spread

from .systems import Settings
from .trials import Trial


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """The highest load at which a system attains the target. Units: jobs/s; seconds, from when a job was planned.

    ``share``: of the bare loop's. ``held``: the median of the repeats at this load attains the target.
    ``server_cores``: what all its processes took of their core.
    """

    system: str
    load_rps: float
    share: float
    attainment: Spread
    p50_s: Spread
    p99_s: Spread
    server_cores: Spread
    held: bool
    valid: bool


class SideBySide(msgspec.Struct, frozen=True, kw_only=True):
    """Systems at the same loads, each load sent to one after the other within the minute. ``share``: of the bare
    loop's capacity; ``attainment`` by system."""

    share: float
    load_rps: float
    attainment: dict[str, Spread]
    valid: bool


class Overload(msgspec.Struct, frozen=True, kw_only=True):
    """A system at a multiple of poise's capacity. Units: jobs/s, right and in time."""

    system: str
    factor: float
    load_rps: float
    goodput_rps: Spread
    valid: bool


class LowLoad(msgspec.Struct, frozen=True, kw_only=True):
    """Latency where nothing waits. Units: jobs/s; seconds, p50 from when a job was sent.

    ``gap_s``: poise's, less the bare loop's and the bare echo's.
    """

    rate_rps: float
    poise_s: Spread
    bare_s: Spread
    echo_s: Spread
    gap_s: Spread


class FrontEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What a job costs poise's own process. Units: jobs/s; processor seconds of a job; ``body_bytes`` of a request."""

    service: str
    load_rps: float
    body_bytes: int
    job_s: Spread
    valid: bool


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """poise on a service of several modalities, at a floor that lets it leave some out. Units: jobs/s.

    ``share`` of the fluid bound, which knows neither queues nor a front end. ``front_end_cores``: what the front end
    took of the core that it shares with the worker.
    """

    service: str
    floor: float
    bound_rps: float
    load_rps: float
    share: float
    attainment: Spread
    front_end_cores: Spread
    held: bool
    valid: bool


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: seconds, jobs/s. ``left_out``: peer -> why."""

    slo_s: float
    target: float
    service_s: list[float]
    settings: dict[str, Settings]
    left_out: dict[str, str]
    capacities: list[Capacity]
    side_by_side: list[SideBySide]
    overloads: list[Overload]
    low_load: LowLoad
    front_end: list[FrontEnd]
    floors: list[Floor]
    trials: list[Trial]
