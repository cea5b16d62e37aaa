"""Calls the solver beside the event loop, and waits for it no longer than it may take."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable

from poise.adapting.events import AllocationSolved
from poise.domain.allocation import Allocation

GRACE_S = 0.5
"""A solver that keeps to its limit needs a little longer in all: what it found is waited for."""
MAX_ASTRAY = 2
"""So many calls may be out past their time before no other is begun: a thread cannot be ended."""

Solved = Callable[[AllocationSolved], None]


class Solving:
    """Runs one call at a time in a thread of its own; each is answered once, by its result or by why there is none.

    ``solved`` is called on the event loop. A call that does not come back in time is left to itself.
    """

    def __init__(self, solved: Solved) -> None:
        self._solved = solved
        self._out: dict[int, asyncio.TimerHandle] = {}
        self._astray = 0

    def begin(self, solve_id: int, solve: Callable[[], Allocation | None], time_limit_s: float) -> None:
        """Call ``solve``; ``AllocationSolved`` follows."""
        loop = asyncio.get_running_loop()
        if self._astray >= MAX_ASTRAY:
            trouble = f"{self._astray} earlier calls of the solver have not come back"
            loop.call_soon(self._answer, solve_id, None, 0.0, trouble)
            return
        self._out[solve_id] = loop.call_later(time_limit_s + GRACE_S, self._too_late, solve_id, time_limit_s)

        def call() -> None:
            begun_s = time.monotonic()
            found: Allocation | None = None
            trouble = ""
            try:
                found = solve()
            except Exception as error:  # whatever it is, the last good plan stays
                trouble = f"the solver raised {type(error).__name__}: {error}"
            took_s = time.monotonic() - begun_s
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._back, solve_id, found, took_s, trouble)

        # A daemon: a solver that never comes back may not keep the server from ending.
        threading.Thread(target=call, name=f"solver-{solve_id}", daemon=True).start()

    def _back(self, solve_id: int, found: Allocation | None, took_s: float, trouble: str) -> None:
        if solve_id in self._out:
            self._out.pop(solve_id).cancel()
            self._answer(solve_id, found, took_s, trouble)
        else:
            self._astray -= 1

    def _too_late(self, solve_id: int, time_limit_s: float) -> None:
        if solve_id in self._out:
            del self._out[solve_id]
            self._astray += 1
            took_s = time_limit_s + GRACE_S
            self._answer(solve_id, None, took_s, f"the solver took longer than {time_limit_s:g} s")

    def _answer(self, solve_id: int, found: Allocation | None, solve_s: float, trouble: str) -> None:
        if found is None and not trouble:
            trouble = "the solver found no allocation"
        self._solved(AllocationSolved(time.monotonic(), solve_id, found, solve_s, trouble))
