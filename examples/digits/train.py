"""Trains the recogniser and writes small/*.onnx or tiny/*.onnx. One command each, about a quarter of an hour and some
minutes on one core:

    python examples/digits/train.py
    python examples/digits/train.py --variant tiny

Its steps may be named to run them alone (`train.py clip settle`, `train.py speech word`, `train.py fuse`; the
first two may run side by side):

1. Each encoder learns by itself, under a linear layer that is thrown away. The clip encoder is a mean over
   frames, so it learns from one frame a clip: at first from small, clean ones, then from ones noisier than
   it will meet, and at last (`settle`) from ones as noisy.
2. The head learns to fuse, from random non-empty sets of modalities; speech and word encoders go on learning
   with it, the clip encoder stands still and its embeddings are computed beforehand.
3. The graphs are exported and compared with torch.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import derive
import numpy as np
import prepare
import torch
from model import MODALITIES, VARIANTS, WIDTH, ClipEncoder, Head, SpeechEncoder, WordEncoder
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

sys.path.append(str(Path(__file__).resolve().parents[1]))
from shared.graphs import export

HERE = Path(__file__).resolve().parent
SEED = 3
CROP_EPOCHS, CLIP_EPOCHS, SETTLE_EPOCHS, SPEECH_EPOCHS, WORD_EPOCHS, FUSE_EPOCHS = 12, 24, 6, 45, 45, 40
TRAINING_NOISE = 0.7  # what the clip encoder learns from, before it settles to derive.PIXEL_NOISE
STEPS = ("clip", "settle", "speech", "word", "fuse")
DRAWS = 2  # noisy versions of every training clip that the head sees


class Data:
    """The training pool, and fresh noise on it whenever it is asked for."""

    def __init__(self, name: str = "training") -> None:
        folder = prepare.CACHE if name == "training" else HERE / "data"
        with np.load(folder / f"{name}_pool.npz") as pool:
            self.pool: dict[str, NDArray[Any]] = dict(pool)
        self.recordings = np.split(self.pool["frames"], np.cumsum(self.pool["lengths"])[:-1])
        self.words = [str(word) for word in self.pool["words"]]
        self.letters = derive.scripts(self.words)
        self.images = self.pool["images"][self.pool["item_image"]]
        self.label = self.pool["label"]
        self.seed()

    def seed(self) -> None:
        """Start chance anew: a step gives the same whether or not others ran before it."""
        self.rng = np.random.default_rng(SEED)
        torch.manual_seed(SEED)

    def speech(self) -> NDArray[np.float32]:
        """A recording for every item, drawn at random from its class."""
        return derive.make_mfccs([self.recordings[i] for i in self._draw("recording_label")], self.rng)

    def word(self) -> NDArray[np.int32]:
        """A mistyped word for every item, drawn at random from its class."""
        chosen = [self.words[i] for i in self._draw("word_label")]
        return derive.encode([derive.mistype(word, self.letters, self.rng) for word in chosen])

    def _draw(self, key: str) -> NDArray[np.int64]:
        indices = np.zeros_like(self.label)
        for digit in range(10):
            mine = self.label == digit
            indices[mine] = self.rng.choice(np.flatnonzero(self.pool[key] == digit), mine.sum())
        return indices


def batches(n: int, size: int = 50) -> Iterator[Tensor]:
    """Every index once, in random order."""
    yield from torch.split(torch.randperm(n), size)


def weights(variant: str, step: str) -> Path:
    """Where a step's encoder is kept."""
    return prepare.CACHE / (f"{step}.pt" if variant == "small" else f"{variant}-{step}.pt")


def fit(encoder: nn.Module, data: Data, step: str, epochs: int, rate: float, kept: Path) -> None:
    """Train one encoder under a linear layer of its own, and keep it in cache/."""
    seen = step in ("clip", "settle")
    data.seed()
    net = nn.Sequential(encoder, nn.Linear(WIDTH, 10))
    torch.nn.utils.convert_conv2d_weight_memory_format(net, torch.channels_last)
    label = torch.from_numpy(data.label)
    steps = epochs * -(-len(label) // 50)
    optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    start = time.monotonic()
    for epoch in range(epochs):
        net.train()
        x = torch.from_numpy(draw(data, step, epoch))
        right = 0
        for i in batches(len(label)):
            with torch.autocast("cpu", torch.bfloat16, enabled=seen):
                logits = net(x[i]).float()
            loss = functional.cross_entropy(logits, label[i], label_smoothing=0.0 if seen else 0.05)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            right += int((logits.argmax(1) == label[i]).sum())
        seconds = time.monotonic() - start
        share = right / len(label)
        print(f"{step}: epoch {epoch + 1}/{epochs}, training {share:.3f}, {seconds:.0f} s", flush=True)
    torch.save(encoder.state_dict(), kept)
    held = Data("validation")
    x = torch.from_numpy(derive.make_clips(held.images, held.rng) if seen else draw(held, step, 0))
    right = int((net[1](embed(encoder, x)).argmax(1) == torch.from_numpy(held.label)).sum())
    print(f"{step}: validation {right / len(held.label):.3f}", flush=True)


def draw(data: Data, step: str, epoch: int) -> NDArray[np.generic]:
    """One epoch's inputs."""
    if step == "speech":
        return data.speech()
    if step == "word":
        return data.word()
    if step == "settle":
        return derive.make_clips(data.images, data.rng, frames=1)
    if epoch < CROP_EPOCHS:
        noise = TRAINING_NOISE * (0.2 + 0.8 * epoch / CROP_EPOCHS)
        return derive.make_clips(data.images, data.rng, noise, frames=1, size=32, width=8)
    return derive.make_clips(data.images, data.rng, TRAINING_NOISE, frames=1)


def fuse(encoders: dict[str, nn.Module], width: int, data: Data) -> Head:
    """Train the head, and the cheap encoders with it, on random non-empty sets of modalities."""
    data.seed()
    clips = []
    for _ in range(DRAWS):
        noisy = torch.from_numpy(derive.make_clips(data.images, data.rng))
        clips.append(embed(encoders["clip"], noisy))
    head, label = Head(width), torch.from_numpy(data.label)
    speech, word = encoders["speech"], encoders["word"]
    cheap = [*speech.parameters(), *word.parameters()]
    groups: list[dict[str, Any]] = [{"params": head.parameters()}, {"params": cheap}]
    optimiser = torch.optim.AdamW(groups, 2e-3, weight_decay=0.02)
    steps = FUSE_EPOCHS * -(-len(label) // 50)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [2e-3, 5e-4], total_steps=steps, pct_start=0.1)
    sets = torch.tensor([[s >> k & 1 for k in range(3)] for s in range(1, 8)], dtype=torch.float32)
    for epoch in range(FUSE_EPOCHS):
        for module in (head, speech, word):
            module.train()
        clip = clips[epoch % DRAWS]
        mfcc, chars = torch.from_numpy(data.speech()), torch.from_numpy(data.word())
        total = 0.0
        for i in batches(len(label)):
            mask = sets[torch.randint(len(sets), (len(i),))]
            loss = functional.cross_entropy(head(clip[i], speech(mfcc[i]), word(chars[i]), mask), label[i])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(i)
        if epoch % 5 == 4:
            print(f"fuse: epoch {epoch + 1}/{FUSE_EPOCHS}, loss {total / len(label):.3f}", flush=True)
    return head


@torch.no_grad()
def embed(encoder: nn.Module, x: Tensor) -> Tensor:
    """Embeddings, without noise of training."""
    encoder.eval()
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([encoder(part).float() for part in torch.split(x, 50)])


def main() -> None:
    """Run the steps named, or all of them."""
    parser = argparse.ArgumentParser(description="Trains one variant and writes its graphs.")
    parser.add_argument("steps", nargs="*", help=f"of {', '.join(STEPS)}; default: all")
    parser.add_argument("--variant", choices=VARIANTS, default="small")
    chosen = parser.parse_args()
    steps, variant = chosen.steps or list(STEPS), chosen.variant
    if unknown := set(steps) - set(STEPS):
        parser.error(f"got step {min(unknown)!r}, expected one of {', '.join(STEPS)}")
    torch.set_num_threads(1)
    if not (prepare.CACHE / "training_pool.npz").exists():
        prepare.main()
    data, widths = Data(), VARIANTS[variant]
    torch.manual_seed(SEED)
    encoders: dict[str, nn.Module] = {
        "clip": ClipEncoder(widths.clip),
        "speech": SpeechEncoder(data.pool["frames"].mean(0), widths.speech),
        "word": WordEncoder(widths.word),
    }
    if "clip" in steps:
        fit(encoders["clip"], data, "clip", CROP_EPOCHS + CLIP_EPOCHS, 2e-3, weights(variant, "clip"))
    if "settle" in steps:
        encoders["clip"].load_state_dict(torch.load(weights(variant, "clip")))
        fit(encoders["clip"], data, "settle", SETTLE_EPOCHS, 5e-4, weights(variant, "settle"))
    if "speech" in steps:
        fit(encoders["speech"], data, "speech", SPEECH_EPOCHS, 3e-3, weights(variant, "speech"))
    if "word" in steps:
        fit(encoders["word"], data, "word", WORD_EPOCHS, 3e-3, weights(variant, "word"))
    if "fuse" not in steps:
        return
    for modality, encoder in encoders.items():
        kept = "settle" if modality == "clip" else modality
        encoder.load_state_dict(torch.load(weights(variant, kept)))
    write(variant, encoders, data)


def write(variant: str, encoders: dict[str, nn.Module], data: Data) -> None:
    """Fuse, and write the graphs."""
    head, out = fuse(encoders, VARIANTS[variant].head, data), HERE / variant
    inputs = {
        "clip": torch.from_numpy(derive.make_clips(data.images[:5], data.rng)),
        "mfcc": torch.from_numpy(data.speech()[:5]),
        "chars": torch.from_numpy(data.word()[:5]),
    }
    for (modality, encoder), (name, value) in zip(encoders.items(), inputs.items(), strict=True):
        export(encoder, {name: value}, "embedding", out / f"{modality}.onnx")
    embeddings = {modality: torch.randn(5, WIDTH) for modality in MODALITIES}
    export(head, {**embeddings, "mask": torch.tensor([[1.0, 0, 1]] * 5)}, "logits", out / "head.onnx")
    derive.main()


if __name__ == "__main__":
    main()
