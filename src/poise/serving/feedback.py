"""Answers that wait for their labels, and what the labels said: accuracy observed beside accuracy expected.

What waits is bounded in number, in bytes and in age; the oldest goes first. Only who sent a request may label it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from poise.domain.profile import Profile
from poise.errors import ConfigError, ConflictError, MalformedRequestError, NotFoundError, NotReadyError
from poise.files import ServiceFolder
from poise.files.metric import Metric as Score
from poise.files.metric import open_metric
from poise.ingress.feedback import Labelled
from poise.ingress.gate import Answered, Gate, PendingJob
from poise.protocol.codec import shown
from poise.protocol.wire import Array
from poise.runtimes.tensors import as_model_takes
from poise.scheduling.commands import AnswerPart
from poise.serving.aside import Aside

MAX_ID_CHARACTERS = 128
AT_ONCE_BYTES = 16 * 2**10
"""More labels than this are read in a thread."""
MAX_ARRAY_BYTES = 4 * 2**20
"""Of labels as an array: one long text makes all others as long."""

IMPORT_LIMIT_S = 60.0
SCORE_LIMIT_S = 10.0
"""So long may the service's own metric take to be imported, and to score the labels of one request."""

log = logging.getLogger(__name__)

# Numbers at the ends of the range take msgspec's own way 7 µs each.
_label_decoder = msgspec.json.Decoder(float_hook=float)


class FeedbackLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much waits for labels, of all services together. Units: bytes and seconds, as the names say."""

    answers: int = 100_000
    outputs_bytes: int = 128 * 2**20
    age_s: float = 3600.0


LIMITS = FeedbackLimits()


class Scorer:
    """Scores answers of one service as it was deployed: by its metric, and its profile for what was expected."""

    def __init__(self, folder: ServiceFolder, profile: Profile) -> None:
        """Open the service's metric. Where it does not fit the service, labels are not taken, and the log says why."""
        self.service = folder.service.service
        self._expected = {
            (variant.name, mode.label): mode.accuracy
            for variant in profile.variants
            for mode in variant.modes
        }
        self._score: Score | None = None
        self.own_code = folder.service.metric != "top1"
        self._own_calls = Aside()
        try:
            self._score = open_metric(folder)
        except ConfigError as error:
            log.warning("labels for service %s are not taken: %s", self.service, error)

    def expected(self, variant: str, label: str) -> float:
        """Return the measured accuracy of a mode."""
        return self._expected[variant, label]

    def scores(self, outputs: Mapping[str, Array], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Return each item's score in [0, 1].

        Raises:
            ConflictError: the metric does not fit the service.
            MalformedRequestError: it cannot score these labels.
        """
        if self._score is None:
            raise ConflictError(f"the metric of service {self.service!r} does not score labels")
        try:
            given = {name: as_model_takes(array) for name, array in outputs.items()}
            return self._score(given, labels, "the labels")
        except ConfigError as error:
            if self.own_code:  # its own words may tell of its inside
                log.warning("labels for service %s could not be scored: %s", self.service, error)
                raise MalformedRequestError("the service's metric could not score these labels") from None
            got = error.message.removeprefix("metric top1 with ")
            raise MalformedRequestError(f"got {got}, expected {error.expected}") from None

    async def own_scores(self, outputs: Mapping[str, Array], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Do as ``scores`` does, with code of the operator's, which may take its time or never come back.

        Raises:
            NotReadyError: it was not back in time.
        """
        try:
            return await self._own_calls.call(lambda: self.scores(outputs, labels), SCORE_LIMIT_S)
        except TimeoutError:
            log.error("the metric of service %s did not score %d labels in time", self.service, len(labels))
            raise NotReadyError("the service's metric did not score these labels in time") from None


class ModeCounts(Collector):
    """What labels said of one service's modes."""

    def __init__(self) -> None:
        self.items: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.observed: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.expected: defaultdict[tuple[str, str], float] = defaultdict(float)

    def collect(self) -> Iterator[Metric]:
        """Yield the families; prometheus-client calls this."""
        families: tuple[tuple[str, str, Mapping[tuple[str, str], float]], ...] = (
            ("poise_labelled_items", "Answered items whose labels are known, by mode.", self.items),
            ("poise_accuracy_observed_items", "Sum of the scores of labelled items.", self.observed),
            (
                "poise_accuracy_expected_labelled_items",
                "Sum of the expected accuracy of the same items.",
                self.expected,
            ),
        )
        for name, text, values in families:
            family = CounterMetricFamily(name, text, labels=["variant", "modalities"])
            for mode, value in values.items():
                family.add_metric([*mode], value)
            yield family


class _Kept:
    """An answer that waits; ``outputs`` is empty once it is labelled."""

    __slots__ = ("at_s", "items", "label", "outputs", "parts", "scorer", "size_bytes")

    def __init__(
        self,
        at_s: float,
        scorer: Scorer,
        label: Callable[[int], str],
        parts: tuple[AnswerPart, ...],
        outputs: Mapping[str, Array],
    ) -> None:
        self.at_s = at_s
        self.scorer = scorer
        self.label = label
        self.parts = parts
        self.outputs = outputs
        self.items = sum(part.items for part in parts)
        self.size_bytes = sum(array.nbytes for array in outputs.values())


class Feedback:
    """All answers of a server that wait for labels, and what is counted. Belongs to the event loop's thread."""

    def __init__(self, limits: FeedbackLimits = LIMITS, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._scorers: dict[Gate, Scorer] = {}
        self._counts: defaultdict[str, ModeCounts] = defaultdict(ModeCounts)
        self._kept: OrderedDict[tuple[str, str, str], _Kept] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    async def open(self, gate: Gate, folder: ServiceFolder, profile: Profile) -> None:
        """Open a service's metric, and take up the answers of its gate from now on.

        Raises:
            ConfigError: the metric's module does not come to an end when imported.
        """
        try:
            scorer = await Aside().call(lambda: Scorer(folder, profile), IMPORT_LIMIT_S)
        except TimeoutError:
            raise ConfigError(
                f"metric {folder.service.metric} was not there after {IMPORT_LIMIT_S:.0f} s",
                file=folder.file.name,
                field="metric",
                expected="a module that is soon imported",
            ) from None
        self.add(gate, scorer)

    def add(self, gate: Gate, scorer: Scorer) -> None:
        """Take up the answers of a gate from now on."""
        self._scorers[gate] = scorer

    def remove(self, gate: Gate) -> None:
        """Take up none of a gate any more; what is kept of it may still be labelled."""
        self._scorers.pop(gate, None)

    def counts_of(self, service: str) -> ModeCounts:
        """Return what is counted of a service; it outlives its deployments."""
        return self._counts[service]

    def expect(self, gate: Gate, pending: PendingJob, request_id: str, sender: str) -> None:
        """Keep the outputs of a job, if it is answered, under the id that its sender gave it; the last of one id."""
        scorer = self._scorers.get(gate)
        if scorer is None or not request_id or len(request_id) > MAX_ID_CHARACTERS:
            return

        def settled(pending: PendingJob) -> None:
            outcome = pending.outcome
            if isinstance(outcome, Answered):
                kept = _Kept(self._clock(), scorer, gate.label, outcome.answer.parts, outcome.outputs)
                self._keep((scorer.service, sender, request_id), kept)

        if pending.outcome is None:
            pending.also = settled
        else:
            settled(pending)

    async def label(self, gate: Gate, request_id: str, sender: str, labels: Sequence[Any]) -> Labelled:
        """Score a kept answer, and count it."""
        self._forget_old()
        kept = self._kept.get((gate.wire.name, sender, request_id))
        if kept is None:
            raise NotFoundError(f"nothing is kept of a request {shown(request_id)} of yours")
        if not kept.outputs:
            raise ConflictError(f"request {shown(request_id)} was labelled before")
        if len(labels) != kept.items:
            raise MalformedRequestError(
                f"labels: got {len(labels)}, expected {kept.items}, one for each item of the request"
            )
        size = sum(len(memoryview(label)) for label in labels if isinstance(label, msgspec.Raw))
        array = _array_of(labels) if size <= AT_ONCE_BYTES else await asyncio.to_thread(_array_of, labels)
        outputs, scorer = kept.outputs, kept.scorer
        if not outputs:
            raise ConflictError(f"request {shown(request_id)} was labelled before")
        if scorer.own_code:
            # It may take its time; meanwhile nobody else labels the same.
            kept.outputs = {}
            try:
                scores = await scorer.own_scores(outputs, array)
            except BaseException:
                kept.outputs = outputs
                raise
        else:
            scores = scorer.scores(outputs, array)
        self._labelled(kept)
        return Labelled(request_id, kept.items, float(scores.mean()), self._count(kept, scores) / kept.items)

    def _count(self, kept: _Kept, scores: NDArray[np.float64]) -> float:
        """Count the scores by mode; return the sum of what was expected."""
        counts = self._counts[kept.scorer.service]
        total = 0.0
        for part in kept.parts:
            mode = part.variant, kept.label(part.modalities)
            expected = kept.scorer.expected(*mode) * part.items
            counts.items[mode] += part.items
            counts.observed[mode] += float(scores[part.first_item : part.first_item + part.items].sum())
            counts.expected[mode] += expected
            total += expected
        return total

    def _keep(self, key: tuple[str, str, str], kept: _Kept) -> None:
        self._drop(key)
        self._kept[key] = kept
        self._bytes += kept.size_bytes
        self._forget_old()
        while len(self._kept) > self.limits.answers or self._bytes > self.limits.outputs_bytes:
            self._drop(next(iter(self._kept)))

    def _forget_old(self) -> None:
        oldest_s = self._clock() - self.limits.age_s
        while self._kept and next(iter(self._kept.values())).at_s < oldest_s:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[str, str, str]) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._forget_size(kept)

    def _labelled(self, kept: _Kept) -> None:
        """Keep of an answer only that it was labelled."""
        kept.outputs = {}
        self._forget_size(kept)

    def _forget_size(self, kept: _Kept) -> None:
        self._bytes -= kept.size_bytes
        kept.size_bytes = 0  # it may be dropped while it is scored


def _array_of(labels: Sequence[Any]) -> NDArray[Any]:
    """Return labels as an array.

    Raises:
        MalformedRequestError: they are not all of one kind and shape.
    """
    expected = "numbers, texts or lists of them, all of one shape"
    try:
        values = [_label_decoder.decode(each) if isinstance(each, msgspec.Raw) else each for each in labels]
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MalformedRequestError(f"labels: got some that are no JSON, expected {expected}") from None
    if _text_bytes(values) > MAX_ARRAY_BYTES:
        raise MalformedRequestError("labels: got a text that is too long for so many, expected short texts")
    try:
        array = np.array(values)
    except (ValueError, OverflowError, RecursionError):
        raise MalformedRequestError(f"labels: got some of different shapes, expected {expected}") from None
    if array.dtype.kind not in "biufU":
        raise MalformedRequestError(f"labels: got {_odd_one(array)}, expected {expected}")
    return array


def _text_bytes(values: list[Any]) -> int:
    """Return how large an array of labels becomes by the longest text among them; 0 where there is none."""
    found = longest = 0
    lists = [values]
    while lists:
        for value in lists.pop():
            if isinstance(value, list):
                lists.append(value)
            else:
                found += 1
                longest = max(longest, len(value) if isinstance(value, str) else 0)
    return found * longest * np.dtype("U1").itemsize


def _odd_one(array: NDArray[Any]) -> str:
    """Return in words what of some labels an array of numbers or texts cannot hold."""
    for value in array.ravel():
        if value is None:
            return "null"
        if isinstance(value, dict):
            return "an object"
    return "a number beyond 64 bits, or some of different kinds"
