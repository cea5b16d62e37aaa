"""Makes the models, arrays and profiles of the tiny service; `onnx` is all it needs beside numpy:

    pip install onnx numpy && python tests/data/tiny/make.py

The numbers come from one seed, so the arrays come out the same each time; the models do too, byte for byte,
with the same version of onnx. README.md says what the models compute.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper, save  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
CLASSES = 5
MODALITIES = ("image", "sound", "word")
INPUTS = {
    "image": [("pixels", TensorProto.UINT8, [2, 3])],
    "sound": [("wave", TensorProto.FLOAT, [4])],
    "word": [("letters", TensorProto.INT64, [2]), ("length", TensorProto.FLOAT, [1])],
}
WIDTH = {"image": 6, "sound": 4, "word": 3}


def weights() -> dict[str, NDArray[np.float32]]:
    """One matrix for each modality, [width, 5], and `presence` [3, 5], a row added for each one present."""
    rng = np.random.default_rng(20)
    matrices = {name: rng.normal(size=(WIDTH[name], CLASSES)) for name in MODALITIES}
    matrices["presence"] = rng.normal(size=(len(MODALITIES), CLASSES))
    return {name: np.round(matrix, 2).astype(np.float32) for name, matrix in matrices.items()}


def encoder_nodes(name: str, embedding: str) -> list:
    """Nodes from the inputs of a modality to its embedding [n, 5]."""
    if name == "image":
        return [
            helper.make_node("Flatten", ["pixels"], ["pixels_flat"], axis=1),
            helper.make_node("Cast", ["pixels_flat"], ["pixels_float"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["pixels_float", "w_image"], [embedding]),
        ]
    if name == "sound":
        return [helper.make_node("MatMul", ["wave", "w_sound"], [embedding])]
    return [
        helper.make_node("Cast", ["letters"], ["letters_float"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["letters_float", "length"], ["word_flat"], axis=1),
        helper.make_node("MatMul", ["word_flat", "w_word"], [embedding]),
    ]


def head_nodes(terms: list[str]) -> list:
    """Nodes from terms [n, 5] to their sum `logits`, and its largest, `score` [n, 1]."""
    return [
        helper.make_node("Sum", terms, ["logits"]),
        helper.make_node("ReduceMax", ["logits"], ["score"], axes=[1], keepdims=1),
    ]


def value(name: str, kind: int, shape: list[int]):
    """A graph input or output with a free batch dimension."""
    return helper.make_tensor_value_info(name, kind, ["n", *shape])


def write(path: str, nodes: list, inputs: list, outputs: list, constants: dict[str, NDArray]) -> None:
    """Check and write one model."""
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, Path(path).stem, inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    (HERE / path).parent.mkdir(exist_ok=True)
    save(model, HERE / path)


def models(w: dict[str, NDArray[np.float32]]) -> None:
    """Write both variants."""
    answers = [value("logits", TensorProto.FLOAT, [CLASSES]), value("score", TensorProto.FLOAT, [1])]
    for name in MODALITIES:
        inputs = [value(*spec) for spec in INPUTS[name]]
        outputs = [value("embedding", TensorProto.FLOAT, [CLASSES])]
        write(f"late/{name}.onnx", encoder_nodes(name, "embedding"), inputs, outputs, {f"w_{name}": w[name]})
    inputs = [value(name, TensorProto.FLOAT, [CLASSES]) for name in MODALITIES]
    inputs.append(value("mask", TensorProto.FLOAT, [len(MODALITIES)]))
    present = helper.make_node("MatMul", ["mask", "w_presence"], ["present"])
    nodes = [present, *head_nodes([*MODALITIES, "present"])]
    write("late/head.onnx", nodes, inputs, answers, {"w_presence": w["presence"]})
    graphs = {"sound": ["sound"], "image_sound": ["image", "sound"], "all": list(MODALITIES)}
    for file, members in graphs.items():
        nodes = [node for name in members for node in encoder_nodes(name, f"{name}_embedding")]
        constants = {f"w_{name}": w[name] for name in members}
        rows = [MODALITIES.index(name) for name in members]
        constants["presence"] = w["presence"][rows].sum(axis=0, keepdims=True)
        nodes += head_nodes([*(f"{name}_embedding" for name in members), "presence"])
        inputs = [value(*spec) for name in members for spec in INPUTS[name]]
        write(f"whole/{file}.onnx", nodes, inputs, answers, constants)


def odd_models(w: dict[str, NDArray[np.float32]]) -> None:
    """Write models that each have one thing wrong, to stand in for `late/sound.onnx` or `late/head.onnx`."""
    wave = value("wave", TensorProto.FLOAT, [4])
    embedding = value("embedding", TensorProto.FLOAT, [CLASSES])
    node = helper.make_node("MatMul", ["wave", "w_sound"], ["embedding"])
    w_sound = {"w_sound": w["sound"]}
    fixed = [helper.make_tensor_value_info("wave", TensorProto.FLOAT, [1, 4])]
    given = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, CLASSES])]
    write("odd/fixed_batch.onnx", [node], fixed, given, w_sound)
    twice = helper.make_node("Identity", ["embedding"], ["again"])
    outputs = [embedding, value("again", TensorProto.FLOAT, [CLASSES])]
    write("odd/two_outputs.onnx", [node, twice], [wave], outputs, w_sound)
    wide = {"w_sound": np.concatenate([w["sound"], w["sound"]], axis=1)}
    write("odd/wide.onnx", [node], [wave], [value("embedding", TensorProto.FLOAT, [2 * CLASSES])], wide)
    root = helper.make_node("Sqrt", ["wave"], ["root"])  # NaN for numbers below zero
    nodes = [root, helper.make_node("MatMul", ["root", "w_sound"], ["embedding"])]
    write("odd/nan.onnx", nodes, [wave], [embedding], w_sound)
    nodes = [  # fails where the first number of some item is above 2
        helper.make_node("Cast", ["wave"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Gather", ["whole", "first"], ["at"], axis=1),
        helper.make_node("Gather", ["table", "at"], ["rows"]),
        helper.make_node("Reshape", ["rows", "shape"], ["embedding"]),
    ]
    table = {
        "first": np.array([0]),
        "table": np.ones((3, CLASSES), np.float32),
        "shape": np.array([-1, CLASSES]),
    }
    write("odd/failing.onnx", nodes, [wave], [embedding], table)
    inputs = [value(name, TensorProto.FLOAT, [CLASSES]) for name in MODALITIES]
    inputs.append(value("mask", TensorProto.FLOAT, [len(MODALITIES)]))
    nodes = [  # says that its logits have any number of columns, and gives four
        helper.make_node("Sum", [*MODALITIES], ["sum"]),
        helper.make_node("MatMul", ["mask", "zero"], ["nothing"]),
        helper.make_node("Sum", ["sum", "nothing"], ["all"]),
        helper.make_node("ReduceMax", ["all"], ["score"], axes=[1], keepdims=1),
        helper.make_node("Compress", ["all", "four"], ["logits"], axis=1),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", "any"]),
        value("score", TensorProto.FLOAT, [1]),
    ]
    zero = {"zero": np.zeros((3, CLASSES), np.float32), "four": np.array([True] * 4 + [False])}
    write("odd/four_logits.onnx", nodes, inputs, outputs, zero)


def arrays(w: dict[str, NDArray[np.float32]], name: str, items: int, seed: int) -> None:
    """Write an npz whose labels are what all three modalities say, one in ten drawn anew."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 3, (items, 2, 3), dtype=np.uint8)
    wave = np.round(rng.normal(size=(items, 4)), 2).astype(np.float32)
    letters = rng.integers(-2, 3, (items, 2), dtype=np.int64)
    length = rng.integers(1, 3, (items, 1)).astype(np.float32)
    logits = pixels.reshape(items, 6) @ w["image"] + wave @ w["sound"] + w["presence"].sum(axis=0)
    logits += np.concatenate([letters, length], axis=1) @ w["word"]
    label = logits.argmax(axis=1)
    wrong = rng.random(items) < 0.1
    label[wrong] = rng.integers(0, CLASSES, wrong.sum())
    np.savez_compressed(HERE / name, pixels=pixels, wave=wave, letters=letters, length=length, label=label)


def points(base_s: float, per_item_s: float) -> list[dict]:
    """Latencies at the batch sizes that a profiler measures."""
    return [
        {
            "batch": batch,
            "mean_s": round(mean, 6),
            "p50_s": round(mean * 0.99, 6),
            "p95_s": round(mean * 1.1, 6),
            "p99_s": round(mean * 1.2, 6),
            "runs": 200,
        }
        for batch in (1, 2, 4, 8)
        for mean in [base_s + per_item_s * batch]
    ]


def profiles() -> None:
    """Write made-up profiles: plausible and fixed, for tests that need one and not a measurement."""
    every = ["image", "sound", "word", "image+sound", "image+word", "sound+word", "image+sound+word"]
    accuracy = dict(zip(every, [0.5, 0.55, 0.4, 0.75, 0.65, 0.7, 0.9], strict=True))

    def modes(labels: list[str]) -> list[dict]:
        return [{"modalities": s.split("+"), "accuracy": accuracy[s], "samples": 200} for s in labels]

    def stage(name: str, labels: list[str], base_s: float, per_item_s: float) -> dict:
        sets = [s.split("+") for s in labels]
        return {"name": name, "modality_sets": sets, "latency": points(base_s, per_item_s)}

    def late(scale: float, way: bool) -> list[dict]:
        per_item = {"image": 0.0008, "sound": 0.0003, "word": 0.0001}
        stages = [
            stage(name, [s for s in every if name in s.split("+")], 0.0004 * scale, cost * scale)
            for name, cost in per_item.items()
        ]
        stages.append(stage("head", every, 0.0001 * scale, 0.00002 * scale))
        return [*stages, stage("way", every, 0.00005, 0.00001)] if way else stages

    sizes = {"load_time_s": 0.05, "memory_bytes": 30_000_000}
    sets = ["sound", "image+sound", "image+sound+word"]
    whole = [stage(s, [s], 0.0005, 0.0003 * (s.count("+") + 1)) for s in sets]
    whole.append(stage("way", sets, 0.00005, 0.00001))
    variants = [
        {"name": "late", **sizes, "modes": modes(every), "stages": late(1.0, way=True)},
        {"name": "whole", **sizes, "modes": modes(sets), "stages": whole},
    ]
    paper = [{"name": "paper", **sizes, "modes": modes(every), "stages": late(5.0, way=False)}]
    for file, listed in {"profile.json": variants, "emulated_profile.json": paper}.items():
        text = json.dumps({"format": 1, "service": "tiny", "variants": listed}, indent=1)
        (HERE / file).write_text(text + "\n")


def main() -> None:
    """Write everything."""
    w = weights()
    np.savez_compressed(HERE / "weights.npz", allow_pickle=False, **w)
    models(w)
    odd_models(w)
    arrays(w, "validation.npz", 120, 21)
    arrays(w, "test.npz", 60, 22)
    profiles()


if __name__ == "__main__":
    main()
