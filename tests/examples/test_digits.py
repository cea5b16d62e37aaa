"""The digits: both variants answer whatever is there, and the smaller one is cheaper and less accurate."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from poise.files import LabelledItems, ServiceFolder, open_service
from poise.files.metric import open_metric
from poise.profiling.accuracy import measure_accuracy
from poise.runtimes import open_staged

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
ITEMS = 160
INDEPENDENT = {"clip": ITEMS, "speech": ITEMS, "word": ITEMS}


@pytest.fixture(scope="module")
def folder() -> ServiceFolder:
    return open_service(DIGITS / "service-family.yaml")


@pytest.fixture(scope="module")
def items() -> LabelledItems:
    """The first items of the validation pool, with noise of their own."""
    spec = importlib.util.spec_from_file_location("digits_derive", DIGITS / "derive.py")
    assert spec is not None
    assert spec.loader is not None
    derive = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(derive)
    with np.load(DIGITS / "data" / "validation_pool.npz") as file:
        pool = dict(file)
    for name in ("item_image", "item_recording", "item_word", "label"):
        pool[name] = pool[name][:ITEMS]
    arrays = derive.derive(pool, 5)
    label = arrays.pop("label")
    return LabelledItems(inputs=arrays, label=label)


@pytest.fixture(scope="module")
def accuracy(folder, items) -> dict[str, dict[str, float]]:
    """Variant -> modality set -> accuracy."""
    return {
        variant: {
            mode.label: mode.accuracy
            for mode in measure_accuracy(
                folder.service,
                variant,
                open_staged(folder.service, variant, folder.resolve),
                items,
                open_metric(folder),
                independent=INDEPENDENT,
            )
        }
        for variant in folder.service.variants
    }


def test_the_family_is_the_service_and_one_more(folder):
    alone = open_service(DIGITS).service
    family = folder.service
    assert list(alone.variants) == ["small"]
    assert list(family.variants) == ["small", "tiny"]
    assert family.variants["small"] == alone.variants["small"]
    for field in ("modalities", "outputs", "classes", "metric", "validation", "test"):
        assert getattr(family, field) == getattr(alone, field)
    assert family.profile != alone.profile


def test_each_variant_gains_by_each_modality(accuracy):
    for variant, found in accuracy.items():
        assert len(found) == 7
        best = found.pop("clip+speech+word")
        assert best == max(best, *found.values()), variant
        for alone in ("clip", "speech", "word"):
            assert found[alone] < best - 0.05


def test_the_smaller_one_is_less_accurate_and_not_by_much(accuracy):
    small, tiny = (np.mean(list(accuracy[variant].values())) for variant in ("small", "tiny"))
    assert small - 0.12 < tiny < small


def test_the_smaller_one_is_several_times_smaller():
    sizes = {
        variant: sum(file.stat().st_size for file in (DIGITS / variant).glob("*.onnx"))
        for variant in ("small", "tiny")
    }
    assert sizes["tiny"] < sizes["small"] / 3
