"""What a policy sees when a worker is free, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import msgspec

from poise.domain.profile import WAY_STAGE
from poise.planning.service_model import ServiceModel, VariantPlans
from poise.scheduling.balance import AccuracyBalance
from poise.scheduling.calibration import Calibration
from poise.scheduling.costs import LeastCosts
from poise.scheduling.events import BatchDone
from poise.scheduling.fleet import Fleet
from poise.scheduling.queue import DeadlineQueue, Waiting
from poise.scheduling.shares import ShareAccount
from poise.scheduling.stage_plans import StagePlans

Order = Literal["deadline", "arrival"]


class WorkerState:
    """One live worker as the scheduler knows it. Units: seconds; ``free_at_s`` is absolute.

    ``retiring``: it is given no more batches. ``batch_cap_s``: no batch of it is planned to exceed that, None
    where nothing was said.
    """

    __slots__ = (
        "_highest", "batch_cap_s", "batch_id", "calibration", "dearest_item_s", "free_at_s", "plans", "resident",
        "retiring", "stages", "worker_id",
    )  # fmt: skip

    def __init__(self, worker_id: int, stages: Mapping[str, StagePlans], now_s: float) -> None:
        self.worker_id = worker_id
        self.stages = stages
        """By variant."""
        self.resident = frozenset(stages.values())
        self.plans: tuple[VariantPlans, ...] = tuple(stage.plans for stage in stages.values())
        """What it is planned with: the profile's, reshaped where its stages take other shares of the time."""
        self.dearest_item_s = max([plans.dearest_item_s for plans in self.plans], default=0.0)
        """The most that one item may take on it. Units: profile seconds."""
        self.calibration = Calibration()
        self.free_at_s = now_s
        self.batch_id: int | None = None
        self.batch_cap_s: float | None = None
        self.retiring = False
        self._highest: dict[int, float] = {}

    def reshape(self) -> None:
        """Plan with what its stages were measured to take."""
        self.plans = tuple(
            stages.shaped(self.calibration.shape(variant)) for variant, stages in self.stages.items()
        )
        self.dearest_item_s = max([plans.dearest_item_s for plans in self.plans], default=0.0)

    def measure(
        self,
        variant: str,
        counts: Sequence[int],
        rungs_of: Callable[[], Sequence[int]],
        done: BatchDone,
        now_s: float,
    ) -> None:
        """Learn from a batch that it ran; ``counts`` and ``rungs_of``: see ``StagePlans.predicted``."""
        predicted_s, way_s = self.stages[variant].predicted(counts, rungs_of)
        measured_s = dict(done.stage_s)
        measured_s.pop(WAY_STAGE, None)
        if self.calibration.observe(
            now_s=now_s,
            run_s=done.run_s,
            variant=variant,
            measured_s=measured_s,
            predicted_s=predicted_s,
            way_s=way_s,
        ):
            self.reshape()

    def highest_accuracy(self, policy: Policy, available: int) -> float:
        """Return the highest accuracy it can reach under a policy with some modalities; -inf where it has no mode."""
        found = self._highest.get(available)
        if found is None:
            found = max(plans.highest_accuracy(policy.reach(plans, available)) for plans in self.plans)
            self._highest[available] = found
        return found


class DispatchView(msgspec.Struct, frozen=True):
    """State at the moment a worker is free, good for one decision. Policies read it and change nothing.

    ``entries`` are the waiting jobs that this worker may be given, in deadline order, at least one: the whole
    queue, or less of it where workers differ. ``fleet``: all ``workers`` together. ``arrival_rate`` is in items per
    second, ``rates`` by class. ``deadlines_s``: how long deadlines are, of the shorter ones, by class. ``saved_s`` is
    what earlier batches left of their shares of the capacity (negative: took beyond them). ``idle_share``: of the
    workers' time, of late. ``boldness``, ``account``: see there. ``shares``: of each class's load by variant, as last
    adopted. ``revision``: another number whenever workers of another kind came or went, or items came back. Units:
    seconds; profile seconds.
    """

    now_s: float
    worker: WorkerState
    workers: Sequence[WorkerState]
    fleet: Fleet
    queue: DeadlineQueue
    entries: Sequence[Waiting]
    model: ServiceModel
    balances: dict[str, AccuracyBalance]
    scope: Literal["job", "class"]
    arrival_rate: float
    rates: Mapping[str, float]
    max_batch: int
    deadlines_s: Mapping[str, float]
    saved_s: float
    costs: LeastCosts
    idle_share: float
    boldness: float
    account: ShareAccount
    shares: Mapping[str, Mapping[str, float]]
    revision: int

    @property
    def shortest_slo_s(self) -> float:
        """How long the shortest deadlines are, over the classes."""
        return min(self.deadlines_s.values())

    def credit(self, slo_class: str) -> float:
        """The credit of a class that no waiting job keeps, in items times accuracy; none in scope ``job``."""
        if self.scope != "class":
            return 0.0
        credit, reserved = self.balances[slo_class].credit, self.queue.reserved.get(slo_class, 0.0)
        return max(0.0, credit - reserved) if credit > 0 else credit


class Share(msgspec.Struct, frozen=True):
    """Part of a choice: some items of a waiting job, by modality set. ``counts`` pairs (mask, items)."""

    entry: Waiting
    counts: tuple[tuple[int, int], ...]
    below_floor: bool = False


class Choice(msgspec.Struct, frozen=True):
    """A batch for the free worker, and what is left of its share of the capacity afterwards.

    Units: profile seconds (before calibration).
    """

    plans: VariantPlans
    shares: tuple[Share, ...]
    latency_s: float
    saved_s: float = 0.0


class Wait(msgspec.Struct, frozen=True):
    """No batch for the free worker, though it could take one: what waits is for others, until a time at the latest.

    Units: ``until_s`` in seconds, absolute.
    """

    until_s: float


class QueueView(msgspec.Struct, frozen=True):
    """State after a job was taken into the queue. Policies that plan ahead read it. Units: seconds.

    ``shares`` and ``revision``: see ``DispatchView``.
    """

    now_s: float
    workers: Sequence[WorkerState]
    queue: DeadlineQueue
    model: ServiceModel
    scope: Literal["job", "class"]
    costs: LeastCosts
    shares: Mapping[str, Mapping[str, float]]
    revision: int


class Policy:
    """A scheduling policy: which modality sets it would use at all, and the next batch.

    A subclass sets ``name`` and overrides ``reach`` and ``choose``; ``arrived`` too where it plans ahead.
    """

    name: ClassVar[str] = ""
    """The name that selects it."""
    admits: ClassVar[bool] = True
    """Whether jobs that cannot be answered in time are refused, on arrival or as soon as that is known."""
    order: ClassVar[Order] = "deadline"
    """The order in which jobs wait."""
    plans_ahead: ClassVar[bool] = False
    """Whether ``arrived`` is called; it then judges deadlines, and admission does not."""
    binds: ClassVar[bool] = False
    """Whether it gives waiting jobs to variants itself: a worker may then find none for it while jobs wait."""

    def reach(self, plans: VariantPlans, available: int) -> int:
        """Return the key of the modality sets it would ever use for a job with these modalities."""
        return plans.allowed(available)

    def choose(self, view: DispatchView) -> Choice | Wait | None:
        """Return the next batch, led by the first waiting job; None if that job cannot be held any more."""
        raise NotImplementedError

    def arrived(self, view: QueueView, entry: Waiting) -> Sequence[Waiting]:
        """Plan the queue anew with a job that was just taken; return the waiting jobs to refuse.

        What it plans for a job it keeps in ``Waiting.plan``.
        """
        return ()

    def may_take(self, worker: WorkerState, entry: Waiting) -> bool:
        """Whether a policy that ``binds`` would give a worker this job."""
        return True
