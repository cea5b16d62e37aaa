"""Prints the accuracies of MODEL_CARD.md from the exported graphs: each modality set's, what it is sure of, and
how far it moves with the recordings that happened to be made. Needs poise only:

    python evaluate.py validation
    python evaluate.py test
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from poise.domain.profile import ModeProfile
from poise.files import load_labelled, open_service
from poise.planning.accuracy_bounds import promised_accuracy
from poise.runtimes import mode_labels, open_staged

HERE = Path(__file__).resolve().parent
CONFIDENCE = 0.95
DRAWS, SEED = 10_000, 1


def main(split: str) -> None:
    """One line a modality set."""
    folder = open_service(HERE)
    service = folder.service
    items = load_labelled(HERE / f"{split}.npz", service)
    recordings = json.loads((HERE / f"{split}.recordings.json").read_text())
    counts = np.array([recording["items"] for recording in recordings])
    people = np.array([recording["person"] for recording in recordings])
    starts = np.cumsum(counts) - counts
    drawn = np.random.default_rng(SEED).integers(0, len(counts), (DRAWS, len(counts)))
    print("| variant | modalities | accuracy | deviation by recording | each person | at least |")
    print("|---|---|---|---|---|---|")
    for variant in service.variants:
        runner = open_staged(service, variant, folder.resolve)
        labels = mode_labels(service, variant)
        masks = [service.modality_index.mask(label.split("+")) for label in labels]
        answers = runner.answer_sets(items.inputs, np.arange(len(items)), masks)
        for label, outputs in zip(labels, answers, strict=True):
            score = outputs["logits"].argmax(1) == items.label
            right = np.add.reduceat(score, starts, dtype=np.int64)
            again = right[drawn].sum(1) / counts[drawn].sum(1)
            each = ", ".join(
                f"{right[people == who].sum() / counts[people == who].sum():.3f}" for who in np.unique(people)
            )
            mode = ModeProfile(
                modalities=tuple(label.split("+")), accuracy=float(score.mean()), samples=len(recordings)
            )
            bound = promised_accuracy(mode, CONFIDENCE, len(labels))
            print(f"| {variant} | {label} | {score.mean():.3f} | {again.std():.3f} | {each} | {bound:.3f} |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "test")
