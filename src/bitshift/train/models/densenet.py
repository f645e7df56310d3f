"""DenseNet-121/161/169/201 (Huang et al., 2017), with torchvision's parameter names."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OLD_NAME = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1 to ``4 * growth`` channels, norm, ReLU, 3x3 to ``growth``, of all earlier outputs at once."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    """``depth`` layers, each of which reads the block's input and the outputs of all before it."""

    def __init__(self, depth: int, in_channels: int, growth: int) -> None:
        super().__init__()
        for i in range(depth):
            self[f"denselayer{i + 1}"] = DenseLayer(in_channels + i * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


def _transition(in_channels: int, channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, 1, bias=False)
    parts = {"norm": nn.BatchNorm2d(in_channels), "relu": nn.ReLU(), "conv": conv, "pool": nn.AvgPool2d(2)}
    return nn.Sequential(OrderedDict(parts))


class DenseNet(nn.Module):
    """Four dense blocks of ``depths`` layers; input (N, in_channels, H, W) from 32 pixels on."""

    def __init__(
        self, depths: tuple[int, int, int, int], *, growth: int = 32, stem: int = 64, num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        parts: dict[str, nn.Module] = {
            "conv0": nn.Conv2d(in_channels, stem, 7, stride=2, padding=3, bias=False),
            "norm0": nn.BatchNorm2d(stem),
            "relu0": nn.ReLU(),
            "pool0": nn.MaxPool2d(3, stride=2, padding=1),
        }
        channels = stem
        for i, depth in enumerate(depths, start=1):
            parts[f"denseblock{i}"] = DenseBlock(depth, channels, growth)
            channels += depth * growth
            if i < len(depths):
                parts[f"transition{i}"] = _transition(channels, channels // 2)
                channels //= 2
        parts["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(OrderedDict(parts))
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    @staticmethod
    def adapt_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published state dict for this model: the files say ``denselayer1.norm.1``, the modules ``norm1``."""
        return {_OLD_NAME.sub(r"\1\2", name): tensor for name, tensor in state.items()}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.features(x))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


__all__ = ["DenseBlock", "DenseLayer", "DenseNet"]
