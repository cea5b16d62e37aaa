"""What the runtimes have in common: a stage is a graph that takes arrays by name and gives arrays by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from poise.errors import WorkerError
from poise.runtimes.base import Outputs, Tensors
from poise.runtimes.signature import Place, Port

MOST_CHARACTERS = 300
"""Of a library's own words about a failure."""


class Graph(Protocol):
    """One stage, loaded by some runtime. All that a runner asks of one."""

    @property
    def variant(self) -> str:
        """The variant that it belongs to."""

    @property
    def stage(self) -> str:
        """The stage that it is."""

    @property
    def place(self) -> Place:
        """Where it stands, for errors."""

    @property
    def inputs(self) -> tuple[Port, ...] | None:
        """The inputs that it declares; None where it declares none, and only running it tells."""

    @property
    def outputs(self) -> tuple[Port, ...] | None:
        """The outputs that it declares; None as with ``inputs``."""

    def __call__(self, names: Sequence[str] | None, feed: Tensors) -> Outputs:
        """Run it and return the outputs named, or all of them where ``names`` is None.

        ``feed`` is read and never written: its arrays may be views of the arena.

        Shapes: each array of ``feed`` is [n, …]; so is each output.
        Raises:
            WorkerError: it failed, or did not give an output that was named.
        """


def failed(graph: Graph, words: str) -> WorkerError:
    """Return the error of a stage that did not answer."""
    return WorkerError(f"variant {graph.variant!r}, stage {graph.stage!r}: {words}")


def reason_of(error: BaseException) -> str:
    """Return the first line of an exception's words, cut short; its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:MOST_CHARACTERS] if lines else type(error).__name__
