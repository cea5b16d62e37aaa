"""What the HTTP front end counts and holds, as Prometheus families."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from poise.telemetry.families import gauge
from poise.telemetry.traffic import Traffic


class FrontEnd(Protocol):
    """An HTTP server, or several processes that are one."""

    traffic: Traffic

    @property
    def connections(self) -> int:
        """How many connections there are."""

    @property
    def bodies_bytes(self) -> int:
        """How many bytes of bodies are on their way in."""


class HttpMetrics(Collector):
    """The metrics of one HTTP server."""

    def __init__(self, server: FrontEnd) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Yield every family; prometheus-client calls this."""
        server = self._server
        yield from server.traffic.families()
        yield from server.traffic.connection_families()
        yield gauge("poise_http_connections", "Open connections.", server.connections)
        yield gauge(
            "poise_http_bodies_bytes",
            "Bodies on their way in, those apart that arrive with their head in one read.",
            server.bodies_bytes,
        )
