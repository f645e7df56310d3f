"""MobileNetV1 (Howard et al., 2017) and MobileNetV2 (Sandler et al., 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

V2_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, number of blocks, stride of the first, for each stage of MobileNetV2."""


def _unit(in_channels: int, channels: int, kernel: int, stride: int = 1, *, groups: int = 1) -> list[nn.Module]:
    """Convolution without bias, and its norm."""
    conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


def _separable(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    depthwise = _unit(in_channels, in_channels, 3, stride, groups=in_channels)
    return nn.Sequential(*depthwise, nn.ReLU(), *_unit(in_channels, channels, 1), nn.ReLU())


class MobileNetV1(nn.Module):
    """13 depthwise separable convolutions; input (N, in_channels, H, W) from 32 pixels on.

    torchvision has no MobileNetV1: the names (``model.3.0.weight``, ``fc.bias``) are those of marvis/pytorch-mobilenet,
    the checkpoint with 69.5 % that DeepShift's first table starts from.
    """

    def __init__(self, *, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        steps = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
        layers: list[nn.Module] = [nn.Sequential(*_unit(in_channels, 32, 3, 2), nn.ReLU())]
        previous = 32
        for channels, stride in steps:
            layers.append(_separable(previous, channels, stride))
            previous = channels
        self.model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.model(x).flatten(1))


class InvertedResidual(nn.Module):
    """1x1 to ``expansion`` times the channels, 3x3 depthwise, 1x1 down without a ReLU; a sum where shapes allow."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [nn.Sequential(*_unit(in_channels, hidden, 1), nn.ReLU6())] if expansion != 1 else []
        depthwise = nn.Sequential(*_unit(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6())
        self.conv = nn.Sequential(*expand, depthwise, *_unit(hidden, channels, 1))
        self.adds = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """17 inverted residuals; input (N, in_channels, H, W) from 32 pixels on; torchvision's parameter names."""

    def __init__(
        self, *, num_classes: int = 1000, in_channels: int = 3, blocks: Sequence[tuple[int, int, int, int]] = V2_BLOCKS,
        dropout: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*_unit(in_channels, 32, 3, 2), nn.ReLU6())]
        previous = 32
        for expansion, channels, depth, stride in blocks:
            for i in range(depth):
                layers.append(InvertedResidual(previous, channels, stride if i == 0 else 1, expansion))
                previous = channels
        layers.append(nn.Sequential(*_unit(previous, 1280, 1), nn.ReLU6()))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class CifarInvertedResidual(nn.Module):
    """As :class:`InvertedResidual`, with ReLU, a 1x1 in front always, and a 1x1 shortcut where only channels change."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.conv1, self.bn1 = _unit(in_channels, hidden, 1)
        self.conv2, self.bn2 = _unit(hidden, hidden, 3, stride, groups=hidden)
        self.conv3, self.bn3 = _unit(hidden, channels, 1)
        self.adds = stride == 1
        self.shortcut = nn.Sequential(
            *(_unit(in_channels, channels, 1) if self.adds and in_channels != channels else [])
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return y + self.shortcut(x) if self.adds else y


class CifarMobileNetV2(nn.Module):
    """MobileNetV2 for pictures of 32 pixels, with the names and strides of kuangliu/pytorch-cifar.

    It is the net of DeepShift's CIFAR-10 table. The stem and the second stage keep the resolution.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = _unit(in_channels, 32, 3)
        layers: list[nn.Module] = []
        previous = 32
        for stage, (expansion, channels, depth, stride) in enumerate(V2_BLOCKS):
            for i in range(depth):
                step = stride if i == 0 and stage != 1 else 1
                layers.append(CifarInvertedResidual(previous, channels, step, expansion))
                previous = channels
        self.layers = nn.Sequential(*layers)
        self.conv2, self.bn2 = _unit(previous, 1280, 1)
        self.linear = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


__all__ = ["V2_BLOCKS", "CifarInvertedResidual", "CifarMobileNetV2", "InvertedResidual", "MobileNetV1", "MobileNetV2"]
