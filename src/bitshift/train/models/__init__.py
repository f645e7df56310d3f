"""Reference models by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from bitshift.train.models.lenet import LeNet
from bitshift.train.models.resnet import BasicBlock, Bottleneck, ResNet
from bitshift.train.models.resnet8 import ResNet8
from bitshift.train.models.resnet_cifar import CifarResNet


@dataclass(frozen=True)
class ModelEntry:
    """How a model is made, and one line about it."""

    make: Callable[..., nn.Module]
    about: str
    input_size: tuple[int, int]
    """Height and width that the model is meant for."""


MODELS: dict[str, ModelEntry] = {
    "lenet": ModelEntry(
        LeNet, "two 5x5 convolutions (20, 50), two linear layers; DeepShift's MNIST net, 431k weights", (28, 28)
    ),
    "lenet_bn": ModelEntry(partial(LeNet, norm=True), "lenet with a batch norm behind each hidden layer", (28, 28)),
    "resnet8": ModelEntry(
        ResNet8, "MLPerf Tiny's CIFAR-10 net: three stacks of 16, 32, 64 channels, 78k weights", (32, 32)
    ),
    "resnet20": ModelEntry(partial(CifarResNet, 3), "He et al. for CIFAR, 20 layers, 0.27 M weights", (32, 32)),
    "resnet32": ModelEntry(partial(CifarResNet, 5), "He et al. for CIFAR, 32 layers, 0.46 M weights", (32, 32)),
    "resnet44": ModelEntry(partial(CifarResNet, 7), "He et al. for CIFAR, 44 layers, 0.66 M weights", (32, 32)),
    "resnet56": ModelEntry(partial(CifarResNet, 9), "He et al. for CIFAR, 56 layers, 0.85 M weights", (32, 32)),
    "resnet18": ModelEntry(
        partial(ResNet, BasicBlock, (2, 2, 2, 2)), "torchvision's ResNet-18, 11.7 M weights", (224, 224)
    ),
    "resnet34": ModelEntry(
        partial(ResNet, BasicBlock, (3, 4, 6, 3)), "torchvision's ResNet-34, 21.8 M weights", (224, 224)
    ),
    "resnet50": ModelEntry(
        partial(ResNet, Bottleneck, (3, 4, 6, 3)), "torchvision's ResNet-50, 25.6 M weights", (224, 224)
    ),
}


def build(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """The model ``name`` of :data:`MODELS`, initialised from torch's global generator.

    Raises:
        ValueError: no such model; lists the near misses and what exists.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"unknown model {name!r}{hint} Known models: {', '.join(MODELS)}")
    if num_classes < 1 or in_channels < 1:
        raise ValueError(f"num_classes {num_classes} and in_channels {in_channels} must be at least 1")
    return MODELS[name].make(num_classes=num_classes, in_channels=in_channels)


def strip_module_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the ``module.`` that DataParallel puts in front of its names."""
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


__all__ = ["MODELS", "ModelEntry", "build", "strip_module_prefix"]
