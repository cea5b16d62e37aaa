"""The adapter: observe, forecast, solve, reconcile. Events in, commands out; it reads no clock and solves nothing.

Every interval, and earlier where that helps (``Triggers``), it asks for an allocation for the load that is forecast.
What comes back becomes the target; the reconciler brings the workers there. An answer that fails or is late changes
nothing: the last good plan stays, and the decision is kept with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import msgspec

from poise.adapting.commands import AdoptShares, Command, RecordDecision, SolveAllocation
from poise.adapting.decision import Decision, Outcome, Reason
from poise.adapting.events import (
    AllocationSolved,
    Event,
    Observed,
    WorkerLoaded,
    WorkerLost,
    WorkerNotLoaded,
    WorkerParked,
    WorkerStopped,
)
from poise.adapting.load_monitor import LoadMonitor
from poise.adapting.policy import AllocationPolicy, Situation, merged, one_of
from poise.adapting.reconcile import Reconciler, residence
from poise.adapting.setbacks import Setbacks
from poise.adapting.strain import Strain
from poise.adapting.triggers import Triggers
from poise.adapting.workers import Worker, WorkerBooks
from poise.domain.adapter_settings import AdapterSettings
from poise.domain.allocation import Allocation, Workers
from poise.domain.service import Service
from poise.forecasting.base import Forecast, Forecaster, RateHistory

LEAST_RPS = 1e-3
"""No load is planned for as less: somebody must be there for the first job."""
BEAT_HORIZON_S = 2.0
"""Where every beat decides anew, this much of the future matters: the next beat, and the one after for its sake."""


class Adapter:
    """Decides which workers run, for one service or for several on one budget. ``handle`` is the only mutator.

    ``services`` by name, or one under the empty name. ``memory_of`` is what a worker of a kind needs in bytes.
    ``past`` is what is known of the load from before, by service.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        settings: AdapterSettings,
        policy: AllocationPolicy,
        forecasters: Mapping[str, Forecaster],
        *,
        cores: int,
        memory_bytes: int,
        memory_of: Callable[[Workers], int],
        past: Mapping[str, RateHistory] | None = None,
    ) -> None:
        self.policy = policy
        self.settings = settings
        self.books = WorkerBooks(cores)
        self.target: tuple[Workers, ...] | None = None
        """What is to run; None until the first decision, when all that is loaded runs."""
        self.failures = 0
        """How many decisions came to nothing."""
        self.monitors = {
            name: LoadMonitor(service.classes, (past or {}).get(name)) for name, service in services.items()
        }
        self._forecasters = dict(forecasters)
        self._memory_bytes = memory_bytes
        self._reconciler = Reconciler(
            self.books, memory_of, memory_bytes, standby=policy.keeps_standby and settings.standby
        )
        self._setbacks = Setbacks()
        self._strain = Strain()
        self._planned_rps = inf
        self._interval_s = settings.interval_s if policy.interval_s is None else policy.interval_s
        self._triggers = Triggers(
            self._interval_s, early=policy.replans_early, every_beat=policy.replans_every_beat
        )
        self._now_s = -inf
        self._epoch_s = 0.0
        self._solve_id = 0
        self._number = 0
        self._asked: _Asked | None = None
        self._smaller = 0
        self._found: Allocation | None = None
        self._shares: dict[str, dict[str, float]] = {}
        self._out: list[Command] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            Observed: self._observed,
            WorkerLoaded: self._loaded,
            WorkerNotLoaded: self._not_loaded,
            WorkerLost: self._lost,
            WorkerParked: self._parked,
            WorkerStopped: self._stopped,
            AllocationSolved: self._solved,
        }

    def start(self, now_s: float, epoch_s: float, initial: tuple[Workers, ...] = ()) -> list[Command]:
        """Begin with some workers, or with those that a first decision asks for."""
        out = self._out = []
        self._now_s, self._epoch_s = now_s, epoch_s
        self._triggers.begin(now_s)
        if initial:
            self.target = merged(list(initial))
            if self.policy.keeps_standby and self.settings.standby:
                for workers in initial:
                    self._reconciler.stock[one_of(workers)] += workers.count
            self._reconcile()
        else:
            self._decide("start")
        return out

    def forecast_with(self, service: str, forecaster: Forecaster) -> None:
        """Forecast the load of a service with another forecaster from now on."""
        self._forecasters[service] = forecaster

    def handle(self, event: Event) -> list[Command]:
        """Take one event and return what is to be done now, in order."""
        out = self._out = []
        self._now_s = max(self._now_s, event.now_s)
        self._handlers[type(event)](event)
        return out

    @property
    def planned_cores(self) -> int:
        """The cores of the target."""
        return sum(workers.cores for workers in self.target or ())

    # What is observed

    def _observed(self, beat: Observed) -> None:
        monitor = self.monitors.get(beat.service)
        if monitor is None:
            return
        self._epoch_s = max(self._epoch_s, beat.epoch_s)
        monitor.observe(beat)
        self.policy.observe(beat)
        if self.policy.replans_early:
            self._strain.observe(monitor.attainment(1))
        self._triggers.observe(
            self._now_s,
            sum(each.last_rps for each in self.monitors.values()),
            min((a for each in self.monitors.values() if (a := each.attainment(5)) is not None), default=1.0),
        )
        if beat.service != next(reversed(self.monitors)):
            return  # one decision for all services, once each has been heard
        if self._setbacks.over(self._now_s):
            self._follow()
        reason = self._triggers.due(self._now_s)
        if reason is not None and self._asked is None:
            self._decide(reason)
        elif self._asked is not None and self._now_s > self._asked.given_up_s:
            self._solved(
                AllocationSolved(self._now_s, self._asked.solve_id, None, 0.0, "the solver gave no answer")
            )

    # Deciding

    def _decide(self, reason: Reason) -> None:
        settings = self.settings
        self._triggers.decided(self._now_s, reason)
        if reason == "attainment":
            observed_rps = sum(each.last_rps for each in self.monitors.values())
            worst = min(
                (a for each in self.monitors.values() if (a := each.attainment(3)) is not None), default=1.0
            )
            running = max(1, len(self.books.in_state("active")))
            busy = sum(each.utilisation(3) for each in self.monitors.values())
            self._strain.fell(worst, observed_rps, self._planned_rps, busy / running)
        jobs: dict[str, float] = {}
        items: dict[str, float] = {}
        forecast: Forecast | None = None
        for name, monitor in self.monitors.items():
            horizon_s = BEAT_HORIZON_S if self.policy.replans_every_beat else self._interval_s
            forecast = self._forecasters[name].forecast(monitor.history, horizon_s)
            if self.policy.by_quantile:
                planned_rps = forecast.at(settings.forecaster.quantile)
            else:
                planned_rps = forecast.at(0.5) * settings.headroom
            planned_rps = max(planned_rps * self._strain.factor, LEAST_RPS)
            prefix = f"{name}/" if name else ""
            jobs |= {prefix + c: rps for c, rps in monitor.jobs_rps(planned_rps).items()}
            items |= {prefix + c: rps for c, rps in monitor.items_rps(planned_rps).items()}
        situation = Situation(
            now_s=self._now_s,
            forecast=forecast,
            planned_jobs_rps=jobs,
            planned_items_rps=items,
            running=self._merged("active"),
            resident=self._merged("active", "standby", "parking", "loading"),
            excluded=self._setbacks.held_back,
            busy_cores=sum(m.utilisation(round(self._interval_s)) for m in self.monitors.values()),
            cores=self.books.cores,
            memory_bytes=self._memory_bytes,
        )
        self._solve_id += 1
        limit_s = settings.time_limit_s
        self._asked = _Asked(self._solve_id, reason, situation, self._now_s + 2 * limit_s + 5.0)
        self._out.append(SolveAllocation(self._solve_id, self.policy.ask(situation), limit_s))

    def _solved(self, event: AllocationSolved) -> None:
        asked = self._asked
        if asked is None or event.solve_id != asked.solve_id:
            return  # overtaken
        self._asked = None
        found = event.allocation
        outcome: Outcome = "failed"
        trouble = event.trouble
        running = self._merged("active")
        before = len(self._out)
        if found is None:
            self.failures += 1
            trouble = trouble or "the solver found no allocation"
        elif self._too_soon(found, asked.reason):
            outcome = "held"
        else:
            outcome = "kept" if _same(found.workers, self.target) else "adopted"
            self._planned_rps = sum(asked.situation.planned_jobs_rps.values())
            self._triggers.planned(self._planned_rps)
            self.target = found.workers
            self._found = found
            trouble = self._reconcile()
            self._adopt_shares()
        self._record(asked, event, outcome, trouble, running, self._out[before:])

    def _too_soon(self, found: Allocation, reason: Reason) -> bool:
        """Whether a smaller allocation is not asked for often enough yet, or one of a beat would have to load."""
        if reason == "beat" and self._must_load(found):
            return True
        if self.target is None or found.cores >= self.planned_cores or self._less_runs_than_wanted():
            self._smaller = 0
            return False
        self._smaller += 1
        if self.policy.stabilises and self._smaller < self.settings.stabilise:
            return True
        self._smaller = 0
        return False

    def _less_runs_than_wanted(self) -> bool:
        """Whether workers of the target are missing that are held back: then there is nothing to be steady about."""
        if not self._setbacks.until:
            return False
        running = sum(worker.kind.cores for worker in self.books.in_state("active"))
        return running < self.planned_cores

    def _must_load(self, found: Allocation) -> bool:
        """Whether an allocation has more workers of some residence than are loaded, or being loaded."""
        there = Counter(residence(worker.kind) for worker in self.books if worker.state != "stopping")
        for workers in found.workers:
            there[residence(workers)] -= workers.count
        return any(left < 0 for left in there.values())

    def _adopt_shares(self) -> None:
        """Tell the schedulers of the shares, as far as they have changed."""
        if self._found is None:
            return
        shares = self.policy.shares(self._found, self._merged("active"))
        if not shares or shares == self._shares:
            return
        self._shares = shares
        for name in self.monitors:
            prefix = f"{name}/" if name else ""
            own = {c.removeprefix(prefix): of for c, of in shares.items() if c.startswith(prefix)}
            self._out.append(AdoptShares(own, name))

    def _record(
        self,
        asked: _Asked,
        event: AllocationSolved,
        outcome: Outcome,
        trouble: str,
        running: tuple[Workers, ...],
        commands: list[Command],
    ) -> None:
        if asked.reason == "beat" and outcome in ("kept", "held"):
            return  # nothing has happened
        done = [type(command).__name__ for command in commands]
        self._number += 1
        beats = max(1, round(self._interval_s))
        observed: dict[str, float] = {}
        for name, monitor in self.monitors.items():
            prefix = f"{name}/" if name else ""
            observed |= {prefix + c: rps for c, rps in monitor.jobs_rps(monitor.mean_rps(beats)).items()}
        decision = Decision(
            number=self._number,
            at_s=self._now_s,
            epoch_s=self._epoch_s,
            policy=self.policy.name,
            reason=asked.reason,
            outcome=outcome,
            forecast=asked.situation.forecast,
            observed_rps=observed,
            planned_rps=dict(asked.situation.planned_jobs_rps),
            allocation=event.allocation,
            running=Allocation(workers=running),
            solve_s=event.solve_s,
            loads=done.count("LoadWorker"),
            activates=done.count("ActivateWorker"),
            parks=done.count("ParkWorker"),
            stops=done.count("StopWorker"),
            trouble=trouble,
        )
        self._out.append(RecordDecision(decision))

    # Workers

    def _loaded(self, event: WorkerLoaded) -> None:
        worker = self.books.by_id.get(event.worker_id)
        if worker is None:
            worker = self.books.add(one_of(event.kind), "standby", (), event.worker_id)
        elif worker.state != "loading":
            return  # it was told to stop meanwhile
        worker.state = "standby"
        self._setbacks.loaded(worker.kind, self._now_s)
        self._follow()

    def _not_loaded(self, event: WorkerNotLoaded) -> None:
        worker = self.books.remove(event.worker_id)
        if worker is not None:
            self._worker_gone(worker, planned=worker.state == "stopping")

    def _lost(self, event: WorkerLost) -> None:
        worker = self.books.remove(event.worker_id)
        if worker is not None:
            self._worker_gone(worker, planned=worker.state == "stopping")

    def _worker_gone(self, worker: Worker, *, planned: bool) -> None:
        """Take up the loss of a worker: it is loaded again after a pause, the plan made anew without its kind."""
        if not planned:
            self._setbacks.failed(worker.kind, self._now_s)
            if self.target is not None and any(one_of(each) == worker.kind for each in self.target):
                self._triggers.worker_gone()
        self._follow()

    def _parked(self, event: WorkerParked) -> None:
        worker = self.books.by_id.get(event.worker_id)
        if worker is not None and worker.state == "parking":
            worker.state, worker.slots = "standby", ()
            self._follow()

    def _stopped(self, event: WorkerStopped) -> None:
        if self.books.remove(event.worker_id) is not None:
            self._follow()

    def _follow(self) -> None:
        """Take the next steps after a worker has changed."""
        self._reconcile()
        self._adopt_shares()

    def _reconcile(self) -> str:
        """Bring the workers towards the target; return what is in the way."""
        target = self.target
        if target is None:
            target = merged([worker.kind for worker in self.books])
        loads: dict[str, float] = {}
        for name, monitor in self.monitors.items():
            prefix = f"{name}/" if name else ""
            loads |= {prefix + c: rps for c, rps in monitor.items_rps(monitor.mean_rps(5)).items()}
        found = self._reconciler.step(
            target, lambda workers: self.policy.carries(workers, loads), self._setbacks.until
        )
        self._out += found.commands
        return found.blocked

    def _merged(self, *states: str) -> tuple[Workers, ...]:
        return merged([worker.kind for worker in self.books if worker.state in states])


class _Asked(msgspec.Struct, frozen=True):
    """A question to the solver. Units: ``given_up_s`` absolute seconds."""

    solve_id: int
    reason: Reason
    situation: Situation
    given_up_s: float


def _same(found: tuple[Workers, ...], target: tuple[Workers, ...] | None) -> bool:
    return target is not None and set(merged(list(found))) == set(merged(list(target)))
