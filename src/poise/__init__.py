"""poise: an inference server that keeps accuracy, latency and cost in balance.

The client library is all here; it is read when it is first asked for, because workers and front ends begin here too.
The types of the names are in the stub beside this file.
"""

from importlib import import_module

_NAMES = {
    "poise.client": (
        "Answer",
        "AsyncClient",
        "Client",
        "NoAnswerError",
        "RefusedError",
        "ServerFailedError",
        "ServerMetadata",
        "ServiceMetadata",
        "TensorMetadata",
    ),
    "poise.errors": (
        "ConfigError",
        "ConflictError",
        "DeadlineError",
        "ForbiddenError",
        "MalformedRequestError",
        "NotFoundError",
        "NotReadyError",
        "PoiseError",
        "QueueFullError",
        "RequestError",
        "TooLargeError",
        "UnauthorizedError",
        "UnknownEncodingError",
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*sorted(_MODULES), "__version__"]  # noqa: PLE0604  (they are strings)

__version__ = "0.1.0.dev0"


def __getattr__(name):
    if name in _MODULES:
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value
    raise AttributeError(f"module 'poise' has no attribute {name!r}")


def __dir__():
    return __all__
