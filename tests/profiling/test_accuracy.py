"""The accuracy of every mode is that of numpy, and what is no answer is refused by name."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from tests.tiny import TINY

from poise.domain.modalities import names_of
from poise.domain.profile import ModeProfile
from poise.errors import ConfigError
from poise.files import LabelledItems, ServiceFolder, load_labelled, open_service
from poise.files.metric import open_metric
from poise.profiling.accuracy import measure_accuracy
from poise.runtimes import mode_labels, open_staged

INDEPENDENT = {"image": 100, "sound": 50, "word": 20}


def measure(
    folder: ServiceFolder, variant: str, items: LabelledItems | None = None
) -> tuple[ModeProfile, ...]:
    items = items or load_labelled(folder.resolve("validation.npz", "validation"), folder.service)
    runner = open_staged(folder.service, variant, folder.resolve)
    metric = open_metric(folder)
    return measure_accuracy(folder.service, variant, runner, items, metric, independent=INDEPENDENT)


@pytest.fixture(scope="module")
def right():
    """Label of a modality set -> whether each validation item is right, by numpy alone."""
    with np.load(TINY / "validation.npz") as data, np.load(TINY / "weights.npz") as w:
        word = np.concatenate([data["letters"], data["length"]], axis=1)
        terms = {
            "image": data["pixels"].reshape(-1, 6) @ w["image"] + w["presence"][0],
            "sound": data["wave"] @ w["sound"] + w["presence"][1],
            "word": word @ w["word"] + w["presence"][2],
        }
        labels = data["label"]
    return lambda label: sum(terms[name] for name in names_of(label)).argmax(axis=1) == labels


@pytest.mark.parametrize("variant", ["late", "whole"])
def test_every_mode_has_its_accuracy(tiny, right, variant):
    modes = measure(tiny, variant)
    assert [mode.label for mode in modes] == list(mode_labels(tiny.service, variant))
    for mode in modes:
        scores = right(mode.label)
        assert mode.accuracy == pytest.approx(scores.mean())
        assert mode.accuracy_std == pytest.approx(scores.std())
        assert mode.samples == min(INDEPENDENT[name] for name in mode.modalities)
    assert len({mode.accuracy for mode in modes}) > 1


def test_nan_names_the_variant_the_mode_and_the_output(rewrite):
    folder = rewrite("sound: late/sound.onnx", "sound: odd/nan.onnx")
    with pytest.raises(ConfigError) as caught:
        measure(folder, "late")
    assert "variant 'late', mode 'sound': output 'logits' is NaN for " in str(caught.value)
    assert str(caught.value).endswith("of 32 validation items, expected numbers")


def test_an_output_of_another_shape_is_refused(tiny):
    runner = open_staged(tiny.service, "late", tiny.resolve)

    class Lying:
        stage_names = runner.stage_names
        run = runner.run
        stage_call = runner.stage_call

        def answer_sets(self, inputs, rows, masks):
            return [
                {**outputs, "score": outputs["score"][:-1]}
                for outputs in runner.answer_sets(inputs, rows, masks)
            ]

    items = load_labelled(tiny.resolve("validation.npz", "validation"), tiny.service)
    with pytest.raises(
        ConfigError, match=r"variant 'late', mode 'image': output 'score' of 32 items has shape \[31, 1\]"
    ):
        measure_accuracy(tiny.service, "late", Lying(), items, open_metric(tiny), independent=INDEPENDENT)


def test_a_metric_of_the_operator(tiny, rewrite):
    (tiny.root / "mine.py").write_text(
        "def half(outputs, labels):\n    return (outputs['logits'].argmax(1) == labels) / 2\n"
    )
    plain = measure(tiny, "whole")
    halved = measure(
        rewrite("validation: validation.npz", "validation: validation.npz\nmetric: python:mine:half"), "whole"
    )
    for one, half in zip(plain, halved, strict=True):
        assert half.accuracy == pytest.approx(one.accuracy / 2)
        assert one.accuracy_std is not None
        assert half.accuracy_std == pytest.approx(one.accuracy_std / 2)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "file 'mine.py' is missing"),
        ("raise RuntimeError('no')", "mine.py fails when imported: RuntimeError: no"),
        ("other = 1", "mine.py has no function 'score'"),
        (
            "def score(outputs, labels): return outputs['none']",
            "mode 'sound': metric python:mine:score fails: KeyError",
        ),
        (
            "def score(outputs, labels): return [1.0]",
            "gave shape [1], expected one score for each of 32 items",
        ),
        ("def score(outputs, labels): return [2.0] * len(labels)", "gave scores outside, expected [0, 1]"),
        (
            "def score(outputs, labels): return [float('nan')] * len(labels)",
            "gave scores outside, expected [0, 1]",
        ),
    ],
)
def test_a_metric_that_cannot_be_used(tiny, rewrite, code, message):
    if code is not None:
        (tiny.root / "mine.py").write_text(code)
    folder = rewrite("validation: validation.npz", "validation: validation.npz\nmetric: python:mine:score")
    with pytest.raises(ConfigError) as caught:
        measure(folder, "whole")
    assert message in str(caught.value)


def test_a_metric_may_not_leave_the_folder(rewrite):
    folder = rewrite("validation: validation.npz", "validation: validation.npz\nmetric: python:../mine:score")
    with pytest.raises(ConfigError, match=r"is missing|inside the service's folder"):
        open_metric(folder)


def test_top1_wants_one_score_for_each_class(tiny):
    outputs = {"grid": msgspec.structs.replace(tiny.service.outputs["logits"], shape=(2, 5))}
    folder = msgspec.structs.replace(tiny, service=msgspec.structs.replace(tiny.service, outputs=outputs))
    with pytest.raises(ConfigError, match=r"metric: metric top1 with first output 'grid' of shape \[2, 5\]"):
        open_metric(folder)


@pytest.mark.parametrize("label", [np.zeros((120, 2), np.int64), np.zeros(120)])
def test_top1_wants_whole_numbers(tiny, label):
    items = load_labelled(tiny.resolve("validation.npz", "validation"), tiny.service)
    with pytest.raises(ConfigError, match=r"expected whole numbers \[n\]"):
        measure(tiny, "whole", msgspec.structs.replace(items, label=label))


def test_opening_the_service_again_changes_nothing(tiny):
    assert measure(tiny, "whole") == measure(open_service(tiny.root), "whole")
