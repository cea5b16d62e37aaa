"""Names of modalities and sets of them.

Inside the core a modality set is a bit mask over the service's modalities in file order (bit 0 is the first);
outside it is a label, the names sorted and joined by ``+``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

SERVICE_NAME = re.compile(r"[a-zA-Z0-9._-]{1,64}\Z")
MODALITY_NAME = re.compile(r"[a-z0-9_]{1,32}\Z")
RESERVED_MODALITY_NAMES = frozenset({"mask", "head", "way"})
"""Names that mean something else: the head's presence mask, and two stages."""
MAX_MODALITIES = 8


def label_of(names: Iterable[str]) -> str:
    """Return the label of a modality set: names sorted, joined by ``+``."""
    return "+".join(sorted(names))


def names_of(label: str) -> tuple[str, ...]:
    """Return the sorted names in a label.

    Raises:
        ValueError: an empty label, an empty name, or a name that stands twice.
    """
    names = label.split("+")
    if any(not name for name in names):
        raise ValueError(f"got modality set {label!r}, expected modality names joined by '+'")
    if len(set(names)) != len(names):
        raise ValueError(f"got modality set {label!r}, expected each modality once")
    return tuple(sorted(names))


class ModalityIndex:
    """Translates between modality names, labels and bit masks of one service."""

    __slots__ = ("_bit", "_labels", "names")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._bit = {name: 1 << i for i, name in enumerate(self.names)}
        self._labels: dict[int, str] = {}

    @property
    def all(self) -> int:
        """Mask of every modality."""
        return (1 << len(self.names)) - 1

    def mask(self, names: Iterable[str]) -> int:
        """Return the mask of some names; KeyError for a name that is not the service's."""
        mask = 0
        for name in names:
            mask |= self._bit[name]
        return mask

    def mask_of_label(self, label: str) -> int:
        """Return the mask of a label; KeyError for an unknown name, ValueError for a malformed label."""
        return self.mask(names_of(label))

    def members(self, mask: int) -> tuple[str, ...]:
        """Return the names in a mask, in file order."""
        return tuple(name for name in self.names if mask & self._bit[name])

    def label(self, mask: int) -> str:
        """Return the label of a mask."""
        label = self._labels.get(mask)
        if label is None:
            label = self._labels[mask] = label_of(self.members(mask))
        return label

    def every_set(self) -> tuple[int, ...]:
        """Return the masks of all non-empty modality sets."""
        return tuple(range(1, 1 << len(self.names)))
