"""ResNets for CIFAR: 20/32/44/56 layers (He et al., Deep Residual Learning, 2015, section 4.2), and the wide 18.

Option A shortcuts: where the shape changes, the identity is subsampled by two and padded with zero
channels, so that a shortcut has no weight. Option B: a 1x1 convolution and a norm. Parameter names are those of the
widely used checkpoints of akamaster/pytorch_resnet_cifar10 (``conv1, bn1, layer1.0.conv1, linear``) and of
kuangliu/pytorch-cifar (the same, and ``layer2.0.shortcut.0``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class PadShortcut(nn.Module):
    """Option A: every second pixel, and ``extra`` zero channels before and behind."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))


Option = Literal["A", "B"]


class Block(nn.Module):
    """Two 3x3 convolutions with norms, and a shortcut: the identity, or by ``option`` where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int, option: Option = "A") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 and option == "A":
            self.shortcut = PadShortcut((channels - in_channels) // 2)
        elif stride != 1:
            conv = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """A stage of ``blocks`` blocks for each of ``widths``; input (N, in_channels, H, W), output (N, num_classes).

    The default widths are the paper's, ``6 * blocks + 2`` layers, initialised by He et al.; ``widths`` of 64 to 512
    with two blocks are the "ResNet-18" of CIFAR tables, whose weights start as torch's layers do (``init="torch"``).
    :meth:`adapt_state` takes APoT's published float nets (option B).
    """

    def __init__(
        self, blocks: int, *, widths: Sequence[int] = (16, 32, 64), option: Option = "A",
        init: Literal["he", "torch"] = "he", num_classes: int = 10, in_channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        previous = widths[0]
        self.conv1 = nn.Conv2d(in_channels, previous, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(previous)
        self.stages = [f"layer{i + 1}" for i in range(len(widths))]
        for i, (name, channels) in enumerate(zip(self.stages, widths, strict=True)):
            first = Block(previous, channels, 1 if i == 0 else 2, option)
            self.add_module(name, nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(blocks - 1))))
            previous = channels
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(previous, num_classes)
        if init == "he":
            for module in self.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    nn.init.kaiming_normal_(module.weight)

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of yhhhli/APoT_Quantization's float nets, too, which has other names for two parts."""
        names = {"downsample": "shortcut", "fc": "linear"}
        return {".".join(names.get(part, part) for part in name.split(".")): t for name, t in state.items()}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.linear(self.pool(x).flatten(1))


__all__ = ["Block", "CifarResNet", "Option", "PadShortcut"]
