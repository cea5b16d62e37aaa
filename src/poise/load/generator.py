"""The open-loop generator: every job is sent when it is planned, whatever became of those before."""

from __future__ import annotations

import asyncio
import gc
import resource
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import msgspec
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from poise.domain.service import Service
from poise.errors import ConfigError, InternalError
from poise.files import LabelledItems
from poise.load.answers import Answer, AnswerReader, error_text, refusal
from poise.load.connections import ConnectionPool, Endpoint, Reply
from poise.load.health import GeneratorHealth, judge
from poise.load.requests import RequestMaker, get_head
from poise.workload import JobDraw, JobOutcome

T = TypeVar("T")

_EARLY_S = 0.0005
"""Timers are whole milliseconds: a job due within half of one is sent now."""
_HEARTBEAT_S = 0.02
_SPARE_FILES = 64

OnProgress = Callable[[int, int], None]
"""Called now and then with how many jobs were sent and how many are done."""


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to send. Units: seconds.

    ``connections``: the most that are opened (None: what the limit on open files allows). ``grace_s``: how
    long after its deadline an answer is waited for. ``warm_up``: requests sent beforehand, one by one, not
    counted. ``min_jobs``: with fewer the run is not valid. ``tls``: for an https URL, where the system's own
    certificates will not do.
    """

    connections: int | None = None
    grace_s: float = 5.0
    warm_up: int = 10
    min_jobs: int = 1000
    token: str | None = None
    tls: ssl.SSLContext | None = None


class LoadRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a run brought: one outcome for each job, in order, and how the generator did.

    Shapes: ``queue_s``, ``compute_s`` [answers that state them], in seconds; ``scores``, ``score_items``
    [items answered], each item's score and which test item it was.
    """

    outcomes: list[JobOutcome]
    health: GeneratorHealth
    queue_s: list[float]
    compute_s: list[float]
    scores: NDArray[np.float64]
    score_items: NDArray[np.int64]


async def send_load(
    jobs: Sequence[JobDraw],
    service: Service,
    items: LabelledItems,
    endpoint: Endpoint,
    *,
    contents: Generator,
    options: LoadOptions | None = None,
    on_progress: OnProgress | None = None,
) -> LoadRun:
    """Send the jobs to a server and wait for what becomes of each; ``contents`` draws what requests carry.

    Whatever goes wrong with a single request is its outcome.

    Raises:
        ConfigError: no server answers, or it has no such service, or it takes none of the warm-up's requests.
    """
    run = _Run(
        jobs,
        service,
        items,
        endpoint,
        contents=contents,
        options=options or LoadOptions(),
        on_progress=on_progress,
    )
    return await run.run()


def run_load(
    jobs: Sequence[JobDraw],
    service: Service,
    items: LabelledItems,
    endpoint: Endpoint,
    *,
    contents: Generator,
    options: LoadOptions | None = None,
    on_progress: OnProgress | None = None,
) -> LoadRun:
    """Run ``send_load`` in an event loop of its own, uvloop's where it is installed.

    Raises:
        ConfigError: as ``send_load``.
    """
    return _on_fast_loop(
        send_load(jobs, service, items, endpoint, contents=contents, options=options, on_progress=on_progress)
    )


class _Run:
    """The state of one run. Times inside are seconds since its start."""

    def __init__(
        self,
        jobs: Sequence[JobDraw],
        service: Service,
        items: LabelledItems,
        endpoint: Endpoint,
        *,
        contents: Generator,
        options: LoadOptions,
        on_progress: OnProgress | None,
    ) -> None:
        self._jobs = jobs
        self._service = service
        self._endpoint = endpoint
        self._options = options
        self._on_progress = on_progress
        self._maker = RequestMaker(service, items, jobs, contents, endpoint=endpoint, token=options.token)
        self._reader = AnswerReader(service, items.label)
        self._outcomes: list[JobOutcome | None] = [None] * len(jobs)
        self._answers: list[tuple[int, Answer]] = []
        self._sent = 0
        self._done = 0
        self._most_in_flight = 0
        self._lateness_s: list[float] = []
        self._loop_lag_s: list[float] = []
        self._start_s = 0.0

    async def run(self) -> LoadRun:
        """Check the server, warm up, send everything, wait for everything."""
        self._all_done = asyncio.Event()
        pool = self._pool = ConnectionPool(
            self._endpoint, limit=self._options.connections or _file_limit(), tls=self._options.tls
        )
        try:
            await self._check_server()
            await self._warm_up()
            heartbeat = asyncio.create_task(self._heartbeat())
            with _collector_off():
                self._start_s, cpu_start_s = time.perf_counter(), time.process_time()
                await self._send_all()
                wall_s = time.perf_counter() - self._start_s
                cpu_s = time.process_time() - cpu_start_s
                if self._jobs:
                    await self._all_done.wait()
            heartbeat.cancel()
        finally:
            await pool.close()
        return self._result(cpu_s, wall_s)

    async def _check_server(self) -> None:
        url, name = self._endpoint.url, self._service.service
        error = await self._pool.resolve()
        if error:
            raise ConfigError(
                f"no server answers at {url} ({error.replace('_', ' ')})", expected="a running server"
            )
        reply = await self._pool.request(
            get_head(self._endpoint, f"/v2/models/{name}/ready", self._options.token)
        )
        if reply.error:
            raise ConfigError(f"no HTTP answer from {url} ({reply.error})", expected="a running server")
        if reply.status >= 400:
            raise ConfigError(
                f"the server at {url} says: {error_text(reply)}",
                expected=f"a server that is ready with service {name!r}",
            )

    async def _warm_up(self) -> None:
        """Send the first jobs one by one, at leisure; a server that takes none of them ends the run here.

        But for the first they ask for no accuracy, so that a class earns no credit from what is not counted.
        """
        first, rest = self._jobs[: min(1, self._options.warm_up)], self._jobs[1 : self._options.warm_up]
        jobs = [*first, *(msgspec.structs.replace(job, accuracy_floor=0.0) for job in rest)]
        replies = [
            await self._pool.request(
                *self._maker.make(msgspec.structs.replace(job, deadline_s=None)), timeout_s=30.0
            )
            for job in jobs
        ]
        if replies and all(400 <= reply.status < 500 and reply.status != 429 for reply in replies):
            raise ConfigError(f"the server takes none of the requests; it says: {error_text(replies[0])}")

    async def _send_all(self) -> None:
        for job in self._jobs:
            wait_s = job.arrival_s - self._now_s()
            if wait_s > _EARLY_S:
                await asyncio.sleep(wait_s)
            else:
                await asyncio.sleep(0)  # behind, or a burst: answers are read in between
            self._send(job)

    def _send(self, job: JobDraw) -> None:
        head, body = self._maker.make(job)
        deadline_s = self._deadline_s(job)
        sent_s = self._now_s()
        self._lateness_s.append(sent_s - job.arrival_s)
        self._sent += 1
        self._most_in_flight = max(self._most_in_flight, self._sent - self._done)
        self._pool.send(head, body, partial(self._received, job, sent_s), deadline_s + self._options.grace_s)

    def _received(self, job: JobDraw, sent_s: float, reply: Reply) -> None:
        self._outcomes[job.number] = self._outcome(job, sent_s, reply)
        self._done += 1
        if self._done == len(self._jobs):
            self._all_done.set()

    def _outcome(self, job: JobDraw, sent_s: float, reply: Reply) -> JobOutcome:
        slo_class = self._service.classes[job.slo_class]
        base = JobOutcome(
            number=job.number,
            slo_class=job.slo_class,
            items=job.items,
            sent_s=sent_s,
            done_s=reply.done_s - self._start_s,
            deadline_s=self._deadline_s(job),
            accuracy_floor=slo_class.accuracy_floor if job.accuracy_floor is None else job.accuracy_floor,
            status="failed",
            reason=reply.error,
        )
        if reply.error:
            return base
        if reply.status != 200:
            refused, reason = refusal(reply)
            return msgspec.structs.replace(base, status="refused" if refused else "failed", reason=reason)
        try:
            answer = self._reader.read(reply, self._maker.rows_of(job))
        except (msgspec.MsgspecError, ValueError, TypeError, UnicodeDecodeError):
            return msgspec.structs.replace(base, reason="bad_answer")
        self._answers.append((job.number, answer))
        return msgspec.structs.replace(
            base,
            status="answered",
            modalities=answer.modalities,
            variants=answer.variants,
            expected_accuracy=answer.expected_accuracy,
            correct=None if answer.scores is None else float(answer.scores.sum()),
        )

    async def _heartbeat(self) -> None:
        while True:
            asked_s = time.perf_counter()
            await asyncio.sleep(_HEARTBEAT_S)
            self._loop_lag_s.append(max(0.0, time.perf_counter() - asked_s - _HEARTBEAT_S))
            if self._on_progress is not None and len(self._loop_lag_s) % 10 == 0:
                self._on_progress(self._sent, self._done)

    def _result(self, cpu_s: float, wall_s: float) -> LoadRun:
        outcomes = [outcome for outcome in self._outcomes if outcome is not None]
        if len(outcomes) != len(self._jobs):
            raise InternalError(f"{len(self._jobs)} jobs were sent and {len(outcomes)} have an outcome")
        scored = [(number, answer.scores) for number, answer in self._answers if answer.scores is not None]
        rows = [self._maker.rows_of(self._jobs[number]) for number, _ in scored]
        return LoadRun(
            outcomes=outcomes,
            health=judge(
                lateness_s=self._lateness_s,
                loop_lag_s=self._loop_lag_s,
                cpu_s=cpu_s,
                wall_s=wall_s,
                most_in_flight=self._most_in_flight,
                connections=self._pool.most_open,
                unsent=sum(outcome.reason == "no_connection" for outcome in outcomes),
                shortest_deadline_s=min((outcome.deadline_s for outcome in outcomes), default=1.0),
                min_jobs=self._options.min_jobs,
            ),
            queue_s=[answer.queue_s for _, answer in self._answers if answer.queue_s is not None],
            compute_s=[answer.compute_s for _, answer in self._answers if answer.compute_s is not None],
            scores=np.concatenate([scores for _, scores in scored]) if scored else np.empty(0),
            score_items=np.concatenate(rows) if rows else np.empty(0, np.int64),
        )

    def _deadline_s(self, job: JobDraw) -> float:
        return (
            self._service.classes[job.slo_class].latency_slo_s if job.deadline_s is None else job.deadline_s
        )

    def _now_s(self) -> float:
        return time.perf_counter() - self._start_s


@contextmanager
def _collector_off() -> Iterator[None]:
    """Keep the garbage collector out of the way: what is there is frozen, what comes is left until the end."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


def _file_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 100_000 if soft == resource.RLIM_INFINITY else max(1, soft - _SPARE_FILES)


def _on_fast_loop(main: Coroutine[object, object, T]) -> T:
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
