"""The errors that poise raises, split by whose fault they are.

    PoiseError
    ├── ConfigError                 the operator's: a file or an option that cannot be used
    ├── RequestError                the client's: a request that gets no answer
    │   ├── MalformedRequestError   it does not follow the protocol or the service's shapes
    │   ├── UnauthorizedError       it needs a token, and has none that is valid
    │   ├── ForbiddenError          its token, or the page that it comes from, does not allow it
    │   ├── NotFoundError           no such service, version or route
    │   ├── UnknownEncodingError    its body is compressed in a way that is not known
    │   ├── TooLargeError           over a cap on bytes, depth, elements or items
    │   ├── ConflictError           what it asks for does not go with how things stand
    │   ├── QueueFullError          the service has as many jobs queued as it may
    │   ├── NotReadyError           loading, or draining
    │   └── DeadlineError           its deadline passed, or cannot be met
    ├── WorkerError                 a model's or a machine's: it failed or was lost
    └── InternalError               ours: an invariant of poise does not hold

What is expected to happen is not an error: infeasible, refused and shed are values with reasons. A refusal
becomes a `RequestError` only at the edge, where a client is told. The HTTP and gRPC status of each class is
decided in one file, `poise.protocol.status`.

No exception is frozen in the strict sense, since Python itself writes the traceback on it; the attributes are
`Final`. All of them survive being copied between processes.
"""

from typing import Final

__all__ = [
    "ConfigError",
    "ConflictError",
    "DeadlineError",
    "ForbiddenError",
    "InternalError",
    "MalformedRequestError",
    "NotFoundError",
    "NotReadyError",
    "PoiseError",
    "QueueFullError",
    "RequestError",
    "TooLargeError",
    "UnauthorizedError",
    "UnknownEncodingError",
    "WorkerError",
]


class PoiseError(Exception):
    """Anything that poise raises on purpose. Its text is fit to be shown to whom it concerns."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message: Final = message


class ConfigError(PoiseError):
    """The operator gave something that cannot be used: a file, a field of it, or an option.

    `message` says what was found, `expected` what would do; `field` is the dotted path of keys. As text:

        service.yaml:12: variants.small.runtime: got 'onx', expected one of onnx, torch, python, emulated
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        field: str | None = None,
        expected: str | None = None,
    ) -> None:
        super().__init__(message)
        self.file: Final = file
        self.line: Final = line
        self.field: Final = field
        self.expected: Final = expected

    def __str__(self) -> str:
        text = self.message if self.expected is None else f"{self.message}, expected {self.expected}"
        if self.field is not None:
            text = f"{self.field}: {text}"
        if self.file is not None:
            place = self.file if self.line is None else f"{self.file}:{self.line}"
            text = f"{place}: {text}"
        elif self.line is not None:
            text = f"line {self.line}: {text}"
        return " ".join(part.strip() for part in text.splitlines())


class RequestError(PoiseError):
    """The client's request gets no answer. The text is sent to the client, so it carries no internals."""


class MalformedRequestError(RequestError):
    """The request does not follow the protocol, or not the names, types and shapes of the service."""


class UnauthorizedError(RequestError):
    """The request needs a token, and has none that is valid."""


class ForbiddenError(RequestError):
    """The request's token, or the web page that it comes from, does not allow it."""


class NotFoundError(RequestError):
    """There is no such service, version or route."""


class UnknownEncodingError(RequestError):
    """The request's body is compressed in a way that is not known."""


class TooLargeError(RequestError):
    """The request is over a cap: bytes, JSON depth, tensor elements, or items."""


class ConflictError(RequestError):
    """What the request asks for does not go with how things stand; nothing was changed."""


class QueueFullError(RequestError):
    """The service has as many jobs or items queued as it may."""


class NotReadyError(RequestError):
    """The service is loading or draining."""


class DeadlineError(RequestError):
    """The deadline of the job has passed, or cannot be met."""


class WorkerError(PoiseError):
    """A model failed on a batch, or a worker was lost: the fault of a model or of a machine."""


class InternalError(PoiseError):
    """An invariant of poise does not hold: the fault is ours.

    `story` holds what happened to the job or worker concerned, oldest first, one line each; the text tells it
    below the message.
    """

    def __init__(self, message: str, *, story: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.story: Final = story

    def __str__(self) -> str:
        return "\n  ".join((self.message, *self.story))
