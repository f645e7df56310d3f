"""LeNet-like convolutional net for MNIST: the "Conv" net of DeepShift's MNIST table (methods.md 1.6)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LeNet(nn.Module):
    """20 @ 5x5, 50 @ 5x5, each with 2x2 max-pooling, then 500 hidden units; input (N, in_channels, 28, 28).

    ``norm=True`` adds a batch norm behind each hidden layer and drops the biases that it makes idle.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1, norm: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 20, 5, bias=not norm)
        self.bn1 = nn.BatchNorm2d(20) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(20, 50, 5, bias=not norm)
        self.bn2 = nn.BatchNorm2d(50) if norm else nn.Identity()
        self.fc1 = nn.Linear(50 * 4 * 4, 500, bias=not norm)
        self.bn3 = nn.BatchNorm1d(500) if norm else nn.Identity()
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.relu(self.bn3(self.fc1(x.flatten(1))))
        return self.fc2(x)


__all__ = ["LeNet"]
