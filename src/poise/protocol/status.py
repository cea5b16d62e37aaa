"""The one table of statuses: whose fault an error or a refusal is, as each protocol says it, and in which words."""

from __future__ import annotations

from poise.domain.job import RefusalReason
from poise.errors import (
    ConflictError,
    DeadlineError,
    ForbiddenError,
    MalformedRequestError,
    NotFoundError,
    NotReadyError,
    QueueFullError,
    RequestError,
    TooLargeError,
    UnauthorizedError,
    UnknownEncodingError,
)

OK = 200
INTERNAL = 500
METHOD_NOT_ALLOWED = 405
CLIENT_GONE = 499
NOT_IN_JSON = 400
"""An answer that JSON cannot carry, though its client asked for JSON: of what it sent a NaN may have come, or not."""

HTTP_OF_ERROR: dict[type[RequestError], int] = {
    MalformedRequestError: 400,
    UnauthorizedError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    TooLargeError: 413,
    UnknownEncodingError: 415,
    QueueFullError: 429,
    NotReadyError: 503,
    DeadlineError: 504,
}
"""Status of each error that a client is told."""

HTTP_OF_REASON: dict[RefusalReason, int] = {
    RefusalReason.QUEUE_FULL: 429,
    RefusalReason.DEADLINE_UNREACHABLE: 504,
    RefusalReason.DEADLINE_PASSED: 504,
    RefusalReason.DISPLACED: 504,
    RefusalReason.FLOOR_UNREACHABLE: 503,
    RefusalReason.DRAINING: 503,
    RefusalReason.NO_WORKER: 503,
    RefusalReason.MODEL_FAILED: 500,
    RefusalReason.WORKER_KILLER: 500,
    RefusalReason.WORKER_LOST: 503,
    RefusalReason.CANCELLED: CLIENT_GONE,
}
"""Status of each refusal; 499 is never sent, since its client is gone."""

GRPC_OF_HTTP: dict[int, str] = {
    OK: "OK",
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    METHOD_NOT_ALLOWED: "UNIMPLEMENTED",
    409: "FAILED_PRECONDITION",
    413: "INVALID_ARGUMENT",  # not RESOURCE_EXHAUSTED: it will never be taken, however often it is sent
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    CLIENT_GONE: "CANCELLED",
    INTERNAL: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""The same over gRPC, by its names."""

OWN_WORDS: dict[RefusalReason, str] = {
    RefusalReason.MODEL_FAILED: "the model failed on this job",
    RefusalReason.WORKER_KILLER: "this job ended the process that answered it, twice: the job's own fault",
    RefusalReason.WORKER_LOST: "the process that answered this job was lost, and its deadline left no other try",
}
"""Where the scheduler's detail is for the operator and not for the client."""

GENERIC = "internal error"


def status_of_error(error: RequestError) -> int:
    """Return the HTTP status of an error."""
    return HTTP_OF_ERROR.get(type(error), INTERNAL)


def status_of_refusal(reason: RefusalReason, *, own_terms: bool) -> int:
    """Return the HTTP status of a refusal.

    A floor that cannot be reached is the client's doing where the request asked for its own floor or left
    modalities out, and the server's state otherwise.
    """
    if reason is RefusalReason.FLOOR_UNREACHABLE and own_terms:
        return HTTP_OF_ERROR[MalformedRequestError]
    return HTTP_OF_REASON[reason]


def grpc_status(http_status: int) -> str:
    """Return the name of the gRPC status that says the same as an HTTP status."""
    return GRPC_OF_HTTP.get(http_status, "INTERNAL")


def words_of_refusal(reason: RefusalReason, detail: str) -> str:
    """Return what the client is told."""
    return OWN_WORDS.get(reason, detail)
