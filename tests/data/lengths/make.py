"""Makes the models, arrays and profile of the service of variable lengths; `onnx` is all it needs beside numpy:

    pip install onnx numpy && python tests/data/lengths/make.py

The numbers come from one seed. README.md says what the models compute.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper, save  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
BUCKETS = (4, 8, 16)
SPEECH = ("frames", ["n", "t", 2])
WORD = ("letters", ["n", 3])


def weights() -> dict[str, NDArray[np.float32]]:
    """One matrix for each modality."""
    rng = np.random.default_rng(30)
    shapes = {"speech": (2, 2), "word": (3, 2)}
    return {name: np.round(rng.normal(size=shape), 2).astype(np.float32) for name, shape in shapes.items()}


def speech_nodes(embedding: str) -> list:
    """Nodes from `frames` to its embedding [n, 3]."""
    return [
        helper.make_node("MatMul", ["frames", "w_speech"], ["terms"]),
        helper.make_node("ReduceSum", ["terms", "time"], ["sums"], keepdims=0),
        helper.make_node("Shape", ["frames"], ["length"], start=1, end=2),
        helper.make_node("Cast", ["length"], ["length_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["sums", "time"], ["column"], keepdims=1),
        helper.make_node("Mul", ["column", "zero"], ["no_column"]),
        helper.make_node("Add", ["no_column", "length_float"], ["lengths"]),
        helper.make_node("Concat", ["sums", "lengths"], [embedding], axis=1),
    ]


def word_node(embedding: str):
    """The node from `letters` to its embedding [n, 2]."""
    return helper.make_node("MatMul", ["letters", "w_word"], [embedding])


def split_nodes(speech: str, logits: str) -> list:
    """Nodes from the embedding of speech to its part of the logits, and `padded`."""
    return [
        helper.make_node("Gather", [speech, "first_two"], [logits], axis=1),
        helper.make_node("Gather", [speech, "last"], ["padded"], axis=1),
    ]


def write(path: str, nodes: list, inputs: list, outputs: list, w: dict[str, NDArray[np.float32]]) -> None:
    """Check and write one model; of the constants, those that it uses."""
    constants = {
        "w_speech": w["speech"],
        "w_word": w["word"],
        "time": np.array([1]),
        "zero": np.zeros(1, np.float32),
        "first_two": np.array([0, 1]),
        "last": np.array([2]),
    }
    used = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used]

    def value(name: str, shape: list):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes, Path(path).stem, [value(*spec) for spec in inputs], [value(*spec) for spec in outputs], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    (HERE / path).parent.mkdir(exist_ok=True)
    save(model, HERE / path)


def models(w: dict[str, NDArray[np.float32]]) -> None:
    """Write both variants."""
    answers = [("logits", ["n", 2]), ("padded", ["n", 1])]
    write("late/speech.onnx", speech_nodes("embedding"), [SPEECH], [("embedding", ["n", 3])], w)
    write("late/word.onnx", [word_node("embedding")], [WORD], [("embedding", ["n", 2])], w)
    inputs = [("speech", ["n", 3]), ("word", ["n", 2]), ("mask", ["n", 2])]
    nodes = [
        *split_nodes("speech", "said"),
        helper.make_node("ReduceSum", ["mask", "time"], ["m"], keepdims=1),
    ]
    nodes += [
        helper.make_node("Mul", ["m", "zero"], ["nothing"]),
        helper.make_node("Sum", ["said", "word", "nothing"], ["logits"]),
    ]
    write("late/head.onnx", nodes, inputs, answers, w)
    alone = [*speech_nodes("embedding"), *split_nodes("embedding", "logits")]
    write("whole/speech.onnx", alone, [SPEECH], answers, w)
    both = [*speech_nodes("embedding"), *split_nodes("embedding", "said"), word_node("written")]
    both.append(helper.make_node("Sum", ["said", "written"], ["logits"]))
    write("whole/both.onnx", both, [SPEECH, WORD], answers, w)


def arrays(w: dict[str, NDArray[np.float32]], items: int = 40) -> None:
    """Write the validation items, all of 7 frames."""
    rng = np.random.default_rng(31)
    frames = np.round(rng.normal(size=(items, 7, 2)), 2).astype(np.float32)
    letters = np.round(rng.normal(size=(items, 3)) * 2, 2).astype(np.float32)
    label = ((frames @ w["speech"]).sum(axis=1) + letters @ w["word"]).argmax(axis=1)
    wrong = rng.random(items) < 0.1
    label[wrong] = 1 - label[wrong]
    np.savez_compressed(HERE / "validation.npz", frames=frames, letters=letters, label=label)


def profile() -> None:
    """Write a made-up profile: the longer the bucket, the dearer."""
    accuracy = {"speech": 0.7, "word": 0.6, "speech+word": 0.9}

    def points(each_s: float, buckets: tuple[int | None, ...]) -> list[dict]:
        return [
            {
                **({"bucket": bucket} if bucket else {}),
                "batch": batch,
                "mean_s": each_s * batch * (bucket or 1),
            }
            for bucket in buckets
            for batch in (1, 8)
        ]

    def stage(name: str, sets: list[str], latency: list[dict]) -> dict:
        return {"name": name, "modality_sets": [s.split("+") for s in sets], "latency": latency}

    def variant(name: str, sets: list[str], stages: list[dict]) -> dict:
        modes = [{"modalities": s.split("+"), "accuracy": accuracy[s], "samples": 40} for s in sets]
        return {"name": name, "modes": modes, "stages": [*stages, stage("way", sets, points(1e-5, (None,)))]}

    spoken, every = ["speech", "speech+word"], list(accuracy)
    late = [
        stage("speech", spoken, points(1e-4, BUCKETS)),
        stage("word", ["word", "speech+word"], points(1e-4, (None,))),
        stage("head", every, points(1e-5, (None,))),
    ]
    whole = [stage(s, [s], points(1e-4, BUCKETS)) for s in spoken]
    variants = [variant("late", every, late), variant("whole", spoken, whole)]
    document = {"format": 1, "service": "lengths", "variants": variants}
    (HERE / "profile.json").write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    """Write everything."""
    w = weights()
    np.savez_compressed(HERE / "weights.npz", allow_pickle=False, **w)
    models(w)
    arrays(w)
    profile()


if __name__ == "__main__":
    main()
