"""Exports the service of variable lengths as torch programs: ``python -m tests.runtimes.exporting FOLDER``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np


def export_all(folder: Path) -> None:
    """Write the programs that torch.yaml names."""
    torch: Any = importlib.import_module("torch")
    with np.load(folder / "weights.npz") as archive:
        w_speech, w_word = torch.from_numpy(archive["speech"]), torch.from_numpy(archive["word"])

    class Model(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w_speech", w_speech)
            self.register_buffer("w_word", w_word)

        def hear(self, frames: Any) -> Any:
            length = torch.ones((frames.shape[0], 1)) * frames.shape[1]
            return torch.cat([(frames @ self.w_speech).sum(1), length], 1)

        def answer(self, heard: Any, read: Any) -> Any:
            return {"logits": heard[:, :2] + read, "padded": heard[:, 2:] * 1}

    class Speech(Model):
        def forward(self, frames):
            return self.hear(frames)

    class Word(Model):
        def forward(self, letters):
            return letters @ self.w_word

    class Head(Model):
        def forward(self, speech, word, mask):
            return self.answer(speech, word + 0 * mask)

    class Listen(Model):
        def forward(self, frames):
            return self.answer(self.hear(frames), 0)

    class Both(Model):
        def forward(self, frames, letters):
            return self.answer(self.hear(frames), letters @ self.w_word)

    n, t = torch.export.Dim("n", min=1, max=64), torch.export.Dim("t", min=1, max=16)
    frames, letters = torch.zeros(3, 5, 2), torch.zeros(3, 3)
    heard, read, mask = torch.zeros(3, 3), torch.zeros(3, 2), torch.zeros(3, 2)
    long, short = {0: n, 1: t}, {0: n}
    for name, module, inputs, shapes in (
        ("speech", Speech(), (frames,), (long,)),
        ("word", Word(), (letters,), (short,)),
        ("head", Head(), (heard, read, mask), (short, short, short)),
        ("listen", Listen(), (frames,), (long,)),
        ("both", Both(), (frames, letters), (long, short)),
    ):
        program = torch.export.export(module.eval(), inputs, dynamic_shapes=shapes)
        torch.export.save(program, folder / f"{name}.pt2")


if __name__ == "__main__":
    export_all(Path(sys.argv[1]))
