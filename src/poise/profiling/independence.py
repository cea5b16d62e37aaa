"""How many items of the validation data are independent of each other, modality by modality.

An accuracy measured on 2,500 items that share 388 words is not as certain as one on 2,500 different items. Two
things tell how many there are:

- items of a modality whose bytes are equal count once. Noise drawn anew makes all of them differ, so this finds
  plain reuse only;
- a file beside the validation data, named as it with ``.independent.json`` for ``.npz``, says what its maker
  knows: ``{"clip": 2500, "speech": 750, "word": 388}``. A modality it does not name is counted only.

The smaller of the two holds; a mode has the samples of the modality that has fewest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from poise.domain.decoding import decode_json
from poise.errors import ConfigError
from poise.files import LabelledItems, ServiceFolder


def independent_items(folder: ServiceFolder, items: LabelledItems) -> dict[str, int]:
    """Return modality -> independent items.

    Raises:
        ConfigError: a file beside the validation data that does not decode, or names another modality.
    """
    counted = {
        name: count_distinct(items, modality.inputs) for name, modality in folder.service.modalities.items()
    }
    declared = _declared(folder)
    return {name: min(count, declared.get(name, count)) for name, count in counted.items()}


def count_distinct(items: LabelledItems, tensors: Iterable[str]) -> int:
    """Return how many items differ in some of these tensors."""
    arrays = [np.ascontiguousarray(items.inputs[name]) for name in tensors]
    seen = set()
    for row in range(len(items)):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(array[row].tobytes())
        seen.add(digest.digest())
    return len(seen)


def declared_file(folder: ServiceFolder) -> Path | None:
    """Return where the maker of the validation data may have said what is independent in it."""
    if folder.service.validation is None:
        return None
    name = str(PurePosixPath(folder.service.validation).with_suffix(".independent.json"))
    return folder.resolve(name, "validation", must_exist=False)


def _declared(folder: ServiceFolder) -> dict[str, int]:
    path = declared_file(folder)
    if path is None or not path.is_file():
        return {}
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=path.name) from None
    declared = decode_json(text, dict[str, int], path.name)
    for modality, count in declared.items():
        if modality not in folder.service.modalities:
            raise ConfigError(
                f"got modality {modality!r}",
                file=path.name,
                field=modality,
                expected=f"one of {', '.join(folder.service.modalities)}",
            )
        if count < 1:
            raise ConfigError(f"got {count}", file=path.name, field=modality, expected="at least 1")
    return declared
