"""Every policy at every load on some settings: what comparisons over load have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from suite.bench import Bench

from .cells import Cells
from .common import ORDER, policies, seeds
from .plots import Line
from .settings import Scope
from .tasks import Figures, Sample


class AtLoad(Protocol):
    """A policy's figures at a load, which is ``factor`` times one of the setting's."""

    @property
    def setting(self) -> str:
        """The setting's name."""

    @property
    def policy(self) -> str:
        """The policy's name."""

    @property
    def factor(self) -> float:
        """The load, as a multiple."""


AnyPoint = TypeVar("AnyPoint", bound=AtLoad)
Runs = list[tuple[str, str, float, float, list[Figures]]]
"""Setting, policy, factor, jobs/s, and a run for each seed."""


def sampled(
    bench: Bench,
    cells: Cells,
    capacity_rps: Mapping[str, float],
    factors: Sequence[float],
    floor_share: float,
    scope: Scope,
    length_s: Callable[[str, float], float],
    *,
    names: Sequence[str] = ORDER,
    jitter: float = 0.0,
    mmpp: bool = False,
) -> Runs:
    """Simulate policies at multiples of each setting's load. ``length_s(setting, load)``: how long."""
    tasks = {}
    for name, capacity in capacity_rps.items():
        for factor in factors:
            load = round(factor * capacity, 4)
            for policy in policies(bench, names):
                tasks[name, policy, factor] = Sample(
                    setting=name,
                    policy=policy,
                    floor_share=floor_share,
                    scope=scope,
                    seeds=seeds(bench),
                    jitter=jitter,
                    mmpp=mmpp,
                    load_rps=load,
                    duration_s=length_s(name, load),
                )
    answers = cells.run(tasks.values())
    return [(*key, task.load_rps, [run.whole for run in answers[task].runs]) for key, task in tasks.items()]


def lines_of(
    points: Sequence[AnyPoint], setting: str, value: Callable[[AnyPoint], float]
) -> tuple[Line, ...]:
    """Return a line for each policy, over the factors."""
    return tuple(
        Line(
            policy,
            [(p.factor, value(p)) for p in points if (p.setting, p.policy) == (setting, policy)],
        )
        for policy in dict.fromkeys(p.policy for p in points)
    )
