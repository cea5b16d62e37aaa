"""Validation and test arrays (``.npz``), held against the service's inputs."""

from __future__ import annotations

import zipfile
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.domain.service import Service
from poise.domain.slots import slots_of_array
from poise.errors import ConfigError


class LabelledItems(msgspec.Struct, frozen=True):
    """Items with labels. Shapes: ``inputs[name]`` is [n, …] by input name; ``label`` is [n, …]."""

    inputs: dict[str, NDArray[np.generic]]
    label: NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.label)


def load_labelled(path: Path, service: Service) -> LabelledItems:
    """Read an ``.npz`` whose arrays are named as the service's inputs, and ``label``.

    Raises:
        ConfigError: not an npz, a missing or unknown array, a wrong type or shape, unequal lengths, no items.
    """
    name = path.name
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"not an npz of plain arrays: {reason}", file=name) from None
    if "label" not in arrays:
        raise ConfigError(
            "array 'label' is missing", file=name, field="label", expected="labels, one for each item"
        )
    label = arrays.pop("label")
    specs = {
        tensor: spec for modality in service.modalities.values() for tensor, spec in modality.inputs.items()
    }
    unknown = sorted(set(arrays) - set(specs))
    if unknown:
        raise ConfigError(
            f"unknown array {unknown[0]!r}",
            file=name,
            field=unknown[0],
            expected=f"one of {sorted([*specs, 'label'])}",
        )
    inputs: dict[str, NDArray[np.generic]] = {}
    for tensor, spec in specs.items():
        if tensor not in arrays:
            raise ConfigError(
                f"array {tensor!r} is missing",
                file=name,
                field=tensor,
                expected=f"one of shape [n, {_shape(spec.shape)}]",
            )
        array = arrays[tensor]
        if spec.datatype == "BYTES" and array.dtype.kind in "SU":
            try:
                array = slots_of_array(array, spec.max_bytes or 0)
            except ValueError as error:
                raise ConfigError(f"array {tensor!r}: {error}", file=name, field=tensor) from None
        if array.dtype != spec.numpy_type:
            raise ConfigError(
                f"array {tensor!r} has type {array.dtype}", file=name, field=tensor, expected=spec.datatype
            )
        fits = array.ndim == len(spec.shape) + 1 and all(
            want in (-1, got) for want, got in zip(spec.shape, array.shape[1:], strict=True)
        )
        if not fits:
            raise ConfigError(
                f"array {tensor!r} has shape {list(array.shape)}",
                file=name,
                field=tensor,
                expected=f"[n, {_shape(spec.shape)}]",
            )
        if len(array) != len(label):
            raise ConfigError(
                f"array {tensor!r} has {len(array)} items",
                file=name,
                field=tensor,
                expected=f"{len(label)}, as many as labels",
            )
        inputs[tensor] = array
    if not len(label):
        raise ConfigError("no items", file=name, expected="at least one")
    return LabelledItems(inputs=inputs, label=label)


def _shape(shape: tuple[int, ...]) -> str:
    return ", ".join("any" if size == -1 else str(size) for size in shape)
