"""The inputs of one stage for a batch: its rows gathered, its free axes cut to the batch's bucket."""

from __future__ import annotations

from collections.abc import Mapping

from poise.domain.service import TensorSpec, length_key
from poise.errors import InternalError
from poise.runtimes.base import Outputs, Rows, Tensors, gather
from poise.runtimes.tensors import as_model_takes


class StageFeed:
    """Gathers what one stage takes.

    A batch is padded to the shortest rung that holds the longest of its items: the arena has them padded with zeros
    to the longest bucket, so that shorter ones are a slice of it.
    """

    def __init__(self, specs: Mapping[str, TensorSpec]) -> None:
        self._specs = dict(specs)
        self._free = [(name, spec) for name, spec in specs.items() if spec.buckets]

    def __call__(self, inputs: Tensors, rows: Rows) -> Outputs:
        """Return the stage's inputs. Shapes: ``rows`` is [n]; [n, …] each, contiguous."""
        rung = self.rung(inputs, rows) if self._free else None
        feed: Outputs = {}
        for name, spec in self._specs.items():
            array = inputs[name]
            if rung is not None and spec.buckets:
                array = array[(slice(None), *(slice(size) for size in spec.shape_at(rung)))]
            feed[name] = as_model_takes(gather(array, rows))
        return feed

    def rung(self, inputs: Tensors, rows: Rows) -> int | None:
        """Return the rung that some items are padded to; None where their lengths are not told.

        Raises:
            InternalError: an item longer than the longest bucket, which the front end refuses.
        """
        rung: int | None = None
        for name, spec in self._free:
            lengths = inputs.get(length_key(name))
            if lengths is None:
                return None
            longest = int(lengths[rows].max())
            try:
                rung = max(rung or 0, spec.rung_of(longest))
            except ValueError as error:
                raise InternalError(f"input {name!r}: {error}") from None
        return rung
