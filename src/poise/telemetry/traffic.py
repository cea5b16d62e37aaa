"""What a front end counts of its protocol: requests by where they went and what they were told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.core import Metric

from poise.telemetry.families import counter, counter_family


class Traffic:
    """The counts of one front end; ``protocol`` is ``http`` or ``grpc``, and part of the metrics' names.

    ``requests`` by (route or method, code): both come from fixed tables, never from what a client wrote. They are added
    to in place, by whoever replies.
    """

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self.requests: defaultdict[tuple[str, str | int], int] = defaultdict(int)
        self.connections_opened = 0
        self.connections_refused = 0

    def families(self) -> Iterator[Metric]:
        """Yield the counters of requests."""
        protocol = self._protocol
        where = "route" if protocol == "http" else "method"
        yield counter_family(
            f"poise_{protocol}_requests",
            f"Requests by {where} and status; without a {where}: those that led to none.",
            (where, "code"),
            (((name, str(code)), count) for (name, code), count in self.requests.items()),
        )

    def connection_families(self) -> Iterator[Metric]:
        """Yield the counters of connections, for a front end that sees them."""
        protocol = self._protocol
        yield counter(
            f"poise_{protocol}_connections_opened",
            "Connections that clients opened, those refused included.",
            self.connections_opened,
        )
        yield counter(
            f"poise_{protocol}_connections_refused",
            "Connections closed at once because there were too many.",
            self.connections_refused,
        )
