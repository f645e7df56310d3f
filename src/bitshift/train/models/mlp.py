"""The fully connected net of DeepShift's MNIST table."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """784-512-512-classes with ReLU and dropout 0.2; input (N, in_channels, 28, 28)."""

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1, hidden: int = 512, dropout: float = 0.2) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels * 28 * 28, hidden)
        self.dropout1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, hidden)
        self.dropout2 = nn.Dropout(dropout)
        self.fc3 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout1(F.relu(self.fc1(x.flatten(1))))
        x = self.dropout2(F.relu(self.fc2(x)))
        return self.fc3(x)


__all__ = ["MLP"]
