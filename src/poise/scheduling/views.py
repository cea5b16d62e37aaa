"""What policies are shown of a scheduler, put together at every decision."""

from __future__ import annotations

from collections.abc import Sequence

from poise.planning.service_model import ServiceModel
from poise.scheduling.arrival_rate import Arrivals
from poise.scheduling.balance import AccuracyBalance
from poise.scheduling.boldness import Boldness
from poise.scheduling.queue import Waiting
from poise.scheduling.shares import ShareAccount
from poise.scheduling.view import DispatchView, QueueView, WorkerState
from poise.scheduling.waiting_room import WaitingRoom


class Views:
    """Makes the views of one scheduler. ``saved_s`` changes: see ``DispatchView``."""

    def __init__(
        self,
        model: ServiceModel,
        balances: dict[str, AccuracyBalance],
        room: WaitingRoom,
        arrivals: Arrivals,
        boldness: Boldness,
        account: ShareAccount,
    ) -> None:
        self._scope = model.service.guarantee.scope
        self._max_batch = model.service.scheduler.max_batch
        self._model = model
        self._balances = balances
        self._pool = room.pool
        self._room = room
        self._arrivals = arrivals
        self._boldness = boldness
        self._account = account
        self.saved_s = 0.0

    def dispatch(self, now_s: float, worker: WorkerState, entries: Sequence[Waiting]) -> DispatchView:
        """Return what a policy sees when a worker is free that may be given some waiting jobs."""
        arrivals, pool, account = self._arrivals, self._pool, self._account
        rates = arrivals.items_per_s(now_s)
        return DispatchView(  # by position: twenty names take longer to match than many a decision
            now_s,
            worker,
            pool.all,
            pool.fleet,
            self._room.queue,
            entries,
            self._model,
            self._balances,
            self._scope,
            sum(rates.values()),
            rates,
            self._max_batch,
            arrivals.deadlines_s,
            self.saved_s,
            pool.costs,
            pool.idle_share,
            self._boldness.share,
            account,
            account.shares,
            self._room.revision,
        )

    def queue(self, now_s: float) -> QueueView:
        """Return what a policy sees when a job was taken into the queue."""
        return QueueView(
            now_s=now_s,
            workers=self._pool.all,
            queue=self._room.queue,
            model=self._model,
            scope=self._scope,
            costs=self._pool.costs,
            shares=self._account.shares,
            revision=self._room.revision,
        )
