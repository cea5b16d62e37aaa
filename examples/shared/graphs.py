"""Exports torch modules as the ONNX graphs that a service names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

OPSET = 18
FURTHEST = 1e-3  # what onnxruntime may compute apart from torch


def export(module: nn.Module, inputs: dict[str, Tensor], output: str, path: Path) -> None:
    """Write one graph with a free first dimension, and check that onnxruntime computes what torch does."""
    module.eval()
    program = torch.onnx.export(
        module,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=[output],
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=tuple({0: torch.export.Dim("n")} for _ in inputs),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.clear()
    program.model.graph.metadata_props.clear()
    for node in program.model.graph:
        node.metadata_props.clear()  # traces of this machine's paths
        for value in node.outputs:
            if value.name == output and not value.is_graph_output():
                value.name = f"{output}_inside"  # onnxruntime wants every name once
    path.parent.mkdir(exist_ok=True)
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module(*inputs.values()).numpy()
    (got,) = session.run([output], {key: value.numpy() for key, value in inputs.items()})
    apart = float(np.abs(got - expected).max())
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, apart from torch by at most {apart:.1e}")
    if apart > FURTHEST:
        raise SystemExit(f"{path}: onnxruntime and torch disagree")
