"""Prints the figures of MODEL_CARD.md from the exported graphs: accuracy of all seven modality sets, a bound
on each, and what they cost on one core.

    python evaluate.py validation
    python evaluate.py test
    python evaluate.py test tiny
"""

from __future__ import annotations

import json
import math
import sys
import time
from itertools import combinations
from pathlib import Path

import derive
import numpy as np
import onnxruntime
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
INPUTS = {"clip": "clip", "speech": "mfcc", "word": "chars"}
SETS = [chosen for size in (1, 2, 3) for chosen in combinations(INPUTS, size)]
CONFIDENCE = 0.95


def session(variant: str, name: str) -> onnxruntime.InferenceSession:
    """One graph on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        HERE / variant / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
    )


def lower_bound(share: float, n: int, miss: float) -> float:
    """Clopper-Pearson: below this rate, a share this high of `n` has a chance of less than `miss`."""
    right = round(share * n)
    low, high = 0.0, share
    for _ in range(40):
        rate = (low + high) / 2
        if rate in (0.0, 1.0):
            break
        tail = sum(
            math.exp(
                math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
                + k * math.log(rate) + (n - k) * math.log1p(-rate)
            )
            for k in range(right, n + 1)
        )  # fmt: skip
        low, high = (rate, high) if tail < miss else (low, rate)
    return low


class Recogniser:
    """The encoders and the head, run as the server runs them."""

    def __init__(self, variant: str) -> None:
        self.encoders = {modality: session(variant, modality) for modality in INPUTS}
        self.head = session(variant, "head")

    def embed(self, modality: str, x: NDArray[np.generic]) -> NDArray[np.float32]:
        """One modality's embeddings."""
        (embedding,) = self.encoders[modality].run(["embedding"], {INPUTS[modality]: x})
        return np.asarray(embedding)

    def answer(
        self, chosen: tuple[str, ...], embeddings: dict[str, NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Logits from the embeddings of the modalities chosen."""
        n = len(next(iter(embeddings.values())))
        width = self.head.get_inputs()[0].shape[1]
        absent = np.zeros((n, width), np.float32)
        feed = {modality: embeddings[modality] if modality in chosen else absent for modality in INPUTS}
        mask = np.tile(np.array([modality in chosen for modality in INPUTS], np.float32), (n, 1))
        (logits,) = self.head.run(["logits"], {**feed, "mask": mask})
        return np.asarray(logits)


def cost_ms(
    net: Recogniser, chosen: tuple[str, ...], data: dict[str, NDArray[np.generic]], batch: int
) -> float:
    """Shortest time of a batch: what it costs when nothing else runs on the core."""
    inputs = {modality: data[INPUTS[modality]][:batch] for modality in chosen}
    times = []
    for _ in range(max(7, 100 // batch)):
        start = time.perf_counter()
        net.answer(chosen, {modality: net.embed(modality, x) for modality, x in inputs.items()})
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def main(split: str, variant: str = "small") -> None:
    """One line a modality set."""
    derive.main()
    with np.load(HERE / f"{split}.npz") as file:
        data = dict(file)
    independent = json.loads((HERE / f"{split}.independent.json").read_text())
    net = Recogniser(variant)
    embeddings = {
        modality: np.concatenate(
            [net.embed(modality, data[name][i : i + 50]) for i in range(0, len(data[name]), 50)]
        )
        for modality, name in INPUTS.items()
    }
    print("| modalities | accuracy | independent items | at least | ms, batch 1 | 8 | 32 |")
    print("|---|---|---|---|---|---|---|")
    for chosen in SETS:
        accuracy = float((net.answer(chosen, embeddings).argmax(1) == data["label"]).mean())
        n = min(independent[modality] for modality in chosen)
        bound = lower_bound(accuracy, n, (1 - CONFIDENCE) / len(SETS))
        costs = " | ".join(f"{cost_ms(net, chosen, data, batch):.2f}" for batch in (1, 8, 32))
        print(f"| {'+'.join(chosen)} | {accuracy:.3f} | {n} | {bound:.3f} | {costs} |")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["test"]))
