"""Makes the model that all servers serve; `onnx` and numpy are all it needs.

    python make_model.py model.onnx

A transformer encoder over five tokens of 512 numbers (10 KB an item), eight layers deep, with random weights from one
seed. Its items are so short that a batch of one spends its time on reading weights: larger batches gain, as in a text
classifier on short inputs. What it answers means nothing; that every server answers the same is checked.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper, save  # type: ignore[import-not-found]

SEED = 20
TOKENS, WIDTH, HEADS, LAYERS, CLASSES = 5, 512, 8, 8, 10
OPSET, IR = 17, 8


class Graph:
    """Nodes and weights, as they are put together."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._rng = np.random.default_rng(SEED)

    def constant(self, array: NDArray[Any]) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def matrix(self, rows: int, columns: int) -> str:
        return self.constant((self._rng.normal(size=(rows, columns)) / rows**0.5).astype(np.float32))

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def norm(self, value: str) -> str:
        one, zero = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
        return self.node("LayerNormalization", value, self.constant(one), self.constant(zero), axis=-1)

    def attention(self, value: str) -> str:
        shape = self.constant(np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))
        query, key, back = (
            self.node("Transpose", self.node("Reshape", self.projected(value), shape), perm=perm)
            for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        scale = self.constant(np.array((WIDTH // HEADS) ** -0.5, np.float32))
        weight = self.node("Softmax", self.node("Mul", self.node("MatMul", query, key), scale), axis=-1)
        mixed = self.node("Transpose", self.node("MatMul", weight, back), perm=[0, 2, 1, 3])
        flat = self.node("Reshape", mixed, self.constant(np.array([0, 0, WIDTH], np.int64)))
        return self.projected(flat)

    def projected(self, value: str) -> str:
        return self.node("MatMul", value, self.matrix(WIDTH, WIDTH))

    def layer(self, value: str) -> str:
        value = self.node("Add", value, self.attention(self.norm(value)))
        inner = self.node("Relu", self.node("MatMul", self.norm(value), self.matrix(WIDTH, 4 * WIDTH)))
        return self.node("Add", value, self.node("MatMul", inner, self.matrix(4 * WIDTH, WIDTH)))


def write_model(path: Path) -> None:
    """Check and write the model."""
    graph = Graph()
    value = "tokens"
    for _ in range(LAYERS):
        value = graph.layer(value)
    pooled = graph.node("ReduceMean", graph.norm(value), axes=[1], keepdims=0)
    graph.nodes.append(helper.make_node("MatMul", [pooled, graph.matrix(WIDTH, CLASSES)], ["logits"]))
    made = helper.make_graph(
        graph.nodes,
        "tokens",
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["n", TOKENS, WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        graph.weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    checker.check_model(model, full_check=True)
    save(model, path)


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
