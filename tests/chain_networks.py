"""Small networks, one per architectural idea, for the tests of the chain from training to the engine."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet(nn.Module):
    """Functional pools and relus, a flatten by view, no norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 5), nn.Conv2d(4, 6, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(6 * 3 * 3, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2, ceil_mode=True)
        x = F.relu(self.fc1(x.view(x.size(0), -1)))
        return self.fc2(x)


class Block(nn.Module):
    """A residual block; the shortcut is the identity, a strided slice with zero channels, or a convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, project: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs
        short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.downsample = short if project and (stride > 1 or self.extra) else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.stride > 1 or self.extra:
            x = F.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2)
            )
        y += x
        return self.relu(y)


class ResNet(nn.Module):
    """A stem, an identity block and a strided one, global average, a classifier."""

    def __init__(self, *, project: bool) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.layer1, self.layer2 = Block(4, 4, 1, project=project), Block(4, 8, 2, project=project)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(F.relu(self.norm(self.stem(x)))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def mobile() -> nn.Module:
    """Depthwise separable, relu6, global average over an area that is no power of two."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Conv2d(6, 6, 3, 1, 1, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


class Inception(nn.Module):
    """Branches with different grids, joined along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 4, (3, 1), padding=(1, 0), dilation=1)
        self.norm, self.head = nn.BatchNorm2d(9), nn.Conv2d(9, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.a(x)), torch.tanh(self.b(x)), F.max_pool2d(x, 3, 1, 1)], dim=1)
        return self.head(F.relu(self.norm(x))).mean((2, 3))


def audio() -> nn.Module:
    """One spatial axis."""
    return nn.Sequential(
        nn.Conv1d(2, 6, 5, 2, 2), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(3, 2, 1),
        nn.Conv1d(6, 6, 3, padding=2, dilation=2, groups=2), nn.BatchNorm1d(6), nn.Hardtanh(-1.5, 1.5),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


def mlp() -> nn.Module:
    """No norm, odd sizes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(21, 17), nn.ReLU(), nn.Linear(17, 9), nn.ReLU(), nn.Linear(9, 3))


def tables() -> nn.Module:
    """Smooth functions, which become tables."""
    return nn.Sequential(
        nn.Linear(7, 9), nn.Sigmoid(), nn.Linear(9, 9), nn.Hardswish(), nn.Linear(9, 6), nn.GELU(), nn.Linear(6, 3)
    )


def average() -> nn.Module:
    """An average over 7 x 7, and one over overlapping windows with padding."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3, 2, 1), nn.Conv2d(3, 4, 1), nn.ReLU(),
        nn.AvgPool2d(7), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip


class UNet(nn.Module):
    """A decoder: overlapping transposed convolutions, skips by concatenation and by addition, nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.bn1 = nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.down2, self.bn2 = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.up1, self.bn3 = nn.ConvTranspose2d(8, 4, 4, 2, 1, groups=2, bias=False), nn.BatchNorm2d(4)
        self.up2 = nn.ConvTranspose2d(8, 3, 3, 2, 1, output_padding=1)
        self.lateral, self.head = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn1(self.down1(x)))
        b = F.relu(self.bn2(self.down2(a)))
        b = F.relu(self.bn3(self.up1(b)))
        y = F.relu(self.up2(torch.cat([a, b], dim=1)) + self.lateral(x))
        return self.head(F.interpolate(y, scale_factor=2, mode="nearest"))


class Block3d(nn.Module):
    """A residual block over time and space, as R3D-18 has them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs))
        self.conv2 = nn.Sequential(nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm3d(outputs))
        same = stride == 1 and inputs == outputs
        down = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))
        self.downsample = None if same else down

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def video() -> nn.Module:
    """R3D in small: a stem over (2, 3, 3), two residual blocks, a transposed convolution back, pools, a classifier."""
    return nn.Sequential(
        nn.Conv3d(2, 4, (2, 3, 3), (1, 2, 2), (1, 1, 1), bias=False), nn.BatchNorm3d(4), nn.ReLU(),
        Block3d(4, 4, 1), Block3d(4, 6, 2), nn.MaxPool3d((1, 2, 2)),
        nn.ConvTranspose3d(6, 6, (1, 2, 2), (1, 2, 2), groups=2, bias=False), nn.BatchNorm3d(6), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def decoder1d() -> nn.Module:
    """Audio from a code: kernels longer than the stride, gaps where the stride is longer, dilation."""
    return nn.Sequential(
        nn.ConvTranspose1d(3, 4, 5, 3, 2, output_padding=1), nn.ReLU(),
        nn.ConvTranspose1d(4, 4, 2, 3, groups=4), nn.ReLU(), nn.Upsample(scale_factor=2), nn.AvgPool1d(2),
        nn.ConvTranspose1d(4, 2, 3, 1, 1, dilation=2),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet": (LeNet, (1, 15, 15)),
    "resnet-slice": (lambda: ResNet(project=False), (3, 8, 8)),
    "resnet-conv": (lambda: ResNet(project=True), (3, 8, 8)),
    "mobile": (mobile, (3, 11, 11)),
    "inception": (Inception, (2, 5, 6)),
    "audio": (audio, (2, 27)),
    "mlp": (mlp, (3, 7)),
    "tables": (tables, (7,)),
    "average": (average, (1, 14, 14)),
    "unet": (UNet, (2, 12, 8)),
    "video": (video, (2, 4, 9, 8)),
    "decoder1d": (decoder1d, (3, 5)),
}
"""Constructor and per-sample input shape by name."""


def trained(name: str, *, seed: int) -> nn.Module:
    """The network with weights and running statistics as training might leave them, negative and tiny gains too."""
    torch.manual_seed(seed)
    model = NETWORKS[name][0]()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
                module.weight.copy_(torch.randn(module.num_features, generator=generator))
                module.bias.copy_(torch.randn(module.num_features, generator=generator) / 2)
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) / 2)
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.05)
                module.weight[0] = 1e-4
    return model.eval()
