"""Trains the family and writes models/*.onnx. One command; each variant takes from one to some ten minutes of one core:

    python examples/fashion/train.py [--data FOLDER] [VARIANT ...]

Every variant learns alone, from random weights and with the same recipe: AdamW with one cycle of the learning rate,
pictures mirrored at random, shifted by up to two pixels. FOLDER holds the four files of Fashion-MNIST; without it they
are taken from Debian's package (see prepare.py).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import prepare
import torch
from model import FAMILY, ResNet
from torch import Tensor, nn
from torch.nn import functional

sys.path.append(str(Path(__file__).resolve().parents[1]))
from shared.graphs import export

HERE = Path(__file__).resolve().parent
SEED = 3
BATCH, RATE, DECAY, SMOOTHING, SHIFT = 128, 4e-3, 0.05, 0.05, 2
EPOCHS = {"r8w2": 15, "r8w4": 15, "r8w8": 12, "r8w16": 10, "r14w16": 10, "r14w32": 10}


def vary(x: Tensor) -> Tensor:
    """The same pictures, some of them mirrored, the whole batch shifted by some pixels."""
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    across, down = (int(torch.randint(0, 2 * SHIFT + 1, ())) for _ in range(2))
    side = x.shape[2]
    return functional.pad(x, (SHIFT,) * 4)[:, :, down : down + side, across : across + side]


def fit(name: str) -> nn.Module:
    """Train one variant."""
    with np.load(prepare.CACHE / "training_pool.npz") as pool:
        images, label = torch.from_numpy(pool["image"]), torch.from_numpy(pool["label"])
    torch.manual_seed(SEED)
    net = ResNet(FAMILY[name])
    torch.nn.utils.convert_conv2d_weight_memory_format(net, torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    epochs = EPOCHS[name]
    steps = epochs * -(-len(label) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.2)
    start = time.monotonic()
    for epoch in range(epochs):
        net.train()
        right = 0
        for i in torch.split(torch.randperm(len(label)), BATCH):
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(vary(images[i])).float()
            loss = functional.cross_entropy(logits, label[i], label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            right += int((logits.argmax(1) == label[i]).sum())
        seconds = time.monotonic() - start
        print(
            f"{name}: epoch {epoch + 1}/{epochs}, training {right / len(label):.3f}, {seconds:.0f} s",
            flush=True,
        )
    return net


@torch.no_grad()
def develop(name: str, net: nn.Module) -> None:
    """Print what a variant reaches on the development split."""
    with np.load(prepare.CACHE / "development_pool.npz") as held:
        images, label = torch.from_numpy(held["image"]), torch.from_numpy(held["label"])
    net.eval()
    parts = zip(images.split(500), label.split(500), strict=True)
    share = sum(int((net(x).argmax(1) == y).sum()) for x, y in parts) / len(label)
    parameters = sum(p.numel() for p in net.parameters())
    print(f"{name}: {parameters} parameters, development {share:.4f}", flush=True)


def main() -> None:
    """Everything, from the package to the graphs."""
    parser = argparse.ArgumentParser(description="Trains the family and writes models/*.onnx.")
    parser.add_argument("variants", nargs="*", help=f"of {', '.join(FAMILY)}; default: all")
    parser.add_argument("--data", type=Path, help="folder with the four files of Fashion-MNIST")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.variants if name not in FAMILY]
    if unknown:
        parser.error(f"got variant {unknown[0]!r}, expected one of {', '.join(FAMILY)}")
    torch.set_num_threads(1)
    prepare.main(chosen.data)
    for name in chosen.variants or FAMILY:
        net = fit(name)
        develop(name, net)
        sample = torch.randint(0, 256, (5, 1, prepare.SIDE, prepare.SIDE), dtype=torch.uint8)
        export(net, {"image": sample}, "logits", HERE / "models" / f"{name}.onnx")


if __name__ == "__main__":
    main()
