"""Prints the accuracies of MODEL_CARD.md from the exported graphs: each variant's, and what it is sure of. Needs poise
only:

    python evaluate.py validation
    python evaluate.py test
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from poise.domain.profile import ModeProfile
from poise.files import load_labelled, open_service
from poise.planning.accuracy_bounds import promised_accuracy
from poise.runtimes import open_staged

HERE = Path(__file__).resolve().parent
CONFIDENCE = 0.95
PART = 100


def main(split: str) -> None:
    """One line a variant."""
    folder = open_service(HERE)
    service = folder.service
    items = load_labelled(HERE / f"{split}.npz", service)
    mask = service.modality_index.mask(["image"])
    print("| variant | accuracy | at least | least and most accurate class |")
    print("|---|---|---|---|")
    for variant in service.variants:
        runner = open_staged(service, variant, folder.resolve)
        right = np.concatenate(
            [
                runner.answer_sets(items.inputs, rows, [mask])[0]["logits"].argmax(1) == items.label[rows]
                for rows in np.split(np.arange(len(items)), range(PART, len(items), PART))
            ]
        )
        mode = ModeProfile(modalities=("image",), accuracy=float(right.mean()), samples=len(items))
        bound = promised_accuracy(mode, CONFIDENCE, len(service.variants))
        each = [right[items.label == k].mean() for k in range(10)]
        ends = f"{min(each):.3f} ({np.argmin(each)}), {max(each):.3f} ({np.argmax(each)})"
        print(f"| {variant} | {right.mean():.3f} | {bound:.3f} | {ends} |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "test")
