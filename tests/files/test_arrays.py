"""Arrays that do not fit the service are refused: which file, which array, what was expected."""

from __future__ import annotations

import numpy as np
import pytest

from poise.errors import ConfigError
from poise.files import load_labelled


@pytest.fixture
def arrays(tiny):
    with np.load(tiny.root / "validation.npz") as archive:
        return {name: archive[name] for name in archive.files}


def refusal(folder, arrays) -> str:
    np.savez(folder.root / "validation.npz", **arrays)
    with pytest.raises(ConfigError) as caught:
        load_labelled(folder.root / "validation.npz", folder.service)
    return str(caught.value)


def test_arrays_that_fit(tiny, arrays):
    items = load_labelled(tiny.root / "validation.npz", tiny.service)
    assert len(items) == 120
    assert items.inputs.keys() == {"pixels", "wave", "letters", "length"}
    np.testing.assert_array_equal(items.label, arrays["label"])


@pytest.mark.parametrize("name", ["wave", "label"])
def test_a_missing_array(tiny, arrays, name):
    del arrays[name]
    assert refusal(tiny, arrays).startswith(f"validation.npz: {name}: array '{name}' is missing, expected ")


def test_an_unknown_array(tiny, arrays):
    text = refusal(tiny, arrays | {"waves": arrays["wave"]})
    assert text.startswith("validation.npz: waves: unknown array 'waves', expected one of [")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((120, 5), "array 'wave' has shape [120, 5], expected [n, 4]"),
        ((120,), "array 'wave' has shape [120], expected [n, 4]"),
        ((7, 4), "array 'wave' has 7 items, expected 120, as many as labels"),
    ],
)
def test_a_wrong_shape(tiny, arrays, shape, words):
    text = refusal(tiny, arrays | {"wave": np.zeros(shape, np.float32)})
    assert text == f"validation.npz: wave: {words}"


def test_a_wrong_type(tiny, arrays):
    text = refusal(tiny, arrays | {"wave": arrays["wave"].astype(np.float64)})
    assert text.startswith("validation.npz: wave: ")
    assert "float64" in text
    assert "FP32" in text or "float32" in text


def test_no_items(tiny, arrays):
    assert "validation.npz: no items" in refusal(tiny, {name: array[:0] for name, array in arrays.items()})


def test_objects_are_never_unpickled(tiny, arrays):
    label = np.array([{"a": 1}] * 120, dtype=object)
    assert refusal(tiny, arrays | {"label": label}).startswith("validation.npz: not an npz of plain arrays: ")


@pytest.mark.parametrize("content", [b"", b"not an npz", None])
def test_a_corrupt_file(tiny, content):
    file = tiny.root / "validation.npz"
    file.write_bytes(file.read_bytes()[:200] if content is None else content)
    with pytest.raises(ConfigError, match=r"^validation.npz: not an npz of plain arrays"):
        load_labelled(file, tiny.service)
