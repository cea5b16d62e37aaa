"""What the HTTP front end counts and holds, as Prometheus families."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from poise.ingress.http_server import HttpServer
from poise.telemetry.families import gauge


class HttpMetrics(Collector):
    """The metrics of one HTTP server."""

    def __init__(self, server: HttpServer) -> None:
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
