"""Kinds of workers that could not be loaded, or died: how long each is left alone."""

from __future__ import annotations

from math import inf

from poise.domain.allocation import Workers

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
AT_ONCE_S = 0.5
"""What is lost within so long of another loss has the same cause."""
STEADY_S = 60.0
"""A kind whose last load is longer ago than this when a worker of it dies begins with the first pause again."""


class Setbacks:
    """Pauses by kind, each twice as long as the last one, until its workers live for a while. Units: seconds."""

    def __init__(self) -> None:
        self.until: dict[Workers, float] = {}
        """When each kind may be tried again; kinds that may be tried now are not in it."""
        self._pause_s: dict[Workers, float] = {}
        self._failed: dict[Workers, int] = {}
        self._loaded_s: dict[Workers, float] = {}
        self._failed_s: dict[Workers, float] = {}

    @property
    def held_back(self) -> frozenset[Workers]:
        """The kinds that the next plan should do without: those that failed more than once in a row."""
        return frozenset(kind for kind in self.until if self._failed.get(kind, 0) > 1)

    def failed(self, kind: Workers, now_s: float) -> None:
        """Note that a worker of a kind could not be loaded, or was lost; several at about one time count once."""
        if now_s - self._failed_s.get(kind, -inf) < AT_ONCE_S:
            return
        self._failed_s[kind] = now_s
        loaded_s = self._loaded_s.pop(kind, None)
        if loaded_s is not None and now_s - loaded_s > STEADY_S:
            self._pause_s.pop(kind, None)
            self._failed.pop(kind, None)
        pause_s = self._pause_s.get(kind, FIRST_PAUSE_S)
        self.until[kind] = now_s + pause_s
        self._pause_s[kind] = min(2 * pause_s, LONGEST_PAUSE_S)
        self._failed[kind] = self._failed.get(kind, 0) + 1

    def loaded(self, kind: Workers, now_s: float) -> None:
        """Note that a worker of a kind has loaded: others may follow. Whether it lives is still to be seen."""
        self.until.pop(kind, None)
        self._loaded_s[kind] = now_s

    def over(self, now_s: float) -> bool:
        """Let the kinds go whose pause is over; say whether there were any."""
        over = [kind for kind, until_s in self.until.items() if until_s <= now_s]
        for kind in over:
            del self.until[kind]
        return bool(over)
