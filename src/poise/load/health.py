"""Whether the generator itself kept up: a run that measured the generator instead of the server is not valid.

As in MLPerf's load generator, a result says whether it may be used, and if not, why.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

MAX_LATENESS_S = 0.005
MAX_LATENESS_FRAC = 0.1
"""Of the shortest deadline."""
MAX_CPU_FRAC = 0.9


class Spread(msgspec.Struct, frozen=True):
    """Quantiles of a time, in seconds."""

    p50: float
    p99: float
    max: float


class GeneratorHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How the generator did. ``valid``: the figures are the server's; if not, ``reasons`` say why, in plain words.

    Units: ``lateness_s``, seconds between when a job was planned and when it was sent; ``loop_lag_s``,
    between when the event loop was asked to wake and when it did; ``cpu_s``, processor seconds of the
    generator's process while it sent, and ``cpu_frac`` as a share of one core; ``cpu_per_job_s`` for one
    job. ``most_in_flight``, ``connections``: the most jobs sent and not yet answered, and the most
    connections open, at any time.
    """

    valid: bool
    reasons: list[str]
    jobs: int
    lateness_s: Spread | None
    loop_lag_s: Spread | None
    cpu_s: float
    cpu_frac: float
    cpu_per_job_s: float
    most_in_flight: int
    connections: int


def judge(
    *,
    lateness_s: Sequence[float],
    loop_lag_s: Sequence[float],
    cpu_s: float,
    wall_s: float,
    most_in_flight: int,
    connections: int,
    unsent: int,
    shortest_deadline_s: float,
    min_jobs: int,
) -> GeneratorHealth:
    """Judge a run. ``unsent``: jobs that found no free connection; ``shortest_deadline_s``: of all jobs."""
    jobs = len(lateness_s)
    lateness = spread(lateness_s)
    cpu_frac = cpu_s / wall_s if wall_s > 0 else 0.0
    limit_s = min(MAX_LATENESS_S, MAX_LATENESS_FRAC * shortest_deadline_s)
    reasons = []
    if lateness is not None and lateness.p99 > limit_s:
        reasons.append(
            f"jobs were sent late: p99 {lateness.p99 * 1e3:.1f} ms, allowed {limit_s * 1e3:.1f} ms "
            f"(5 ms, and a tenth of the shortest deadline)"
        )
    if cpu_frac > MAX_CPU_FRAC:
        reasons.append(f"the generator used {cpu_frac:.0%} of a core, allowed {MAX_CPU_FRAC:.0%}")
    if unsent:
        reasons.append(
            f"{unsent} jobs found no free connection: raise the limit on connections (and ulimit -n)"
        )
    if jobs < min_jobs:
        reasons.append(f"{jobs} jobs, at least {min_jobs} are needed for a 99th percentile")
    return GeneratorHealth(
        valid=not reasons,
        reasons=reasons,
        jobs=jobs,
        lateness_s=lateness,
        loop_lag_s=spread(loop_lag_s),
        cpu_s=cpu_s,
        cpu_frac=cpu_frac,
        cpu_per_job_s=cpu_s / jobs if jobs else 0.0,
        most_in_flight=most_in_flight,
        connections=connections,
    )


def spread(values_s: Sequence[float]) -> Spread | None:
    """Return the quantiles of some times, None without any."""
    if not values_s:
        return None
    p50, p99 = np.quantile(np.asarray(values_s, float), [0.5, 0.99], method="inverted_cdf").tolist()
    return Spread(p50=p50, p99=p99, max=float(max(values_s)))
