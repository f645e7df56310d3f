"""Torch definitions that only the benchmarks need."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def _layer(in_channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, *, act: bool = True) -> nn.Module:
    conv = nn.Conv2d(in_channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), *([nn.ReLU6()] if act else []))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without an activation; the input is added where shapes agree."""

    def __init__(self, in_channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [_layer(in_channels, hidden, 1)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand, _layer(hidden, hidden, 3, stride, hidden), _layer(hidden, out, 1, act=False)
        )
        self.joins = stride == 1 and in_channels == out

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out, H / stride, W / stride)."""
        return x + self.layers(x) if self.joins else self.layers(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 1.0 (Sandler et al., 2018); ``stages`` are rows of its table 2."""

    def __init__(self, stages: Sequence[tuple[int, int, int, int]], *, num_classes: int = 1000) -> None:
        super().__init__()
        blocks, width = [_layer(3, 32, 3, 2)], 32
        for expansion, out, depth, first in stages:
            for i in range(depth):
                blocks.append(InvertedResidual(width, out, first if i == 0 else 1, expansion))
                width = out
        self.features = nn.Sequential(*blocks, _layer(width, 1280, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, num_classes)."""
        return self.linear(self.pool(self.features(x)).flatten(1))
