"""A copy of the tiny service that a test may change, and a world whose time is the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tiny import copy_of_tiny

from poise.files import ServiceFolder, open_service
from poise.profiling.timing import Run


@pytest.fixture
def tiny(tmp_path: Path) -> ServiceFolder:
    """The tiny service, without its profile."""
    copy_of_tiny(tmp_path / "tiny")
    (tmp_path / "tiny" / "profile.json").unlink()
    return open_service(tmp_path / "tiny")


@pytest.fixture
def rewrite(tiny: ServiceFolder) -> Callable[[str, str], ServiceFolder]:
    """Replace a piece of the service file, and open it again."""

    def replace(old: str, new: str) -> ServiceFolder:
        text = tiny.file.read_text()
        assert old in text
        tiny.file.write_text(text.replace(old, new))
        return open_service(tiny.file)

    return replace


class FakeStopwatch:
    """Time passes only in calls, which say themselves how long they take and whether they were disturbed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []
        self.rests = 0

    def now_s(self) -> float:
        return self.now

    def time(self, call: Callable[[], object]) -> Run:
        said = call()
        assert isinstance(said, tuple)
        name, wall_s, disturbed = said
        self.now += wall_s
        self.order.append(name)
        return Run(wall_s, disturbed)

    def rest(self, seconds: float) -> None:
        self.now += seconds
        self.rests += 1
