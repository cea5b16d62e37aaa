"""What the calls of the gRPC service mean: messages in, messages out. Of the calls themselves nothing is known here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar

import msgspec
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2 as health

import poise
from poise.domain.job import RefusalReason
from poise.errors import MalformedRequestError, NotFoundError, RequestError
from poise.ingress.gate import Gate, Gates, PendingJob, Refused, outcome_of, unknown_model, why_not_ready
from poise.ingress.guard import Identity, check_admin, check_class
from poise.ingress.limits import Limits
from poise.ingress.repository import Repository, check_length, models_in
from poise.ingress.trace import CALL
from poise.protocol import inference_pb2 as pb
from poise.protocol import status
from poise.protocol.codec import shown
from poise.protocol.grpc_codec import InferMessage, encode_infer_answer, infer_request_of, parse_infer
from poise.protocol.requests import SHORTEST_S, InferRequest, ReplyTerms
from poise.protocol.statistics import Statistics
from poise.protocol.wire import VERSION, metadata

INLINE_BYTES = 64 * 2**10
"""Typed contents of more are taken apart in a thread, so that others need not wait for it."""
LARGE_BYTES = 2**20
"""The same of raw contents, which mostly are copied and no more; then they are copied in slices."""

SERVICE = "inference.GRPCInferenceService"
REPOSITORY_METHODS = ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")
"""Those for whoever may change the server's state."""

Method = Callable[[Identity, bytes, float | None], Awaitable[Awaitable[bytes]]]
"""Takes a call in and returns what waits for its answer, and holds nothing of the message any more.

Given are who sends it, its message, and for how many seconds more its client waits (None: for ever).
"""

M = TypeVar("M", bound=Message)


class CallError(Exception):
    """A call that ends with a status other than OK; ``status`` is HTTP's, which gRPC's follows from."""

    def __init__(self, code: int, words: str, reason: RefusalReason | None = None) -> None:
        super().__init__(words)
        self.status = code
        self.words = words
        self.reason = reason

    @classmethod
    def of(cls, error: RequestError) -> Self:
        """Return how an error is told."""
        return cls(status.status_of_error(error), error.message)


class GrpcMethods:
    """The methods of the service, in front of some gates."""

    def __init__(
        self, gates: Gates, limits: Limits, extensions: Sequence[str], repository: Repository | None
    ) -> None:
        self._gates = gates
        self._limits = limits
        self._extensions = extensions
        self._repository = repository

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        table: dict[str, Method] = {
            "ServerLive": _plain(pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True)),
            "ServerReady": _plain(
                pb.ServerReadyRequest,
                lambda _: pb.ServerReadyResponse(ready=why_not_ready(self._gates.values()) is None),
            ),
            "ModelReady": _plain(pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": _plain(pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": _plain(pb.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": _plain(pb.ModelConfigRequest, self._model_config),
            "ModelStatistics": _plain(pb.ModelStatisticsRequest, self._model_statistics),
            "ModelInfer": self._infer,
        }
        if self._repository is not None:
            table |= _repository_methods(self._repository)
        return table

    def health_check(self) -> Method:
        """Return ``grpc.health.v1.Health/Check``: of the server, of its service, or of a model."""
        return _plain(health.HealthCheckRequest, self._health)

    # Inference

    async def _infer(self, identity: Identity, message: bytes, remaining_s: float | None) -> Awaitable[bytes]:
        infer = parse_infer(message, tensors=self._limits.tensors)
        if len(message) <= (LARGE_BYTES if infer.raw else INLINE_BYTES):
            gate = self._gate(infer.message.model_name, infer.message.model_version)
            request = infer_request_of(infer, gate.wire, remaining_s)
            check_class(identity, request.slo_class)
            taken = gate.admit(request)
        else:
            gate, request, taken = await self._slowly_taken(identity, infer, remaining_s)
        self._gates.taken(gate, taken, request.reply.id, identity.name)
        trace = CALL.get()
        if trace is not None:
            trace.taken(gate, taken)
        return _answer(gate, taken, request.reply)

    async def _slowly_taken(
        self, identity: Identity, infer: InferMessage, remaining_s: float | None
    ) -> tuple[Gate, InferRequest, PendingJob | Refused]:
        """Read a large request in a thread and have it taken in; others have their turn meanwhile.

        The gate is the one that is there in the end: a reload may have put another in its place.
        """
        name, version = infer.message.model_name, infer.message.model_version
        begin_s = time.monotonic()
        while True:
            wire = self._gate(name, version).wire
            request = await asyncio.to_thread(infer_request_of, infer, wire, remaining_s)
            check_class(identity, request.slo_class)
            gate = self._gate(name, version)
            if gate.wire != wire:
                continue
            left_s = max(SHORTEST_S, request.deadline_s - (time.monotonic() - begin_s))
            taken = await gate.admit_in_slices(msgspec.structs.replace(request, deadline_s=left_s))
            drained = isinstance(taken, Refused) and taken.reason is RefusalReason.DRAINING
            if not drained or self._gates.get(name) is gate:
                return gate, request, taken

    def _gate(self, name: str, version: str) -> Gate:
        gate = self._gates.get(name)
        if gate is None:
            raise unknown_model(name, self._gates)
        if version not in ("", VERSION):
            raise NotFoundError(f"no version {shown(version)}, expected {VERSION}")
        return gate

    # Everything else

    def _model_ready(self, request: pb.ModelReadyRequest) -> Message:
        gate = self._gates.get(request.name)
        known = gate is not None and request.version in ("", VERSION)
        return pb.ModelReadyResponse(ready=known and gate is not None and gate.ready)

    def _health(self, request: health.HealthCheckRequest) -> Message:
        if request.service in ("", SERVICE):
            serving = why_not_ready(self._gates.values()) is None
        else:
            serving = self._gate(request.service, "").ready
        kinds = health.HealthCheckResponse
        return kinds(status=kinds.SERVING if serving else kinds.NOT_SERVING)

    def _server_metadata(self, _: pb.ServerMetadataRequest) -> Message:
        return pb.ServerMetadataResponse(
            name="poise", version=poise.__version__, extensions=[*self._extensions]
        )

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> Message:
        return _filled(pb.ModelMetadataResponse(), metadata(self._gate(request.name, request.version).wire))

    def _model_config(self, request: pb.ModelConfigRequest) -> Message:
        config = self._gate(request.name, request.version).config()
        return pb.ModelConfigResponse(config=_filled(pb.ModelConfig(), config))

    def _model_statistics(self, request: pb.ModelStatisticsRequest) -> Message:
        asked = self._gates.values()
        if request.name:
            asked = (self._gate(request.name, request.version),)
        return _filled(pb.ModelStatisticsResponse(), Statistics(tuple(gate.statistics() for gate in asked)))


def _repository_methods(repository: Repository) -> dict[str, Method]:
    """Return the repository's methods; they are for whoever may change the server's state."""

    async def index(request: pb.RepositoryIndexRequest) -> Message:
        _check_name(request.repository_name)
        return _filled(pb.RepositoryIndexResponse(), {"models": models_in(repository, ready=request.ready)})

    async def load(request: pb.RepositoryModelLoadRequest) -> Message:
        _check_name(request.repository_name)
        await repository.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def unload(request: pb.RepositoryModelUnloadRequest) -> Message:
        _check_name(request.repository_name)
        await repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    return {
        "RepositoryIndex": _admin(pb.RepositoryIndexRequest, index),
        "RepositoryModelLoad": _admin(pb.RepositoryModelLoadRequest, load),
        "RepositoryModelUnload": _admin(pb.RepositoryModelUnloadRequest, unload),
    }


async def _answer(gate: Gate, taken: PendingJob | Refused, terms: ReplyTerms) -> bytes:
    outcome = taken if isinstance(taken, Refused) else await outcome_of(gate, taken)
    if isinstance(outcome, Refused):
        code = status.status_of_refusal(outcome.reason, own_terms=terms.own_terms)
        words = status.words_of_refusal(outcome.reason, outcome.detail)
        raise CallError(code, words, outcome.reason)
    return encode_infer_answer(terms, outcome.answer, outcome.outputs, gate.wire, gate.label)


def _plain(kind: type[M], answer: Callable[[M], Message]) -> Method:
    """Return the method of a function from message to message."""

    async def answered(message: M) -> bytes:
        return answer(message).SerializeToString()

    async def method(identity: Identity, data: bytes, remaining_s: float | None) -> Awaitable[bytes]:
        return answered(_parsed(kind, data))

    return method


def _admin(kind: type[M], answer: Callable[[M], Awaitable[Message]]) -> Method:
    async def answered(message: M) -> bytes:
        return (await answer(message)).SerializeToString()

    async def method(identity: Identity, data: bytes, remaining_s: float | None) -> Awaitable[bytes]:
        check_admin(identity)
        return answered(_parsed(kind, data))

    return method


def _parsed(kind: type[M], data: bytes) -> M:
    check_length(len(data))
    try:
        return kind.FromString(data)
    except DecodeError:
        raise MalformedRequestError(f"the message is damaged, expected a {kind.DESCRIPTOR.name}") from None


def _check_name(repository: str) -> None:
    if repository:
        raise MalformedRequestError(f"got repository {shown(repository)}, expected none: there is only one")


def _filled(message: M, value: Any) -> M:
    """Return a message with what it has of a value."""
    return ParseDict(msgspec.to_builtins(value), message, ignore_unknown_fields=True)
