"""The family adapts, live: real networks, a real server, a real load, on the cores that there are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fashion"
POISE = (sys.executable, "-m", "poise.cli.main")
START_S, LOAD_S, STOP_S = 120.0, 60.0, 60.0


@pytest.fixture
def family(tmp_path: Path) -> Path:
    return Path(
        shutil.copytree(EXAMPLE, tmp_path / "fashion", ignore=shutil.ignore_patterns("*.rates", "*.sqlite*"))
    )


@pytest.fixture
def url(family: Path) -> Iterator[str]:
    """The server, drained and stopped in the end: status 0 says that every accepted job was answered."""
    words = [*POISE, "serve", str(family), "--port", "0", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["url"]
        server.terminate()
        assert server.wait(STOP_S) == 0


def sent(url: str, family: Path, rate: float, items: int) -> dict[str, Any]:
    words = [*POISE, "load", url, "--service", str(family), "--rate", str(rate), "--items", str(items)]
    words += ["--duration", "12", "--process", "poisson", "--min-jobs", "1", "--json"]
    found = subprocess.run(words, capture_output=True, check=True, timeout=LOAD_S)
    run: dict[str, Any] = json.loads(found.stdout)["run"]
    return run


@pytest.mark.slow
def test_little_load_is_answered_by_the_most_accurate_network_and_much_by_a_mix(
    url: str, family: Path
) -> None:
    little, much = sent(url, family, 10, 4), sent(url, family, 200, 32)
    assert little["variant_share"].get("r14w32", 0.0) > 0.9
    assert much["variant_share"].get("r14w32", 0.0) < 0.5
    assert sum(share > 0.02 for share in much["variant_share"].values()) >= 2
    assert much["mean_accuracy"] < little["mean_accuracy"] - 0.003
    assert much["mean_accuracy"] >= 0.85  # the floor of the class
    assert little["served_accuracy"] > 0.85
    assert not little["failed"]
    assert not much["failed"]
    kept = subprocess.run(
        [*POISE, "history", str(family), "--json"], capture_output=True, check=True, timeout=LOAD_S
    )
    decisions = json.loads(kept.stdout)
    decisions = decisions["decisions"] if isinstance(decisions, dict) else decisions
    assert decisions
    planned = [json.dumps(d) for d in decisions]
    assert any("r14w32" in text for text in planned)
