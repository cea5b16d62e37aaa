"""Forecasters trained anew beside a server: by a real process, from a real history."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import numpy as np
import pytest

from poise.adapting.events import ClassCounts, Observed
from poise.files.history import HistoryFile
from poise.forecasting.base import Forecaster, RateHistory
from poise.forecasting.seasonal import Seasonal
from poise.serving.retraining import Retraining

LIMIT_S = 100.0


def written(path: Path, seconds: int) -> Path:
    rng = np.random.default_rng(1)
    at_s = np.arange(seconds)
    jobs = rng.poisson(30 + 20 * np.sin(at_s / 300))
    history = HistoryFile(path)
    history.write(
        Observed(0.0, 1.0, (ClassCounts("default", int(n), int(n)),), epoch_s=1_700_000_000.0 + second)
        for second, n in enumerate(jobs.tolist())
    )
    history.close()
    return path


@pytest.mark.slow
def test_a_forecaster_is_trained_from_the_history_and_adopted(tmp_path: Path) -> None:
    history = written(tmp_path / "history.sqlite", 6 * 3600)
    adopted: dict[str, Forecaster] = {}

    async def train() -> None:
        done = asyncio.Event()

        def adopt(name: str, forecaster: Forecaster) -> None:
            adopted[name] = forecaster
            done.set()

        retraining = Retraining(history, {"": "digits"}, adopt, first_after_s=0.0)
        retraining.start()
        await asyncio.wait_for(done.wait(), 500)
        await retraining.stop()

    asyncio.run(train())
    found = adopted[""]
    assert isinstance(found, Seasonal)
    forecast = found.forecast(RateHistory(np.full(3600, 40.0), 1_700_090_000.0), 2.0)
    assert forecast.forecaster == "seasonal"


def test_too_little_history_changes_nothing_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = written(tmp_path / "history.sqlite", 60)
    adopted: list[str] = []

    async def train() -> bool:
        retraining = Retraining(history, {"": "digits"}, lambda name, _: adopted.append(name))
        return await asyncio.wait_for(retraining._train("", "digits"), LIMIT_S)

    assert asyncio.run(train()) is False
    assert adopted == []
    assert "the forecaster of digits stays as it is" in caplog.text
    assert "four hours or more" in caplog.text


def test_a_training_under_way_is_ended_with_the_server(tmp_path: Path) -> None:
    history = written(tmp_path / "history.sqlite", 5 * 3600)

    async def train() -> None:
        retraining = Retraining(history, {"": "digits"}, lambda *_: None, first_after_s=0.0)
        retraining.start()
        await asyncio.sleep(0)
        await retraining.stop()

    asyncio.run(train())


def test_a_system_that_has_no_room_is_tried_again_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = asyncio.Event()
    attempts: list[str] = []

    def full(prefix: str) -> None:
        attempts.append(prefix)
        if len(attempts) == 3:
            tried.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("poise.serving.retraining.tempfile.TemporaryDirectory", full)

    async def train() -> None:
        retraining = Retraining(
            tmp_path / "none", {"": "digits"}, lambda *_: None, first_after_s=0.0, again_after_s=0.0
        )
        retraining.start()
        await asyncio.wait_for(tried.wait(), 5)
        await retraining.stop()

    asyncio.run(train())
    assert "the forecaster of digits stays as it is" in caplog.text
    assert os.strerror(errno.ENOSPC) in caplog.text
