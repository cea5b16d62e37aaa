"""The metric of a service: a score in [0, 1] for each item."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poise.domain.service import Service
from poise.errors import ConfigError
from poise.files.service_folder import ServiceFolder

Scores = NDArray[np.float64]
Outputs = dict[str, NDArray[Any]]
Metric = Callable[[Outputs, NDArray[Any], str], Scores]
"""(outputs [n, …] by name, labels [n, …], where, for errors) -> scores [n]."""


def open_metric(folder: ServiceFolder) -> Metric:
    """Return the metric that the service file names.

    ``top1``: 1 where the largest value of the service's first output stands at the label. Otherwise
    ``python:module:function``: ``function(outputs, labels)`` of ``module.py`` in the service's folder, which is the
    operator's own code.

    Raises:
        ConfigError: no such module or function, or an output that top1 does not fit.
    """
    service = folder.service
    if service.metric == "top1":
        return _top1(service)
    _, module, function = service.metric.split(":")
    return _checked(_load(folder, module, function), folder.service.metric)


def metric_file(folder: ServiceFolder) -> Path | None:
    """Return the file of the operator's own metric; None for a metric of poise's."""
    if folder.service.metric == "top1":
        return None
    return folder.resolve(_source(folder.service.metric.split(":")[1]), "metric", must_exist=False)


def _source(module: str) -> str:
    return f"{module.replace('.', '/')}.py"


_KINDS = {
    "b": "true or false",
    "i": "whole numbers",
    "u": "whole numbers",
    "f": "numbers with fractions",
    "U": "texts, or some of them",
    "S": "texts, or some of them",
}
"""What labels are to people, by the kind of their type."""


def _top1(service: Service) -> Metric:
    name, spec = next(iter(service.outputs.items()))
    if len(spec.shape) != 1:
        raise ConfigError(
            f"metric top1 with first output {name!r} of shape {list(spec.shape)}",
            field="metric",
            expected="a first output of one score for each class, or python:module:function",
        )

    def top1(outputs: Outputs, labels: NDArray[Any], where: str) -> Scores:
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            sizes = ", ".join(["n", *map(str, labels.shape[1:])])
            kind = _KINDS.get(labels.dtype.kind, "something else")
            raise ConfigError(
                f"metric top1 with labels that are {kind}, of shape [{sizes}]",
                field="validation",
                expected="whole numbers [n]",
            )
        classes = outputs[name].shape[1]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ConfigError(
                f"metric top1 with labels from {labels.min()} to {labels.max()}",
                field="label",
                expected=f"0 to {classes - 1}, as output {name!r} has",
            )
        return np.asarray(outputs[name].argmax(axis=1) == labels, np.float64)

    return top1


def _load(folder: ServiceFolder, module: str, function: str) -> Callable[[Outputs, NDArray[Any]], Any]:
    path = folder.resolve(_source(module), "metric")
    spec = importlib.util.spec_from_file_location(f"poise_metric_{module.replace('.', '_')}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path.name} cannot be imported", file=folder.file.name, field="metric")
    loaded = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(loaded)
    except (Exception, SystemExit) as error:  # the operator's code may raise anything
        raise ConfigError(
            f"{path.name} fails when imported: {type(error).__name__}: {error}",
            file=folder.file.name,
            field="metric",
        ) from error
    found = getattr(loaded, function, None)
    if not callable(found):
        raise ConfigError(
            f"{path.name} has no function {function!r}", file=folder.file.name, field="metric", expected="one"
        )
    return found  # type: ignore[no-any-return]


def _checked(function: Callable[[Outputs, NDArray[Any]], Any], name: str) -> Metric:
    def metric(outputs: Outputs, labels: NDArray[Any], where: str) -> Scores:
        try:
            scores = np.asarray(function(outputs, labels), np.float64)
        except (Exception, SystemExit) as error:  # the operator's code may raise anything
            raise ConfigError(
                f"{where}: metric {name} fails: {type(error).__name__}: {error}", field="metric"
            ) from error
        if scores.shape != (len(labels),):
            raise ConfigError(
                f"{where}: metric {name} gave shape {list(scores.shape)}",
                field="metric",
                expected=f"one score for each of {len(labels)} items",
            )
        if not ((scores >= 0) & (scores <= 1)).all():
            raise ConfigError(
                f"{where}: metric {name} gave scores outside", field="metric", expected="[0, 1]"
            )
        return scores

    return metric
