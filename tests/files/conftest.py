"""A copy of the tiny service that a test may change."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import copy_of_tiny

from poise.files import ServiceFolder, open_service


@pytest.fixture
def tiny(tmp_path: Path) -> ServiceFolder:
    """The tiny service."""
    copy_of_tiny(tmp_path / "tiny")
    return open_service(tmp_path / "tiny")
