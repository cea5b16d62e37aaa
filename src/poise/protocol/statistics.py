"""A service's statistics, as Triton's statistics extension writes them: cumulative since the server's start.

Of a job poise measures the time in the queue and the time from its first dispatch to its last output; what is spent on
its way in and out is not told apart, so ``compute_input`` and ``compute_output`` count and have no duration. There is
no cache of answers.
"""

from __future__ import annotations

import msgspec

from poise.protocol.wire import VERSION


class Duration(msgspec.Struct, frozen=True):
    """How often, and how long all together. Units: nanoseconds."""

    count: int = 0
    ns: int = 0


NONE = Duration()


class InferStatistics(msgspec.Struct, frozen=True):
    """By requests. ``fail``: those that got no answer, for whatever reason, with the time until they were told so."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration = NONE
    cache_miss: Duration = NONE


class BatchStatistics(msgspec.Struct, frozen=True):
    """By batches of one size, in items; ``compute_infer`` is what their stages took."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatistics(msgspec.Struct, frozen=True):
    """All of one service. Units: ``last_inference`` in milliseconds since 1970, 0 for never.

    ``inference_count`` is in items, ``execution_count`` in batches.
    """

    name: str
    version: str = VERSION
    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    inference_stats: InferStatistics = InferStatistics(NONE, NONE, NONE, NONE, NONE, NONE)
    response_stats: dict[str, InferStatistics] = {}
    batch_stats: tuple[BatchStatistics, ...] = ()
    memory_usage: tuple[int, ...] = ()


class Statistics(msgspec.Struct, frozen=True):
    """What the extension answers."""

    model_stats: tuple[ModelStatistics, ...]


def duration_of(count: int, seconds: float) -> Duration:
    """Return a duration from seconds."""
    return Duration(count, round(seconds * 1e9))
