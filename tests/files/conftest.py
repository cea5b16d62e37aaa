"""A copy of the tiny service that a test may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from poise.files import ServiceFolder, open_service

TINY = Path(__file__).resolve().parent.parent / "data" / "tiny"


@pytest.fixture
def tiny(tmp_path: Path) -> ServiceFolder:
    """The tiny service."""
    shutil.copytree(TINY, tmp_path / "tiny")
    return open_service(tmp_path / "tiny")
