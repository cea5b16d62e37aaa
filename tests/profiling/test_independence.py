"""How many validation items are independent."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from poise.errors import ConfigError
from poise.files import load_labelled
from poise.profiling.independence import independent_items


@pytest.fixture
def items(tiny):
    """120 items whose image is one of 3, whose sound is always another, and whose word differs by length only."""
    items = load_labelled(tiny.resolve("validation.npz", "validation"), tiny.service)
    at = np.arange(120)
    inputs = {
        "pixels": np.repeat(at % 3, 6).reshape(120, 2, 3).astype(np.uint8),
        "wave": np.repeat(at, 4).reshape(120, 4).astype(np.float32),
        "letters": np.zeros((120, 2), np.int64),
        "length": (at % 7)[:, None].astype(np.float32),
    }
    return msgspec.structs.replace(items, inputs=inputs)


def test_equal_items_count_once(tiny, items):
    assert independent_items(tiny, items) == {"image": 3, "sound": 120, "word": 7}


def test_a_file_beside_the_data_may_know_of_fewer(tiny, items):
    (tiny.root / "validation.independent.json").write_text(json.dumps({"sound": 50, "image": 60}))
    assert independent_items(tiny, items) == {"image": 3, "sound": 50, "word": 7}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"smell": 3}',
            "validation.independent.json: smell: got modality 'smell', expected one of image, sound, word",
        ),
        ('{"sound": 0}', "validation.independent.json: sound: got 0, expected at least 1"),
        ('{"sound": 1, "sound": 2}', "duplicate key 'sound'"),
        ('{"sound": "many"}', "validation.independent.json: sound: "),
        ("{", "validation.independent.json:1: not JSON"),
    ],
)
def test_a_file_beside_the_data_that_cannot_be_used(tiny, items, text, message):
    (tiny.root / "validation.independent.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        independent_items(tiny, items)
    assert message in str(caught.value)
