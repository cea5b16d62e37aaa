"""A cell whose inputs have buckets tells the scheduler how long each job is, and is planned for by it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtimes.lengths import copy_lengths

from poise.files import ServiceFolder, open_service
from poise.ingress.gate import Answered, PendingJob, settled_outcome
from poise.protocol.codec import decode_infer
from poise.serving.cell import Cell

BATCHES = 12
"""More than calibration waits for."""


def emulated(target: Path) -> ServiceFolder:
    """The service of variable lengths with an emulated variant, whose stages take just what the profile says."""
    folder = copy_lengths(target)
    text = folder.file.read_text()
    start, end = text.index("variants:"), text.index("classes:")
    (target / "service.yaml").write_text(
        text[:start] + "variants:\n  late: {runtime: emulated}\n" + text[end:]
    )
    return open_service(target)


def request(length: int, items: int = 1) -> bytes:
    rng = np.random.default_rng(length)
    tensors: list[dict[str, Any]] = [
        {
            "name": name,
            "datatype": "FP32",
            "shape": list(shape),
            "data": rng.normal(size=shape).ravel().tolist(),
        }
        for name, shape in (("frames", (items, length, 2)), ("letters", (items, 3)))
    ]
    return json.dumps({"inputs": tensors}).encode()


@pytest.mark.parametrize("lengths", [(1, 3, 4), (16,), (2, 7, 12)])
def test_calibration_stays_at_one_whatever_the_lengths(tmp_path, lengths):
    folder = emulated(tmp_path / "lengths")

    async def whole() -> tuple[list[int], float]:
        cell = Cell(folder, folder.load_profile(), arena_bytes=1 << 16)
        try:
            await cell.start()
            buckets = []
            for number in range(BATCHES):
                length = lengths[number % len(lengths)]
                pending = cell.admit(decode_infer(request(length), None, cell.wire))
                assert isinstance(pending, PendingJob)
                buckets.append(pending.job.bucket)
                assert isinstance(await settled_outcome(pending), Answered)
            (worker,) = cell._scheduler.workers.values()
            return buckets, worker.calibration.factor
        finally:
            await cell.stop()

    buckets, factor = asyncio.run(whole())
    assert buckets[: len(lengths)] == [0 if length <= 4 else 1 if length <= 8 else 2 for length in lengths]
    assert factor == pytest.approx(1.0, abs=1e-6)
