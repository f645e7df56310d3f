"""ResNet-8, the image-classification net of MLPerf Tiny (Banbury et al., 2021), for CIFAR-10."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Stack(nn.Module):
    """Two 3x3 convolutions; where the stride is 2 the shortcut is a 1x1 convolution without a norm, as in the original.

    Keras pads a strided 'same' convolution of an even input only behind (right and bottom), so this does too: the
    published weights, whose norms are folded, can be loaded. (Keras's own norms have an ``eps`` of 1e-3, these torch's
    1e-5.)
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1)) if stride == 2 else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=0 if stride == 2 else 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride) if stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(self.pad(x))))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet8(nn.Module):
    """Three stacks of 16, 32, 64 channels; input (N, in_channels, 32, 32), output (N, num_classes)."""

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.stack1 = Stack(16, 16, 1)
        self.stack2 = Stack(16, 32, 2)
        self.stack3 = Stack(32, 64, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.stack3(self.stack2(self.stack1(x)))
        return self.linear(self.pool(x).flatten(1))


__all__ = ["ResNet8", "Stack"]
