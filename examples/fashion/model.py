"""The family: residual networks that differ in depth, in width and in how coarsely the first layer looks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN, SPREAD = 72.9, 90.0  # of the training pixels, in 0..255


class Shape(NamedTuple):
    """`depth` layers with weights (6n + 2: three levels of n blocks of two), `width` channels at the first level,
    `stride` of the first layer."""

    depth: int
    width: int
    stride: int


FAMILY = {  # from the cheapest to the dearest
    "r8w2": Shape(8, 2, 4),
    "r8w4": Shape(8, 4, 4),
    "r8w8": Shape(8, 8, 2),
    "r8w16": Shape(8, 16, 1),
    "r14w16": Shape(14, 16, 1),
    "r14w32": Shape(14, 32, 1),
}


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))


class _Block(nn.Module):
    """Two convolutions, and a way past them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _conv(inputs, outputs, stride), _conv(outputs, outputs)
        self.past: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.past = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functional.relu(self.past(x) + self.second(functional.relu(self.first(x))))
        return y


class ResNet(nn.Module):
    """Logits [n, 10] of pictures UINT8 [n, 1, 28, 28]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(1, shape.width, shape.stride), nn.ReLU()]
        inputs = shape.width
        for level in range(3):
            outputs = shape.width * 2**level
            for at in range((shape.depth - 2) // 6):
                layers.append(_Block(inputs, outputs, 2 if level and not at else 1))
                inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(inputs, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = (image.to(torch.float32) - MEAN) / SPREAD
        logits: Tensor = self.out(self.layers(x).mean((2, 3)))
        return logits
