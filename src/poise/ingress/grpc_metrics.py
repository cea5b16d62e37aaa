"""What the gRPC front end counts, as Prometheus families."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from poise.ingress.grpc_server import GrpcServer


class GrpcMetrics(Collector):
    """The metrics of one gRPC server. Its connections are grpcio's own, which tells nothing of them."""

    def __init__(self, server: GrpcServer) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Yield every family; prometheus-client calls this."""
        yield from self._server.traffic.families()
