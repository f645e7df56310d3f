"""Small models of real shapes for the tests of conversion and freezing, with statistics that a trained one has."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet(nn.Module):
    """Functional relu, max-pool and view; no norm."""

    shape = (1, 14, 14)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 8, 3)
        self.fc1, self.fc2 = nn.Linear(32, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(x.size(0), -1)
        return self.fc2(F.dropout(F.relu(self.fc1(x)), 0.5, self.training))


class Block(nn.Module):
    """A basic ResNet block: one shared relu module, ``out += identity``."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or i != o:
            self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """Stem, two blocks, global average pool."""

    shape = (3, 9, 9)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.layer1, self.layer2 = nn.Sequential(Block(8, 8, 1)), nn.Sequential(Block(8, 12, 2))
        self.fc = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class OptionA(nn.Module):
    """The CIFAR shortcut without weights: a strided slice, zero channels; the mean over space."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv, self.bn = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        y = self.bn(self.conv(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.fc(F.relu(y).mean((2, 3)))


class Mobile(nn.Module):
    """Depthwise separable with relu6 and an inverted residual whose sum meets no relu."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()

        def unit(i: int, o: int, k: int, stride: int, groups: int) -> list[nn.Module]:
            return [nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]

        self.stem = nn.Sequential(*unit(3, 8, 3, 1, 1), nn.ReLU6())
        self.expand = nn.Sequential(
            *unit(8, 16, 1, 1, 1), nn.ReLU6(), *unit(16, 16, 3, 1, 16), nn.ReLU6(), *unit(16, 8, 1, 1, 1)
        )
        self.head = nn.Sequential(
            *unit(8, 12, 1, 1, 1), nn.ReLU6(), nn.AvgPool2d(3, 2, 1), nn.Flatten(), nn.Dropout(0.2)
        )
        self.fc = nn.Linear(12 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc(self.head(x + self.expand(x)))


class Dense(nn.Module):
    """Concatenation, also of concatenations, in front of norms (pre-activation) and layers."""

    shape = (2, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(8)])
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)])
        self.last = nn.Conv2d(12, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.last(F.avg_pool2d(F.relu(x), 2)).flatten(1)


class Speech(nn.Module):
    """One-dimensional: strided, dilated, asymmetric ("same", even kernel); a norm behind a linear layer."""

    shape = (5, 24)

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            OrderedDict(
                a=nn.Conv1d(5, 8, 4, padding="same"), an=nn.BatchNorm1d(8), ar=nn.ReLU(), ap=nn.MaxPool1d(2),
                b=nn.Conv1d(8, 8, 3, dilation=2, groups=4, stride=2, padding=2, bias=False), bn=nn.BatchNorm1d(8),
                br=nn.ReLU(),
                pool=nn.AvgPool1d(3), flat=nn.Flatten(), c=nn.Linear(16, 12), cn=nn.BatchNorm1d(12), cr=nn.ReLU(),
                d=nn.Linear(12, 3),
            )
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Curved(nn.Module):
    """Functions that become tables, one with a shared conv in front, as module and as call."""

    shape = (2, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.a(x))
        x = torch.sigmoid(self.b(x))
        return self.fc(F.leaky_relu(x, 0.1).flatten(1))


class SharedConv(nn.Module):
    """One convolution called on two values, with a norm of its own for each call."""

    shape = (4, 5, 5)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.n1, self.n2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.alias = self.conv
        self.fc = nn.Linear(100, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n1(self.conv(x)))
        x = F.relu(self.n2(self.alias(x)))
        return self.fc(x.flatten(1))


class Shuffle(nn.Module):
    """A ShuffleNet unit: chunk, concatenation, shuffled channels by sizes that forward computes."""

    shape = (3, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(
            nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 4, 3, 1, 1, groups=4, bias=False), nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        )  # fmt: skip
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).chunk(2, dim=1)
        x = torch.cat((a, self.branch(b)), 1)
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        return self.fc(x.mean([2, 3]))


class Tokens(nn.Module):
    """Linear layers along both axes of a sequence (an MLP mixer), transposes, a table, three wide summands."""

    shape = (5, 6)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(6, 8), nn.Linear(5, 5), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x + self.b(F.relu(x).transpose(1, 2)).transpose(1, 2) + self.c(F.hardswish(x))
        return self.head(x)


ARCHITECTURES = {
    m.__name__: m for m in (LeNet, ResNet, OptionA, Mobile, Dense, Speech, Curved, SharedConv, Shuffle, Tokens)
}


def build(name: str, seed: int = 0) -> nn.Module:
    """The model with seeded weights and the norms of a trained network: gains of both signs, real statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ARCHITECTURES[name]()
        for m in model.modules():
            if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.normal_(m.weight, 0.5, 1.0)
                nn.init.normal_(m.bias)
                m.running_mean.normal_(0, 0.5)
                m.running_var.uniform_(0.2, 2.0)
    return model


def batch(name: str, size: int = 3, seed: int = 1) -> Tensor:
    """Seeded normal inputs."""
    return torch.randn(size, *ARCHITECTURES[name].shape, generator=torch.Generator().manual_seed(seed))
