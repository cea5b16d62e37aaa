"""The python runtime: the operator's own code, a module of the service's folder that runs the stages itself.

The module has a function, the ``factory`` of the service file, that loads a variant::

    def load(folder: Path, threads: int, device: str) -> Model: ...

``folder`` is the service's, ``threads`` what the code may use, ``device`` ``cpu`` or ``cuda``. What it returns has
``stages``, a mapping of names to callables, which the values of ``encoders``, ``head`` and ``graphs`` name. A stage
takes a dict of arrays and returns one: an encoder takes its modality's inputs and returns one array of any name, a
head takes the embeddings by modality name and ``mask``, a graph the inputs of its modality set; the latter two
return the service's outputs. All arrays are [n, …] in the batch dimension and those given are read-only.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poise.domain.service import Device, Service
from poise.errors import ConfigError, WorkerError
from poise.runtimes.base import Outputs, StagedRunner, Tensors
from poise.runtimes.graph import MOST_CHARACTERS, failed
from poise.runtimes.runners import open_stages
from poise.runtimes.signature import Place, Port

FACTORY_ARGUMENTS = ("folder", "threads", "device")

_RAISES = (Exception, SystemExit)
"""What the operator's code may raise and the worker survives."""


class PythonGraph:
    """One stage of the operator's code; see ``Graph``. What it takes and gives shows only when it is run."""

    inputs: tuple[Port, ...] | None = None
    outputs: tuple[Port, ...] | None = None

    def __init__(self, variant: str, stage: str, place: Place, run: Callable[[dict[str, Any]], Any]) -> None:
        self.variant = variant
        self.stage = stage
        self.place = place
        self._run = run

    def __call__(self, names: Sequence[str] | None, feed: Tensors) -> Outputs:
        """Run the stage; see ``Graph.__call__``. The arrays it is given cannot be written to."""
        given: Outputs = {}
        for name, array in feed.items():
            given[name] = array.view()
            given[name].flags.writeable = False
        items = len(next(iter(given.values())))
        try:
            gave = self._run(given)
        except _RAISES as error:
            raise failed(self, _words(error)) from error
        if not isinstance(gave, Mapping):
            raise failed(self, f"returned {type(gave).__name__}, expected a dict of arrays")
        wanted = tuple(gave) if names is None else names
        missing = [name for name in wanted if name not in gave]
        if missing:
            raise failed(self, f"returned no {missing[0]!r}, but {', '.join(map(repr, gave)) or 'nothing'}")
        for name in wanted:
            array = gave[name]
            if not isinstance(array, np.ndarray):
                raise failed(self, f"returned {name!r} as {type(array).__name__}, expected a numpy array")
            if array.ndim == 0 or len(array) != items:
                raise failed(
                    self,
                    f"returned {name!r} of shape {list(array.shape)} for {items} items, expected as many rows",
                )
        return {name: gave[name] for name in wanted}


def open_python(
    service: Service, variant: str, resolve: Callable[[str, str], Path], *, threads: int, device: Device
) -> StagedRunner:
    """Import the operator's module, load the variant, and hold its stages against the service.

    Raises:
        ConfigError: no such module, factory or stage, or one that does not take or give what it must.
        WorkerError: the operator's code raised.
    """
    declared = service.variants[variant]
    if (
        declared.module is None or declared.factory is None
    ):  # the service file's own check; for the type checker
        raise ConfigError(f"variant {variant!r} has no module and factory", field=f"variants.{variant}")
    path = resolve(declared.module, f"variants.{variant}.module")
    folder = path.parents[len(Path(declared.module).parts) - 1]
    module = _import(variant, declared.module, path)
    place = Place(file=declared.module, field=f"variants.{variant}.factory")
    stages = _stages(_load(variant, module, declared.factory, place, folder, threads, device), place)

    def load(stage: str, field: str, named: str) -> PythonGraph:
        at = Place(file=path.name, field=f"variants.{variant}.{field}")
        if named not in stages:
            raise at.error(
                f"got stage {named!r}", f"one of {', '.join(map(str, stages)) or 'none: stages is empty'}"
            )
        if not callable(stages[named]):
            raise at.error(f"stage {named!r} is {type(stages[named]).__name__}", "something to call")
        return PythonGraph(variant, stage, at, stages[named])

    return open_stages(service, variant, load)


def _import(variant: str, relative: str, path: Path) -> Any:
    """Import a file as a module of its own name; ``__init__.py`` makes a package, which has relative imports."""
    name = "poise_service_" + "".join(c if c.isalnum() else "_" for c in f"{variant}_{relative}")
    place = Place(file=relative, field=f"variants.{variant}.module")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise place.error("not a file that Python can import", "a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and relative imports look it up
    try:
        spec.loader.exec_module(module)
    except _RAISES as error:
        raise WorkerError(f"variant {variant!r}: importing {relative} fails: {_words(error)}") from error
    return module


def _load(
    variant: str, module: Any, factory: str, place: Place, folder: Path, threads: int, device: Device
) -> object:
    function = getattr(module, factory, None)
    if not callable(function):
        raise place.error(f"there is no function {factory!r}", "one that loads the variant")
    arguments = {"folder": folder, "threads": threads, "device": device}
    try:
        inspect.signature(function).bind(**arguments)
    except (TypeError, ValueError) as error:
        raise place.error(
            f"{factory}{_signature(function)} cannot be called: {error}",
            f"{factory}({', '.join(FACTORY_ARGUMENTS)})",
        ) from None
    try:
        loaded: object = function(**arguments)
    except _RAISES as error:
        raise WorkerError(
            f"variant {variant!r}: {factory}() of {place.file} fails: {_words(error)}"
        ) from error
    return loaded


def _stages(loaded: object, place: Place) -> Mapping[str, Any]:
    stages = getattr(loaded, "stages", None)
    if not isinstance(stages, Mapping):
        found = "no stages" if stages is None else f"stages of type {type(stages).__name__}"
        raise place.error(
            f"what it returned, {type(loaded).__name__}, has {found}", "stages, a dict of names to callables"
        )
    return stages


def _signature(function: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):
        return "(...)"


def _words(error: BaseException) -> str:
    """Return an exception's type and words: the operator knows both."""
    return f"{type(error).__name__}: {error}"[:MOST_CHARACTERS]
