"""The encoders and the head: torch modules whose graphs take the service's inputs as they come."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

WIDTH = 64  # numbers in an embedding
MODALITIES = ("accelerometer", "gyroscope")
EXERCISES = 7


class SensorEncoder(nn.Module):
    """Two convolutions over time, a GRU over what they find, and the mean of its states.

    The GRU reads its weights once a step whatever the batch, so a batch of a few items costs little more than one.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self, mean: NDArray[np.float32], spread: NDArray[np.float32], *, width: int, states: int, stride: int
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("spread", torch.from_numpy(spread))
        self.convs = nn.Sequential(
            nn.Conv1d(3, width, 7, stride, 3, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 5, padding=2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        )
        self.gru = nn.GRU(width, states, batch_first=True)
        self.out = nn.Sequential(nn.Dropout(0.3), nn.Linear(states, WIDTH))

    def forward(self, readings: Tensor) -> Tensor:
        x = (readings - self.mean) / self.spread
        states, _ = self.gru(self.convs(x.transpose(1, 2)).transpose(1, 2))
        embedding: Tensor = self.out(states.mean(1))
        return embedding


class Head(nn.Module):
    """Logits from whichever embeddings are there; a learned vector stands in for one that is not."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.missing = nn.Parameter(torch.zeros(len(MODALITIES), WIDTH))
        self.mixed = nn.Sequential(
            nn.Linear(len(MODALITIES) * WIDTH, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, EXERCISES)
        )

    def forward(self, accelerometer: Tensor, gyroscope: Tensor, mask: Tensor) -> Tensor:
        present = mask.unsqueeze(2)
        x = torch.stack([accelerometer, gyroscope], 1) * present + self.missing * (1 - present)
        logits: Tensor = self.mixed(x.flatten(1))
        return logits
