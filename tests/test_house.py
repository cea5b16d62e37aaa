"""The rules of the house that no type checker or linter holds."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import poise

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "poise"

# Floors 0 to 2, and the errors below them: no I/O, no clock, no chance but what is passed in.
PURE = ("errors.py", "domain", "planning", "forecasting", "workload", "scheduling", "adapting")
IMPURE_MODULES = frozenset(
    (
        "asyncio",
        "datetime",
        "importlib",
        "multiprocessing",
        "os",
        "pathlib",
        "random",
        "socket",
        "subprocess",
        "threading",
        "time",
    )
)
IMPURE_BUILTINS = frozenset({"__import__", "input", "open"})
# Everything else in numpy.random draws from, or changes, one generator for the whole process.
NUMPY_RANDOM = frozenset({"BitGenerator", "Generator", "PCG64", "Philox", "SeedSequence", "default_rng"})
SEEDED = frozenset({"PCG64", "Philox", "SeedSequence", "default_rng"})

MAX_LINES = 400
# Path below src/poise, and why it may be longer.
LONG_FILES: dict[str, str] = {}

# Split, so that this file does not hold what it looks for.
FOREIGN = re.compile(
    "|".join(("://" + "pypi", "files.python" + "hosted", "registry" + r"\.npmjs", r"(?<!\w)/" + "work/"))
)


def pure_files() -> Iterator[Path]:
    for name in PURE:
        path = SOURCE / name
        yield from [path] if path.suffix else sorted(path.rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[str, str, int]]:
    """Every import at any depth: the name it binds, the dotted name it brings, and its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    yield alias.asname, alias.name, node.lineno
                else:
                    yield alias.name.partition(".")[0], alias.name.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}", node.lineno


def dotted(node: ast.expr, bound: dict[str, str]) -> str:
    """The full name that an expression like `np.random.rand` stands for, or an empty string."""
    if isinstance(node, ast.Name):
        return bound.get(node.id, "")
    if isinstance(node, ast.Attribute):
        parent = dotted(node.value, bound)
        return f"{parent}.{node.attr}" if parent else ""
    return ""


def impurities(text: str) -> list[str]:
    """What a pure floor may not do, one line for each place that does it."""
    tree = ast.parse(text)
    found = [
        f"line {line}: imports {name}"
        for _, name, line in imports(tree)
        if name.partition(".")[0] in IMPURE_MODULES
    ]
    bound = {local: name for local, name, _ in imports(tree)}
    used = [(name, line) for _, name, line in imports(tree)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            used.append((dotted(node, bound), node.lineno))
        elif isinstance(node, ast.Name) and node.id in IMPURE_BUILTINS:
            found.append(f"line {node.lineno}: uses {node.id}")
        elif isinstance(node, ast.Call) and not node.args and not node.keywords:
            module, _, name = dotted(node.func, bound).rpartition(".")
            if module == "numpy.random" and name in SEEDED:
                found.append(f"line {node.lineno}: {name} without a seed")
    for full, line in used:
        module, _, name = full.rpartition(".")
        if module == "numpy.random" and name not in NUMPY_RANDOM:
            found.append(f"line {line}: uses {full}")
    return found


@pytest.mark.parametrize("path", list(pure_files()), ids=lambda path: str(path.relative_to(SOURCE)))
def test_pure_floors_do_no_io(path):
    assert impurities(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "import time",
        "import os.path",
        "from asyncio import Queue",
        "def f():\n    import random",
        "def f():\n    from datetime import datetime as d",
        "open('x')",
        "import numpy as np\nnp.random.seed(1)",
        "import numpy.random\nnumpy.random.rand()",
        "import numpy.random as r\nr.shuffle([])",
        "from numpy import random\nrandom.normal()",
        "from numpy.random import rand",
        "import numpy as np\nnp.random.default_rng()",
        "from numpy.random import default_rng\ndefault_rng()",
    ],
)
def test_the_purity_check_sees(text):
    assert impurities(text)


@pytest.mark.parametrize(
    "text",
    [
        "import numpy as np\nnp.random.default_rng(1).random()",
        "from numpy.random import Generator\ndef f(generator: Generator): return generator.normal()",
        "from poise.domain import time_s",
        "import timeit_not_time",
        "def f(random): return random.seed",
    ],
)
def test_the_purity_check_lets_pass(text):
    assert impurities(text) == []


def test_no_file_is_long_without_a_reason():
    lines = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in SOURCE.rglob("*.py")
    }
    too_long = {name: count for name, count in lines.items() if count > MAX_LINES}
    assert too_long.keys() == LONG_FILES.keys(), too_long


def test_public_names():
    # which they are, tests/client/test_public_names.py says
    assert [name for name in dir(poise) if not hasattr(poise, name)] == []


def test_no_file_names_a_registry_or_a_path_of_one_machine():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    assert "pyproject.toml" in names
    found = []
    for name in names:
        content = (ROOT / name).read_bytes()
        if b"\0" in content:
            continue  # a model or an array, not text
        text = content.decode("utf-8", errors="replace")
        found += [
            f"{name}:{number}: {match[0]}"
            for number, line in enumerate(text.splitlines(), start=1)
            if (match := FOREIGN.search(line))
        ]
    assert found == []


@pytest.mark.parametrize("lock", ["run", "dev"])
def test_lock_has_hashes_and_no_torch(lock):
    lines = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8").splitlines()
    pins = {match[1] for line in lines if (match := re.match(r"([\w.-]+)==\S+ .*\\$", line))}
    assert {"numpy", "onnxruntime"} <= pins
    assert not {name for name in pins if name.startswith(("torch", "nvidia"))}
    # an address, or a pin with no hash after it
    assert [line for line in lines if "://" in line] == []
    assert sum(bool(re.match(r"[\w.-]+==", line)) for line in lines) == len(pins)
