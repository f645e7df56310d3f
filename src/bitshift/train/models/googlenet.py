"""GoogLeNet with batch norm (Szegedy et al., 2014), with torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicConv2d(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches, concatenated: 1x1; 1x1 and 3x3; 1x1 and 3x3; max-pool and 1x1.

    The third branch has a 3x3 kernel where the paper has 5x5, as torchvision's weights do.
    """

    def __init__(self, in_channels: int, one: int, two: tuple[int, int], three: tuple[int, int], four: int) -> None:
        super().__init__()
        self.branch1 = BasicConv2d(in_channels, one, 1)
        self.branch2 = nn.Sequential(BasicConv2d(in_channels, two[0], 1), BasicConv2d(*two, 3, padding=1))
        self.branch3 = nn.Sequential(BasicConv2d(in_channels, three[0], 1), BasicConv2d(*three, 3, padding=1))
        pool = nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True)
        self.branch4 = nn.Sequential(pool, BasicConv2d(in_channels, four, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class InceptionAux(nn.Module):
    """A classifier in the middle of the net, for training from scratch."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = BasicConv2d(in_channels, 128, 1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.adaptive_avg_pool2d(x, 4)).flatten(1)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


class GoogLeNet(nn.Module):
    """22 layers with weights on the longest path; input (N, in_channels, H, W) from 32 pixels on.

    The checkpoint of torchvision holds two auxiliary classifiers. Without ``aux_logits`` :meth:`adapt_state` leaves
    them out, as torchvision's own loader does; with it, ``forward`` in training mode returns (logits, second auxiliary
    logits, first auxiliary logits), as in torchvision.

    ``transform_input`` takes inputs normalised by ImageNet's mean and deviation to the mean and deviation of 0.5 that
    the published weights were trained with. It is off here, and so those weights want (pixel / 255 - 0.5) / 0.5: a
    normalisation that stays outside costs nothing, inside it costs an integer network float products at its input.
    """

    def __init__(
        self, *, num_classes: int = 1000, in_channels: int = 3, aux_logits: bool = False, transform_input: bool = False,
        dropout: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__()
        if transform_input and in_channels != 3:
            raise ValueError(f"transform_input speaks of 3 colours, but in_channels is {in_channels}")
        self.aux_logits, self.transform_input = aux_logits, transform_input
        self.conv1 = BasicConv2d(in_channels, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = BasicConv2d(64, 64, 1)
        self.conv3 = BasicConv2d(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        if aux_logits:
            self.aux1, self.aux2 = InceptionAux(512, num_classes), InceptionAux(528, num_classes)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, mean=0.0, std=0.01, a=-2, b=2)

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published state dict for this model: without the auxiliary classifiers if the model has none."""
        heads = () if self.aux_logits else ("aux1.", "aux2.")
        return {name: tensor for name, tensor in state.items() if not name.startswith(heads)}

    def _transformed(self, x: Tensor) -> Tensor:
        mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        parts = [x[:, c : c + 1] * (deviation[c] / 0.5) + (mean[c] - 0.5) / 0.5 for c in range(3)]
        return torch.cat(parts, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        if self.transform_input:
            x = self._transformed(x)
        x = self.maxpool2(self.conv3(self.conv2(self.maxpool1(self.conv1(x)))))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = first = self.inception4a(x)
        x = second = self.inception4d(self.inception4c(self.inception4b(x)))
        x = self.inception5b(self.inception5a(self.maxpool4(self.inception4e(x))))
        x = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return (x, self.aux2(second), self.aux1(first)) if self.training and self.aux_logits else x


__all__ = ["BasicConv2d", "GoogLeNet", "Inception", "InceptionAux"]
