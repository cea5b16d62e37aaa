"""E4 for a service, or several on one budget: what does not change is worked out once, then solved for any loads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from math import inf

import msgspec
import numpy as np

from poise.domain.allocation import Allocation, Workers
from poise.domain.profile import Profile
from poise.domain.rate_table import RateTable
from poise.domain.service import Service
from poise.planning.joint_allocation import solve_jointly
from poise.planning.joint_pools import Pools
from poise.planning.joint_problem import JointProblem, Kind, LoadClass, residence_of
from poise.planning.milp import Programme
from poise.planning.worker_kinds import KindMaker

GAP = 1e-4
"""How far below the best one an objective may be, as a share of it; what runs is kept where it is that good."""
MOST_KNOWN = 64
"""Budgets and resident sets that are remembered."""
SERVICE_BEFORE = "/"
"""``service/class``: a class of one of several services."""


class _Known(msgspec.Struct, frozen=True):
    """Kinds and pools for some classes on some budget."""

    kinds: tuple[Kind, ...]
    pools: Pools


class JointPlanner:
    """Solves E4 for a service at any loads. Pure, and cheap once a budget has been met.

    Loads are items/s by class, ``class:label`` for what brings only the modalities of a label, and of several
    services (``joined``) ``service/class``. Workers of several services name theirs.
    """

    def __init__(self, service: Service, profile: Profile, rates: RateTable) -> None:
        self._makers: dict[str, KindMaker] = {"": KindMaker(service, profile, rates)}
        self._service = service
        self._known: dict[tuple[object, ...], _Known] = {}

    @classmethod
    def joined(cls, parts: Sequence[tuple[Service, Profile, RateTable]]) -> JointPlanner:
        """Return the planner of several services on one budget: the first one's, whose weights α, β, γ hold too."""
        planner = cls(*parts[0])
        if len(parts) > 1:
            planner._makers = {
                service.service: KindMaker(service, profile, rates, service.service)
                for service, profile, rates in parts
            }
        return planner

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes."""
        return tuple(maker.prefix + name for maker in self._makers.values() for name in maker.service.classes)

    def problem(
        self,
        loads: Mapping[str, float],
        *,
        running: Sequence[Workers] = (),
        standby: Sequence[Workers] = (),
        cores: int | None = None,
        memory_bytes: float | None = None,
        cells: int | None = None,
    ) -> JointProblem:
        """Return the problem at some loads; the budget is the service's own where none is given.

        Raises:
            ValueError: no such class or modalities, or a load that is no finite number of at least 0.
        """
        return self._problem(loads, running, standby, cores, memory_bytes, cells)[0]

    def solve(
        self,
        loads: Mapping[str, float],
        *,
        running: Sequence[Workers] = (),
        standby: Sequence[Workers] = (),
        cores: int | None = None,
        memory_bytes: float | None = None,
        cells: int | None = None,
        time_limit_s: float = inf,
        gap: float = GAP,
        avoided: Iterable[Workers] = (),
    ) -> Allocation | None:
        """Return the best allocation at some loads, or the best found in time; None where there is no answer.

        ``running`` and ``standby``: what is loaded now, with and without cores. ``avoided``: what could not be loaded
        of late. Raises as ``problem`` does.
        """
        spoilt = frozenset(frozenset(workers.variants) for workers in avoided)
        problem, pools = self._problem(loads, running, standby, cores, memory_bytes, cells, spoilt)
        solution = solve_jointly(
            problem, time_limit_s=time_limit_s, gap=gap, start=problem.running, pools=pools
        )
        return None if solution is None else solution.allocation(problem)

    def capacity_rps(
        self, workers: Sequence[Workers], mix: Mapping[str, float] | None = None, *, cores: int | None = None
    ) -> float:
        """Return the load, items/s over all classes, that given workers carry without shedding.

        ``mix``: how the load is divided over the classes (default: all of it is of the first one).
        """
        shares = dict(mix) if mix else {self.classes[0]: 1.0}
        total = sum(shares.values())
        if not workers or total <= 0:
            return 0.0
        problem, pools = self._problem(
            {name: share / total for name, share in shares.items()}, workers, (), cores, None, None
        )
        return _most_carried(problem, pools)

    def _problem(
        self,
        loads: Mapping[str, float],
        running: Sequence[Workers],
        standby: Sequence[Workers],
        cores: int | None,
        memory_bytes: float | None,
        cells: int | None,
        spoilt: frozenset[frozenset[str]] = frozenset(),
    ) -> tuple[JointProblem, Pools]:
        budget, adapter = self._service.budget, self._service.adapter
        cores = budget.cores if cores is None else cores
        memory_bytes = float(budget.memory_bytes) if memory_bytes is None else memory_bytes
        classes = [self._load_class(name, load) for name, load in loads.items()]
        for each in classes:
            if not (math.isfinite(each.load_rps) and each.load_rps >= 0):
                raise ValueError(
                    f"got a load of {each.load_rps!r} of class {each.name!r}, expected a finite number of at least 0"
                )
        running, standby = self._held(running), self._held(standby)
        known = self._kinds(tuple(classes), (*running, *standby), cores, memory_bytes, spoilt)
        return JointProblem(
            classes=tuple(classes),
            kinds=known.kinds,
            cores=cores,
            memory_bytes=memory_bytes,
            accelerators=budget.accelerators,
            cells=budget.cells if cells is None else cells,
            running=running,
            standby=standby,
            alpha=adapter.alpha,
            beta=adapter.beta,
            gamma=adapter.gamma,
            longest_load_s=max(
                variant.load_time_s for maker in self._makers.values() for variant in maker.profile.variants
            ),
        ), known.pools

    def _held(self, workers: Sequence[Workers]) -> tuple[Workers, ...]:
        """Return workers with the cap of a kind: the nearest; those of services there are not are left out."""
        return tuple(
            msgspec.structs.replace(
                each, batch_cap_s=self._makers[each.service].nearest_cap_s(each.batch_cap_s)
            )
            for each in workers
            if each.service in self._makers
        )

    def _load_class(self, name: str, load_rps: float) -> LoadClass:
        maker, key = self._maker(name)
        return maker.load_class(key, load_rps)

    def _maker(self, name: str) -> tuple[KindMaker, str]:
        if "" in self._makers:
            return self._makers[""], name
        service, _, key = name.partition(SERVICE_BEFORE)
        if service not in self._makers:
            raise ValueError(
                f"got load of {name!r}, expected SERVICE/CLASS with a service of {sorted(self._makers)}"
            )
        return self._makers[service], key

    def _kinds(
        self,
        classes: tuple[LoadClass, ...],
        loaded: Sequence[Workers],
        cores: int,
        memory_bytes: float,
        spoilt: frozenset[frozenset[str]],
    ) -> _Known:
        """Return the kinds of a budget, and those of what is loaded now, whatever it is."""
        names = tuple(each.name for each in classes)
        homes = tuple(sorted({residence_of(workers) for workers in loaded}))
        key = names, homes, cores, memory_bytes, spoilt
        found = self._known.get(key)
        if found is None:
            keys = [(maker, self._keys_of(maker, names)) for maker in self._makers.values()]
            kinds: dict[tuple[object, ...], Kind] = {}
            for maker, own in keys:
                devices = self._service.budget.accelerators
                for kind in maker.kinds(own, cores, memory_bytes, devices, spoilt):
                    kinds[*kind.residence, kind.batch_cap_s] = kind
                for service, variants, threads, device in homes:
                    if service != maker.name:
                        continue
                    ordered = tuple(name for name in maker.service.variants if name in variants)
                    if len(ordered) != len(variants):
                        continue  # a variant that the service no longer has
                    for cap_s in maker.caps_s:
                        kind = maker.kind(ordered, threads, device, cap_s, own)
                        if kind.options:
                            kinds.setdefault((*kind.residence, cap_s), kind)
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            listed = tuple(kinds.values())
            found = self._known[key] = _Known(listed, Pools(listed, classes))
        return found

    def _keys_of(self, maker: KindMaker, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(key for name in names for owner, key in (self._maker(name),) if owner is maker)


def _most_carried(problem: JointProblem, pools: Pools) -> float:
    """Return the largest factor on the loads that the running workers carry: a linear programme."""
    programme = Programme()
    scale = programme.column(1.0)
    rows: list[list[tuple[int, float]]] = [[(scale, -each.load_rps)] for each in problem.classes]
    above: list[list[tuple[int, float]]] = [[] for _ in problem.classes]
    counted: dict[tuple[object, ...], int] = {}
    for each in problem.running:
        key = (*residence_of(each), each.batch_cap_s, each.cell)
        counted[key] = counted.get(key, 0) + each.count
    cells = sorted({each.cell for each in problem.running})
    for cell in cells:
        for pool in range(len(pools)):
            kind = problem.kinds[pools.kind[pool]]
            count = counted.get((*kind.residence, kind.batch_cap_s, cell), 0)
            if not pools.least[pool] <= count <= pools.most[pool]:
                continue
            taken: list[tuple[int, float]] = []
            for choice in np.flatnonzero(pools.pool == pool).tolist():
                column, q = programme.column(), int(pools.slo_class[choice])
                rows[q].append((column, 1.0))
                above[q].append((column, float(pools.accuracy[choice]) - problem.classes[q].floor + 1e-9))
                taken.append((column, float(pools.item_s[choice])))
            programme.row(taken, upper=float(count))
    for q, each_class in enumerate(problem.classes):
        programme.row(rows[q], lower=0.0, upper=0.0)
        if each_class.scope == "class" and any(margin < 0 for _, margin in above[q]):
            programme.row(above[q], lower=0.0)
    solved = programme.solve()
    return solved.objective if solved.found else 0.0
