"""The tiny service, and what numpy says it answers; see tests/data/tiny/README.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.tiny import TINY

from poise.domain.service import Service, Variant
from poise.files import ServiceFolder, load_labelled, open_service

Tensors = dict[str, NDArray[Any]]


@pytest.fixture(scope="session")
def tiny() -> ServiceFolder:
    """The service in its place: nothing may write to it."""
    return open_service(TINY)


@pytest.fixture
def arena(tiny: ServiceFolder) -> Tensors:
    """Inputs of 120 items, which nobody may write to."""
    inputs = dict(load_labelled(tiny.resolve("validation.npz", "validation"), tiny.service).inputs)
    for array in inputs.values():
        array.flags.writeable = False
    return inputs


@pytest.fixture(scope="session")
def logits() -> Callable[[Tensors, NDArray[np.intp], NDArray[Any]], NDArray[np.float32]]:
    """What the tiny service answers for some rows of an arena, each with its own mask."""
    with np.load(TINY / "weights.npz") as archive:
        w = {name: archive[name] for name in archive.files}

    def answer(inputs: Tensors, rows: NDArray[np.intp], masks: NDArray[Any]) -> NDArray[np.float32]:
        embeddings = [
            inputs["pixels"][rows].reshape(len(rows), 6) @ w["image"],
            inputs["wave"][rows] @ w["sound"],
            np.concatenate([inputs["letters"], inputs["length"]], axis=1)[rows] @ w["word"],
        ]
        total = np.zeros((len(rows), 5))
        for bit, embedding in enumerate(embeddings):
            present = (masks >> bit & 1)[:, None].astype(bool)
            total += np.where(present, embedding + w["presence"][bit], 0)
        return total.astype(np.float32)

    return answer


def with_variant(service: Service, **fields: object) -> Service:
    """The tiny service with one variant, `late`, some fields of which are others."""
    variant: Variant = msgspec.structs.replace(service.variants["late"], **fields)
    return msgspec.structs.replace(service, variants={"late": variant})
