"""What a runtime offers: a runner answers a batch of items, each with its own modality set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]
"""Arrays by tensor name."""
Outputs = dict[str, NDArray[Any]]
"""What a graph or a variant gave, by tensor name."""
Rows = NDArray[np.intp]
"""Which rows of the arena a batch is made of."""
Masks = NDArray[np.integer[Any]]
"""The modality set of each item: bit *i* is the *i*-th modality of the service file."""
Measured = list[tuple[str, float]]
"""(stage name, seconds) of each stage that ran, in the order they ran."""


class VariantRunner(Protocol):
    """Runs one variant. Not safe to use from several threads at once; one runner belongs to one worker."""

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages that a run may measure."""

    def run(self, inputs: Tensors, rows: Rows, masks: Masks) -> tuple[Outputs, Measured]:
        """Answer the items in some rows of the arena, which is read and never written.

        Each stage runs at the shortest bucket that holds all of its items. How long they are stands under
        ``length_key(tensor)`` for each tensor with a free axis; without it all items are as long as the array.

        Returns the outputs by name and what each stage took. A stage's time is that of the model alone: what it
        costs to gather rows belongs to the stage ``way`` of the profile.

        Shapes: ``inputs[name]`` is [capacity, …], a free axis at its longest bucket; ``inputs[length_key(name)]``,
        ``rows`` and ``masks`` are [capacity], [n] and [n]; each output is [n, …], in the order of ``rows``.
        Raises:
            WorkerError: the model failed.
            InternalError: a mask that this variant cannot answer.
        """


class StagedRunner(VariantRunner, Protocol):
    """A runner whose stages can be run one by one, so that they can be measured."""

    def stage_call(self, stage: str, inputs: Tensors, rows: Rows) -> Callable[[], object]:
        """Return a call that runs one stage on some rows, with everything around it done beforehand."""

    def answer_sets(self, inputs: Tensors, rows: Rows, masks: Sequence[int]) -> list[Outputs]:
        """Answer the same items with each of several modality sets; what the sets share runs once.

        Shapes: ``rows`` is [n]; one dict of outputs [n, …] for each mask.
        """


def gather(array: NDArray[Any], rows: Rows) -> NDArray[Any]:
    """Return the rows of an array, contiguous: a view where they are consecutive, a copy otherwise.

    Shapes: ``array`` is [capacity, …], ``rows`` [n]; the result is [n, …].
    """
    n = len(rows)
    if n and rows[-1] - rows[0] == n - 1 and (n < 3 or bool((np.diff(rows) == 1).all())):
        return np.ascontiguousarray(array[rows[0] : rows[0] + n])
    return np.take(array, rows, axis=0)
