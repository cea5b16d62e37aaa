"""The accuracy of every mode on the validation data: encode once, then the heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poise.domain.modalities import names_of
from poise.domain.profile import ModeProfile
from poise.domain.service import Service
from poise.errors import ConfigError
from poise.files import LabelledItems
from poise.files.metric import Metric, Scores
from poise.runtimes import StagedRunner, mode_labels
from poise.runtimes.tensors import padded

ACCURACY_BATCH = 32
"""Items that are answered at once; the answers do not depend on it."""


def measure_accuracy(
    service: Service,
    variant: str,
    runner: StagedRunner,
    items: LabelledItems,
    metric: Metric,
    *,
    independent: Mapping[str, int],
    on_batch: Callable[[float], None] = lambda done_frac: None,
) -> tuple[ModeProfile, ...]:
    """Return the accuracy of each modality set of a variant.

    Items with a free length are answered as a server would: padded with zeros to the bucket that holds them.

    ``accuracy_std`` is that of the items' scores about their mean, so its square is a·(1 − a) just where every
    score is 0 or 1. ``samples`` is the least of its modalities' independent items.

    Raises:
        ConfigError: items longer than the longest bucket, an output that is not a number or of a wrong shape, or
            scores outside [0, 1].
        WorkerError: the model failed.
    """
    labels = mode_labels(service, variant)
    masks = [service.modality_index.mask(names_of(label)) for label in labels]
    inputs = padded(items.inputs, service.inputs_of(service.modalities))
    scores: list[list[Scores]] = [[] for _ in labels]
    for start in range(0, len(items), ACCURACY_BATCH):
        rows = np.arange(start, min(start + ACCURACY_BATCH, len(items)))
        answers = runner.answer_sets(inputs, rows, masks)
        for at, (label, outputs) in enumerate(zip(labels, answers, strict=True)):
            where = f"variant {variant!r}, mode {label!r}"
            check_outputs(service, outputs, len(rows), where)
            scores[at].append(metric(outputs, items.label[rows], where))
        on_batch(float(rows[-1] + 1) / len(items))
    return tuple(
        ModeProfile(
            modalities=names_of(label),
            accuracy=float(np.concatenate(parts).mean()),
            accuracy_std=float(np.concatenate(parts).std()),
            samples=min(independent[name] for name in names_of(label)),
        )
        for label, parts in zip(labels, scores, strict=True)
    )


def check_outputs(service: Service, outputs: dict[str, NDArray[Any]], items: int, where: str) -> None:
    """Check what a model answered for a batch of validation items.

    Raises:
        ConfigError: another shape than the service's, or NaN.
    """
    for name, spec in service.outputs.items():
        array = outputs[name]
        if array.shape != (items, *spec.shape):
            raise ConfigError(
                f"{where}: output {name!r} of {items} items has shape {list(array.shape)}",
                field=f"outputs.{name}",
                expected=str([items, *spec.shape]),
            )
        if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
            bad = int(np.isnan(array).reshape(items, -1).any(axis=1).sum())
            raise ConfigError(
                f"{where}: output {name!r} is NaN for {bad} of {items} validation items",
                field=f"outputs.{name}",
                expected="numbers",
            )
