"""Trains the recogniser and writes large/*.onnx. One command, about six minutes of one core:

    python examples/sensors/train.py

Encoders and head learn together, from random non-empty sets of modalities. A training window starts anywhere in
its recording; half of them are mirrored, as if worn on the other arm, and all are turned a little, as if the
watch sat otherwise on the wrist.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import prepare
import torch
from model import MODALITIES, WIDTH, Head, SensorEncoder
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

sys.path.append(str(Path(__file__).resolve().parents[1]))
from shared.graphs import export

HERE = Path(__file__).resolve().parent
SEED = 3
EPOCHS, BATCH, RATE = 24, 64, 2e-3
SHAPES = {  # the accelerometer's encoder is by far the dearer
    "accelerometer": {"width": 96, "states": 384, "stride": 1},
    "gyroscope": {"width": 48, "states": 128, "stride": 2},
}
MIRROR = torch.tensor([-1.0, 1, 1, 1, -1, -1])  # left arm to right: x turns round, and turns about y and z do
TILT = 0.12  # standard deviation of the watch's position, in radians about each axis
GAIN, NOISE = 0.1, 0.05  # of each axis, and of each reading in units of the axis' spread


class Data:
    """The training recordings, cut anew for each epoch."""

    def __init__(self) -> None:
        with np.load(prepare.CACHE / "training_pool.npz") as pool:
            readings, self.label = pool["readings"], pool["label"]
            self.recordings = np.split(readings, np.cumsum(pool["lengths"])[:-1])
        self.mean, self.spread = readings.mean(0), readings.std(0)
        self.rng = np.random.default_rng(SEED)

    def windows(self) -> tuple[Tensor, Tensor]:
        """Windows [n, 100, 6] that cover the recordings twice on average, and their labels."""
        cut, label = [], []
        for readings, exercise in zip(self.recordings, self.label, strict=True):
            n = 2 * len(readings) // prepare.WINDOW
            starts = self.rng.integers(0, len(readings) - prepare.WINDOW + 1, n)
            cut.append(readings[starts[:, None] + np.arange(prepare.WINDOW)])
            label.append(np.full(n, exercise))
        return torch.from_numpy(np.concatenate(cut)), torch.from_numpy(np.concatenate(label))


def wear_otherwise(x: Tensor, spread: Tensor) -> Tensor:
    """The same movement, as a watch on another wrist might have recorded it."""
    n = len(x)
    x = torch.where(torch.rand(n, 1, 1) < 0.5, x * MIRROR, x)
    angle, zero = TILT * torch.randn(n, 3), torch.zeros(n)
    a, b, c = angle.unbind(1)
    turn = torch.linalg.matrix_exp(torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], 1).view(n, 3, 3))
    x = torch.cat([x[..., :3] @ turn, x[..., 3:] @ turn], 2)
    return x * (1 + GAIN * torch.randn(n, 1, 6)) + NOISE * spread * torch.randn_like(x)


def make_encoders(data: Data) -> dict[str, nn.Module]:
    """Untrained, but for each axis' mean and spread."""
    return {
        modality: SensorEncoder(
            data.mean[3 * k : 3 * k + 3], data.spread[3 * k : 3 * k + 3], **SHAPES[modality]
        )
        for k, modality in enumerate(MODALITIES)
    }


def fit(encoders: dict[str, nn.Module], head: Head, data: Data) -> None:
    """Train all three together."""
    net = nn.ModuleList([*encoders.values(), head])
    spread = torch.from_numpy(data.spread)
    sets = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    n = len(data.windows()[1])
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.02)
    steps = EPOCHS * -(-n // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.15)
    start = time.monotonic()
    for epoch in range(EPOCHS):
        net.train()
        windows, label = data.windows()
        right = 0
        for i in torch.split(torch.randperm(n), BATCH):
            x = wear_otherwise(windows[i], spread)
            mask = sets[torch.randint(len(sets), (len(i),))]
            embedded = [encoder(part) for encoder, part in zip(encoders.values(), x.split(3, 2), strict=True)]
            logits = head(*embedded, mask)
            loss = functional.cross_entropy(logits, label[i], label_smoothing=0.05)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            right += int((logits.argmax(1) == label[i]).sum())
        seconds = time.monotonic() - start
        print(f"epoch {epoch + 1}/{EPOCHS}, training {right / n:.3f}, {seconds:.0f} s", flush=True)


@torch.no_grad()
def validate(encoders: dict[str, nn.Module], head: Head) -> None:
    """Print what every modality set reaches on the validation split."""
    held = np.load(HERE / "validation.npz")
    label: NDArray[np.int64] = held["label"]
    for module in (*encoders.values(), head):
        module.eval()
    embedded = [encoder(torch.from_numpy(held[modality])) for modality, encoder in encoders.items()]
    for mask in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        logits = head(*embedded, torch.tensor([mask] * len(label)))
        share = float((logits.argmax(1).numpy() == label).mean())
        chosen = "+".join(modality for modality, used in zip(MODALITIES, mask, strict=True) if used)
        print(f"validation {chosen}: {share:.3f}", flush=True)


def main() -> None:
    """Everything, from the package to the graphs."""
    torch.set_num_threads(1)
    prepare.main()
    data = Data()
    torch.manual_seed(SEED)
    encoders, head = make_encoders(data), Head()
    fit(encoders, head, data)
    validate(encoders, head)
    sample = data.windows()[0][:5]
    for (modality, encoder), part in zip(encoders.items(), sample.split(3, 2), strict=True):
        export(encoder, {modality: part.contiguous()}, "embedding", HERE / "large" / f"{modality}.onnx")
    embedded = {modality: torch.randn(5, WIDTH) for modality in MODALITIES}
    mask = torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, 0], [0, 1]])
    export(head, {**embedded, "mask": mask}, "logits", HERE / "large" / "head.onnx")


if __name__ == "__main__":
    main()
