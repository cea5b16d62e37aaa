"""Metrics of the server's process, and of what was built."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

import poise
from poise.telemetry.families import gauge_family


class ProcessMetrics(Collector):
    """Resident memory, CPU time, file descriptors and start time under Prometheus' own names, and the build."""

    def __init__(self) -> None:
        self._process = ProcessCollector(registry=None)
        build = (poise.__version__, platform.python_version(), metadata.version("onnxruntime"))
        self._build = gauge_family(
            "poise_build_info",
            "1, with what was built as labels.",
            ("version", "python", "onnxruntime"),
            ((build, 1.0),),
        )

    def collect(self) -> Iterator[Metric]:
        """Yield every family; prometheus-client calls this."""
        yield from self._process.collect()
        yield self._build
