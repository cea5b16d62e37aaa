"""The torch runtime: one exported program (``.pt2``, of ``torch.export.save``) for each model file of a variant.

torch is no requirement of poise: it is imported when such a variant is opened. A program's inputs are named as the
arguments of the exported ``forward``. It returns a dict of tensors by name, or one tensor where there is one thing
to return: an embedding, or the only output of the service.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from poise.domain.service import Device, Service
from poise.errors import ConfigError
from poise.runtimes.base import Outputs, StagedRunner, Tensors
from poise.runtimes.graph import failed, reason_of
from poise.runtimes.pt2 import EXPECTED, check_archive
from poise.runtimes.runners import open_stages
from poise.runtimes.signature import Place, Port
from poise.runtimes.stages import HEAD_STAGE

INSTALL = "pip install torch==2.13.0"

_TYPES = {"bool": "BOOL", "half": "FP16", "float16": "FP16", "float32": "FP32", "float64": "FP64"}
"""torch's names of types that are not the protocol's in small letters."""
_INTEGER = re.compile(r"u?int(8|16|32|64)")


class TorchGraph:
    """One exported program; see ``Graph``."""

    outputs: tuple[Port, ...] | None = None  # a program names its outputs when it returns them

    def __init__(
        self,
        variant: str,
        stage: str,
        place: Place,
        program: Any,
        *,
        torch: Any,
        threads: int,
        lone: str | None,
    ) -> None:
        self.variant = variant
        self.stage = stage
        self.place = place
        self.inputs: tuple[Port, ...] | None = _ports(program, place)
        self._names = [port.name for port in self.inputs]
        self._arguments = program.call_spec.in_spec
        self._lone = lone
        self._torch = torch
        self._threads = threads
        # Its guards are text that would be run; what they check, the probes and the tensors' own sizes do.
        self._module = program.module(check_guards=False)
        self._unflatten = importlib.import_module("torch.utils._pytree").tree_unflatten

    def __call__(self, names: Sequence[str] | None, feed: Tensors) -> Outputs:
        """Run the program; see ``Graph.__call__``."""
        torch = self._torch
        try:
            if torch.get_num_threads() != self._threads:  # one for the process: another variant's, perhaps
                torch.set_num_threads(self._threads)
            flat = [
                torch.from_numpy(array if array.flags.writeable else array.copy())
                for array in (feed[name] for name in self._names)
            ]
            arguments, keywords = self._unflatten(flat, self._arguments)
            with torch.inference_mode():
                gave = self._module(*arguments, **keywords)
            given = gave if isinstance(gave, Mapping) else {str(self._lone): gave}
            return {name: given[name].numpy() for name in (given if names is None else names)}
        except KeyError as error:
            raise failed(self, f"the program returned no {error}") from error
        except Exception as error:  # torch raises what it likes
            raise failed(self, reason_of(error)) from error


def open_torch(
    service: Service, variant: str, resolve: Callable[[str, str], Path], *, threads: int, device: Device
) -> StagedRunner:
    """Load the exported programs of a variant and hold them against the service.

    Raises:
        ConfigError: no torch, a device other than the CPU, a missing file, one that is no exported program or holds
            more than that, another signature than the service's.
        WorkerError: a program fails on a batch of zeros.
    """
    torch = _import_torch(variant)
    if device != "cpu":
        raise ConfigError(
            f"runtime torch was asked for on {device}",
            field=f"variants.{variant}.devices",
            expected="cpu: other devices are not available in this release",
        )
    with contextlib.suppress(RuntimeError):  # it may be set once in a process, before the first parallel work
        torch.set_num_interop_threads(1)
    torch.set_num_threads(threads)
    only_output = next(iter(service.outputs)) if len(service.outputs) == 1 else None
    encoders = service.variants[variant].encoders

    def load(stage: str, field: str, path: str) -> TorchGraph:
        place = Place(file=path, field=f"variants.{variant}.{field}")
        file = resolve(path, place.field)
        check_archive(file, place, torch)
        try:
            with warnings.catch_warnings():  # torch warns of its own insides
                warnings.simplefilter("ignore")
                program = torch.export.load(str(file))
                # What is written in place shows as outputs there; that form is looked at and not run.
                functional = program.run_decompositions({}) if _may_write(program) else program
        except Exception as error:  # whatever torch raises
            raise place.error(f"not a program that torch can load: {reason_of(error)}", EXPECTED) from None
        lone = "embedding" if encoders and stage != HEAD_STAGE else only_output
        _check_writes(functional.graph_signature, place)
        _check_outputs(program, place, lone)
        return TorchGraph(variant, stage, place, program, torch=torch, threads=threads, lone=lone)

    return open_stages(service, variant, load)


def _import_torch(variant: str) -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise ConfigError(
            f"variant {variant!r} needs torch, which is not installed here",
            field=f"variants.{variant}.runtime",
            expected=f"torch; run: {INSTALL}",
        ) from None


def _may_write(program: Any) -> bool:
    """Return whether some operator of a program writes to one of its arguments, as far as the operators say."""
    graphs = (module.graph for module in program.graph_module.modules() if hasattr(module, "graph"))
    for node in chain.from_iterable(graph.nodes for graph in graphs):
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        training = "batch_norm" in schema.name or "instance_norm" in schema.name
        if schema.is_mutable or (training and len(node.args) > 5 and node.args[5] is True):
            return True  # norms do not say that they change their statistics
    return False


def _ports(program: Any, place: Place) -> tuple[Port, ...]:
    """Return the program's inputs, in the order it takes them.

    Raises:
        ConfigError: an input that is no tensor.
    """
    tensors: dict[str, Any] = {
        node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"
    }
    ports = []
    for name in program.graph_signature.user_inputs:
        value: Any = tensors.get(name)
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise place.error(f"the program has an input {name!r} that is no tensor", "tensors only")
        shape = tuple(size if isinstance(size, int) else None for size in value.shape)
        ports.append(Port(name=name, datatype=_datatype(str(value.dtype)), shape=shape))
    return tuple(ports)


def _check_writes(signature: Any, place: Place) -> None:
    """Check that a program writes to none of its inputs, which are the arena's, and keeps no state."""
    changed = [*signature.user_inputs_to_mutate.values(), *signature.buffers_to_mutate.values()]
    if changed:
        raise place.error(
            f"the program changes {changed[0]!r}, so that an answer would depend on what came before",
            "one that changes nothing (exported from a module in eval mode)",
        )


def _check_outputs(program: Any, place: Place, lone: str | None) -> None:
    """Check the form of what a program returns: a dict, or one tensor where one is wanted."""
    returned = program.call_spec.out_spec
    if returned.type is dict:
        return
    if not returned.is_leaf():
        raise place.error(
            f"the program returns a {getattr(returned.type, '__name__', 'structure')}",
            "a dict of tensors by name" + ("" if lone is None else ", or one tensor"),
        )
    if lone is None:
        raise place.error("the program returns one tensor", "a dict of the service's outputs by name")


def _datatype(name: str) -> str:
    """Return the protocol's datatype of a torch type, or torch's name where the protocol has none."""
    name = name.removeprefix("torch.")
    return name.upper() if _INTEGER.fullmatch(name) else _TYPES.get(name, name)
