"""DS-CNN, the keyword-spotting net of MLPerf Tiny (Banbury et al., 2021; Zhang et al., "Hello Edge", 2017)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Separable(nn.Module):
    """A 3x3 depthwise and a 1x1 convolution, each with a norm and a ReLU behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.depthwise(x)))
        return F.relu(self.bn2(self.pointwise(x)))


class DsCnn(nn.Module):
    """64 channels, four separable blocks; input (N, in_channels, 49, 10), output (N, num_classes).

    49 frames of 10 cepstral coefficients. Keras pads the strided first convolution of 10x4 by 4 and 5 in time and by
    1 and 1 in frequency, so this does too: the published weights, whose norms are folded, can be loaded. (Keras's own
    norms have an ``eps`` of 1e-3, these torch's.)
    """

    def __init__(self, *, num_classes: int = 12, in_channels: int = 1) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((1, 1, 4, 5))
        self.conv1 = nn.Conv2d(in_channels, 64, (10, 4), stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.blocks = nn.Sequential(*(Separable(64) for _ in range(4)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(self.pad(x))))
        return self.linear(self.pool(self.blocks(x)).flatten(1))


__all__ = ["DsCnn", "Separable"]
