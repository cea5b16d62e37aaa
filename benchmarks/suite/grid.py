"""A table that is printed on a terminal, and in Markdown for the README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from rich.markup import escape
from rich.table import Table


class Grid(msgspec.Struct, frozen=True):
    """A table. Shapes: ``rows[i]`` is as long as ``header``. ``detail``: not for the README."""

    title: str
    header: Sequence[str]
    rows: Iterable[Sequence[str]]
    note: str = ""
    detail: bool = False

    def for_terminal(self) -> Table:
        """Return it for rich."""
        table = Table(
            title=escape(self.title),
            title_justify="left",
            caption=escape(self.note) or None,
            caption_justify="left",
        )
        for at, name in enumerate(self.header):
            table.add_column(name, justify="left" if at == 0 else "right")
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [f"**{self.title}**", "", _line(self.header)]
        lines.append(_line(["---", *["---:"] * (len(self.header) - 1)]))
        lines += [_line(row) for row in self.rows]
        if self.note:
            lines += ["", self.note]
        return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
