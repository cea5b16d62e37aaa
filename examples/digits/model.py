"""The encoders and the head: torch modules whose graphs take the service's inputs as they come."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from derive import COEFFICIENT_SPREAD, COEFFICIENTS, CONTRAST, DARK, SIZE
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional


class Widths(NamedTuple):
    """How wide a variant is: channels of each encoder's first level, hidden units of the head."""

    clip: int
    speech: int
    word: int
    head: int


VARIANTS = {"small": Widths(64, 96, 96, 128), "tiny": Widths(16, 32, 32, 32)}
WIDTH = 64  # numbers in an embedding
MODALITIES = ("clip", "speech", "word")
CODES = 2465  # code points modulo this: the least modulus that keeps the 269 letters in use apart


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _conv(width, width), _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functional.relu(x + self.second(functional.relu(self.first(x))))
        return y


class _Attention(nn.Module):
    """A weighted mean over positions, so that the digit counts and the empty background does not."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.score(x).flatten(1).softmax(1).unsqueeze(1)
        y: Tensor = (x.flatten(2) * weight).sum(2)
        return y


class ClipEncoder(nn.Module):
    """One CNN for every frame, then the mean over frames: by far the dearest of the three."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frame = nn.Sequential(
            nn.Conv2d(1, width, 5, 2, 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *[_Residual(width) for _ in range(3)],
            _conv(width, 2 * width, 2),
            nn.ReLU(),
            _Residual(2 * width),
            _conv(2 * width, 2 * width, 2),
            nn.ReLU(),
            _Attention(2 * width),
            nn.Linear(2 * width, WIDTH),
        )

    def forward(self, clip: Tensor) -> Tensor:
        n, frames = clip.shape[0], clip.shape[1]
        size = clip.shape[2] if self.training else SIZE
        pixels = ((clip.float() - DARK) / CONTRAST).reshape(n * frames, 1, size, size)
        embedding: Tensor = self.frame(pixels).float().reshape(n, frames, WIDTH).mean(1)
        return embedding


class SpeechEncoder(nn.Module):
    """Convolutions over time; frames of zeros are padding and take no part."""

    mean: Tensor
    spread: Tensor

    def __init__(self, mean: NDArray[np.float32], width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("spread", torch.from_numpy(COEFFICIENT_SPREAD))
        widths = [COEFFICIENTS, width, width, width]
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv1d(i, o, k, padding=k // 2), nn.BatchNorm1d(o))
            for i, o, k in zip(widths, widths[1:], (3, 5, 5), strict=False)
        )
        self.out = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * width, WIDTH))

    def forward(self, mfcc: Tensor) -> Tensor:
        heard = (mfcc.abs().amax(2, keepdim=True) > 0).float()
        x = ((mfcc - self.mean) / self.spread * heard).transpose(1, 2)
        heard = heard.transpose(1, 2)
        for conv in self.convs:
            x = functional.relu(conv(x)) * heard
        mean = x.sum(2) / heard.sum(2).clamp(min=1)
        embedding: Tensor = self.out(torch.cat([mean, x.amax(2)], 1))
        return embedding


class WordEncoder(nn.Module):
    """Convolutions over letters, looked up by code point."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(CODES, 32, padding_idx=0)
        self.first = nn.Conv1d(32, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, padding=1)
        self.out = nn.Sequential(nn.Dropout(0.2), nn.Linear(width, WIDTH))

    def forward(self, chars: Tensor) -> Tensor:
        x = self.letters(torch.remainder(chars, CODES)).transpose(1, 2)
        embedding: Tensor = self.out(functional.relu(self.second(functional.relu(self.first(x)))).amax(2))
        return embedding


class Head(nn.Module):
    """Logits from whichever embeddings are there; a learned vector stands in for each that is not."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.missing = nn.Parameter(torch.zeros(len(MODALITIES), WIDTH))
        inputs = len(MODALITIES) * WIDTH
        self.plain = nn.Linear(inputs, 10)
        self.mixed = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 10))

    def forward(self, clip: Tensor, speech: Tensor, word: Tensor, mask: Tensor) -> Tensor:
        present = mask.unsqueeze(2)
        x = torch.stack([clip, speech, word], 1) * present + self.missing * (1 - present)
        flat = x.flatten(1)
        logits: Tensor = self.plain(flat) + self.mixed(flat)
        return logits
