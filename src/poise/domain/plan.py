"""Modality plans: how many items of a batch use which modality set."""

from __future__ import annotations

import msgspec


class ModalityPlan(msgspec.Struct, frozen=True):
    """One point of a frontier.

    Units: ``latency_s`` in seconds; ``accuracy`` is the mean over the batch's items, in [0, 1].
    Shapes: ``counts`` pairs (modality mask, items), items summing to ``batch``.
    """

    batch: int
    latency_s: float
    accuracy: float
    counts: tuple[tuple[int, int], ...]
