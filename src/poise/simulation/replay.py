"""A recorded log, replayed: the same events through a fresh scheduler must lead to the same commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from poise.errors import InternalError
from poise.scheduling.commands import Command
from poise.scheduling.events import Event
from poise.scheduling.log import LogHeader
from poise.scheduling.scheduler import Scheduler
from poise.simulation.driver import EventHandler

MAX_DIFFERING = 100
"""So many differences are kept: after the first the two schedulers are in different states anyway."""


class Difference(msgspec.Struct, frozen=True):
    """One event that led to other commands than recorded.

    ``line`` is its line in the log (the header is line 1). ``failed`` is what the scheduler raised instead of
    returning commands; the replay ends there.
    """

    line: int
    event: Event
    expected: tuple[Command, ...]
    got: tuple[Command, ...]
    failed: str | None = None


class ReplayReport(msgspec.Struct, frozen=True):
    """What a replay came to: how many events, and how many led to other commands.

    ``differing`` holds the first of them, at most ``MAX_DIFFERING``.
    """

    events: int
    differences: int
    differing: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether every event led to the recorded commands."""
        return not self.differences


def replay(
    header: LogHeader,
    entries: Iterable[tuple[Event, Sequence[Command]]],
    *,
    scheduler: EventHandler | None = None,
) -> ReplayReport:
    """Put every recorded event through a scheduler built from the header, and compare its commands.

    ``scheduler`` takes the place of poise's own, for a log that another recorded.

    Raises:
        ConfigError: the header names what this version does not have, or an entry does not decode.
    """
    if scheduler is None:
        scheduler = Scheduler(header.service, header.profile, header.policy)
    events = 0
    differences = 0
    differing: list[Difference] = []
    for line, (event, recorded) in enumerate(entries, start=2):
        events += 1
        expected = tuple(recorded)
        failed = None
        got: tuple[Command, ...] = ()
        try:
            got = tuple(scheduler.handle(event))
        except InternalError as error:
            failed = str(error)
        if got != expected or failed is not None:
            differences += 1
            if len(differing) < MAX_DIFFERING:
                differing.append(Difference(line, event, expected, got, failed))
        if failed is not None:
            break
    return ReplayReport(events, differences, tuple(differing))
