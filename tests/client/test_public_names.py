"""What the package offers to its users; a change here is a change for them."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import poise

NAMES = [
    "Answer",
    "AsyncClient",
    "Client",
    "ConfigError",
    "ConflictError",
    "DeadlineError",
    "ForbiddenError",
    "MalformedRequestError",
    "NoAnswerError",
    "NotFoundError",
    "NotReadyError",
    "PoiseError",
    "QueueFullError",
    "RefusedError",
    "RequestError",
    "ServerFailedError",
    "ServerMetadata",
    "ServiceMetadata",
    "TensorMetadata",
    "TooLargeError",
    "UnauthorizedError",
    "UnknownEncodingError",
    "__version__",
]
CALLS = ["ask", "close", "config", "infer", "label", "live", "metadata", "ready", "server", "statistics"]


def public(kind: type) -> list[str]:
    return sorted(name for name in vars(kind) if not name.startswith("_"))


def test_names():
    assert vars(poise)["__all__"] == dir(poise) == NAMES
    for name in NAMES:
        assert getattr(poise, name).__class__ is not None


def test_the_stub_has_the_same_names():
    tree = ast.parse(Path(poise.__file__).with_suffix(".pyi").read_text())
    told = [alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    told += [node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)]  # type: ignore[union-attr]
    assert sorted(map(str, told)) == sorted(NAMES)


def test_what_is_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'Klient'"):
        poise.Klient  # type: ignore[attr-defined]  # noqa: B018


def test_both_clients_have_the_same_calls():
    assert public(poise.Client) == public(poise.AsyncClient) == CALLS
    for name in ("__init__", *CALLS):
        assert inspect.signature(getattr(poise.Client, name)) == inspect.signature(
            getattr(poise.AsyncClient, name)
        )


def test_a_worker_that_imports_the_package_gets_no_library_with_it():
    code = (
        "import sys, poise; sys.exit(bool({'numpy', 'msgspec', 'httptools', 'asyncio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
