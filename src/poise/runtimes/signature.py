"""Holds what a graph takes and gives against what the service declares, before the first request does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from numpy.typing import NDArray

from poise.domain.service import TensorSpec
from poise.errors import ConfigError
from poise.runtimes.tensors import DATATYPE, ONNX_TYPE, datatype_of, model_datatype


class _NodeArg(Protocol):
    name: str
    type: str
    shape: Sequence[int | str | None]


class Port(msgspec.Struct, frozen=True):
    """An input or output of a graph. Shapes: ``shape`` has the batch dimension; None where a size is free."""

    name: str
    datatype: str
    shape: tuple[int | None, ...]


class Place(msgspec.Struct, frozen=True):
    """Where a graph stands: the model file, and the field of the service file that names it."""

    file: str
    field: str

    def error(self, message: str, expected: str) -> ConfigError:
        """Return the error of a graph that is not what the service says."""
        return ConfigError(message, file=self.file, field=self.field, expected=expected)


def port_of(arg: _NodeArg) -> Port:
    """Return what ONNX Runtime tells about an input or output."""
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in arg.shape)
    return Port(name=arg.name, datatype=DATATYPE.get(arg.type, arg.type), shape=shape)


def check_inputs(ports: Sequence[Port], specs: Mapping[str, TensorSpec], place: Place) -> None:
    """Check that a graph takes just the tensors of ``specs``.

    Raises:
        ConfigError: an input is missing or unknown, or has another type or shape.
    """
    found = {port.name: port for port in ports}
    for name in specs:
        if name not in found:
            raise place.error(
                f"the graph has no input {name!r} (it has {_names(found)})", f"inputs {_names(specs)}"
            )
    for name, port in found.items():
        if name not in specs:
            raise place.error(f"the graph has an input {name!r}", f"inputs {_names(specs)} only")
        _check_port("input", port, specs[name], place)


def check_outputs(ports: Sequence[Port], specs: Mapping[str, TensorSpec], place: Place) -> None:
    """Check that a graph gives the tensors of ``specs``; it may give others too.

    Raises:
        ConfigError: an output is missing, or has another type or shape.
    """
    found = {port.name: port for port in ports}
    for name, spec in specs.items():
        if name not in found:
            raise place.error(
                f"the graph has no output {name!r} (it has {_names(found)})", f"outputs {_names(specs)}"
            )
        _check_port("output", found[name], spec, place)


def check_arrays(
    arrays: Mapping[str, NDArray[Any]], specs: Mapping[str, TensorSpec], items: int, place: Place
) -> None:
    """Check what a graph really gave for a batch, whatever it says of itself.

    Raises:
        ConfigError: an output of another shape or type.
    """
    for name, spec in specs.items():
        if arrays[name].shape != (items, *spec.shape):
            raise place.error(
                f"output {name!r} of a batch of {items} has shape {list(arrays[name].shape)}",
                str([items, *spec.shape]),
            )
        if datatype_of(arrays[name]) != model_datatype(spec):
            raise place.error(f"output {name!r} is {datatype_of(arrays[name])}", model_datatype(spec))


def check_batch_dimension(kind: str, port: Port, place: Place) -> None:
    """Check that a port's first dimension is free.

    Raises:
        ConfigError: no dimensions, or a fixed first one.
    """
    if not port.shape or port.shape[0] is not None:
        raise place.error(
            f"{kind} {port.name!r} has shape {_shape(port.shape)}", "a free first dimension, for the batch"
        )


def _check_port(kind: str, port: Port, spec: TensorSpec, place: Place) -> None:
    wanted = model_datatype(spec)
    if port.datatype != wanted:
        known = port.datatype if port.datatype in ONNX_TYPE else f"of type {port.datatype}"
        raise place.error(
            f"{kind} {port.name!r} is {known}",
            wanted if wanted == spec.datatype else f"{wanted}, which {spec.datatype} is computed in",
        )
    check_batch_dimension(kind, port, place)
    sizes = port.shape[1:]
    fits = len(sizes) == len(spec.shape) and all(
        got is None or got == want for got, want in zip(sizes, spec.shape, strict=True)
    )
    if not fits:
        want = (None, *(None if size == -1 else size for size in spec.shape))
        raise place.error(f"{kind} {port.name!r} has shape {_shape(port.shape)}", _shape(want))


def _shape(shape: Sequence[int | None]) -> str:
    sizes = ["any" if size is None else str(size) for size in shape]
    if sizes and sizes[0] == "any":
        sizes[0] = "n"
    return f"[{', '.join(sizes)}]"


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
