"""LeNet-5 (LeCun et al., 1998) as it is built today: max-pooling, ReLU. Small enough for every microcontroller."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LeNet5(nn.Module):
    """6 @ 5x5 (padded by 2), 16 @ 5x5, each with 2x2 max-pooling, then 120 and 84 hidden units; input (N, C, 28, 28).

    ``norm=True`` adds a batch norm behind each hidden layer and drops the biases that it makes idle.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1, norm: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=2, bias=not norm)
        self.bn1 = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(6, 16, 5, bias=not norm)
        self.bn2 = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.fc1 = nn.Linear(16 * 5 * 5, 120, bias=not norm)
        self.bn3 = nn.BatchNorm1d(120) if norm else nn.Identity()
        self.fc2 = nn.Linear(120, 84, bias=not norm)
        self.bn4 = nn.BatchNorm1d(84) if norm else nn.Identity()
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.relu(self.bn3(self.fc1(x.flatten(1))))
        x = F.relu(self.bn4(self.fc2(x)))
        return self.fc3(x)


__all__ = ["LeNet5"]
