"""Reference models by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from bitshift.train.models.alexnet import AlexNet
from bitshift.train.models.densenet import DenseNet
from bitshift.train.models.ds_cnn import DsCnn
from bitshift.train.models.googlenet import GoogLeNet
from bitshift.train.models.lenet import LeNet
from bitshift.train.models.lenet5 import LeNet5
from bitshift.train.models.mlp import MLP
from bitshift.train.models.mobilenet import CifarMobileNetV2, MobileNetV1, MobileNetV2
from bitshift.train.models.resnet import BasicBlock, Bottleneck, ResNet
from bitshift.train.models.resnet8 import ResNet8
from bitshift.train.models.resnet_cifar import CifarResNet
from bitshift.train.models.vgg import STAGES, VGG


@dataclass(frozen=True)
class ModelEntry:
    """How a model is made, and one line about it."""

    make: Callable[..., nn.Module]
    about: str
    input_size: tuple[int, int]
    """Height and width that the model is meant for."""


_LARGE, _CIFAR, _DIGIT, _SPEECH = (224, 224), (32, 32), (28, 28), (49, 10)


def _resnet(layers: int, block: type[BasicBlock | Bottleneck], depths: tuple[int, ...], weights: str) -> ModelEntry:
    return ModelEntry(partial(ResNet, block, depths), f"torchvision's ResNet-{layers}, {weights} M weights", _LARGE)


def _cifar_resnet(layers: int, blocks: int, weights: str) -> ModelEntry:
    return ModelEntry(
        partial(CifarResNet, blocks), f"He et al. for CIFAR, {layers} layers, {weights} M weights", _CIFAR
    )


def _cifar_resnet_b(layers: int, blocks: int) -> ModelEntry:
    about = f"resnet{layers} with 1x1 convolutions as shortcuts where the shape changes; APoT's"
    return ModelEntry(partial(CifarResNet, blocks, option="B"), about, _CIFAR)


def _vgg(layers: int, plain: str, norm: str) -> dict[str, ModelEntry]:
    about = f"torchvision's VGG-{layers}"
    return {
        f"vgg{layers}": ModelEntry(partial(VGG, STAGES[layers]), f"{about}, {plain} M weights", _LARGE),
        f"vgg{layers}_bn": ModelEntry(
            partial(VGG, STAGES[layers], norm=True), f"{about} with batch norms, {norm} M weights", _LARGE
        ),
    }


def _densenet(layers: int, depths: tuple[int, int, int, int], weights: str, **widths: int) -> ModelEntry:
    return ModelEntry(
        partial(DenseNet, depths, **widths), f"torchvision's DenseNet-{layers}, {weights} M weights", _LARGE
    )


_WIDE = partial(CifarResNet, 2, widths=(64, 128, 256, 512), init="torch")

MODELS: dict[str, ModelEntry] = {
    "mlp": ModelEntry(MLP, "784-512-512-10, dropout 0.2; DeepShift's MNIST FC net, 670k weights", _DIGIT),
    "lenet": ModelEntry(
        LeNet, "two 5x5 convolutions (20, 50), two linear layers; DeepShift's MNIST net, 431k weights", _DIGIT
    ),
    "lenet_bn": ModelEntry(partial(LeNet, norm=True), "lenet with a batch norm behind each hidden layer", _DIGIT),
    "lenet5": ModelEntry(LeNet5, "LeNet-5: two 5x5 convolutions (6, 16), three linear layers; 62k weights", _DIGIT),
    "lenet5_bn": ModelEntry(partial(LeNet5, norm=True), "lenet5 with a batch norm behind each hidden layer", _DIGIT),
    "ds_cnn": ModelEntry(
        DsCnn,
        "MLPerf Tiny's keyword spotter, depthwise, 64 wide; 49x10 cepstral coefficients, 24k weights",
        _SPEECH,
    ),
    "resnet8": ModelEntry(
        ResNet8, "MLPerf Tiny's CIFAR-10 net: three stacks of 16, 32, 64 channels, 78k weights", _CIFAR
    ),
    "resnet20": _cifar_resnet(20, 3, "0.27"),
    "resnet32": _cifar_resnet(32, 5, "0.46"),
    "resnet44": _cifar_resnet(44, 7, "0.66"),
    "resnet56": _cifar_resnet(56, 9, "0.85"),
    "resnet20_b": _cifar_resnet_b(20, 3),
    "resnet56_b": _cifar_resnet_b(56, 9),
    "resnet18_cifar": ModelEntry(
        _WIDE, "widths 64 to 512 for CIFAR, shortcuts without weights; DeepShift's ResNet-18, 11.0 M weights", _CIFAR
    ),
    "resnet18_cifar_b": ModelEntry(
        partial(_WIDE, option="B"), "the same with 1x1 shortcuts, as kuangliu/pytorch-cifar, 11.2 M weights", _CIFAR
    ),
    "mobilenet_v2_cifar": ModelEntry(
        CifarMobileNetV2, "MobileNetV2 for CIFAR, as kuangliu/pytorch-cifar; DeepShift's, 2.3 M weights", _CIFAR
    ),
    "resnet18": _resnet(18, BasicBlock, (2, 2, 2, 2), "11.7"),
    "resnet34": _resnet(34, BasicBlock, (3, 4, 6, 3), "21.8"),
    "resnet50": _resnet(50, Bottleneck, (3, 4, 6, 3), "25.6"),
    "resnet101": _resnet(101, Bottleneck, (3, 4, 23, 3), "44.5"),
    "resnet152": _resnet(152, Bottleneck, (3, 8, 36, 3), "60.2"),
    **_vgg(11, "132.9", "132.9"),
    **_vgg(13, "133.0", "133.1"),
    **_vgg(16, "138.4", "138.4"),
    **_vgg(19, "143.7", "143.7"),
    "googlenet": ModelEntry(GoogLeNet, "torchvision's GoogLeNet without auxiliary heads, 6.6 M weights", _LARGE),
    "mobilenet_v1": ModelEntry(MobileNetV1, "MobileNetV1, as marvis/pytorch-mobilenet, 4.2 M weights", _LARGE),
    "mobilenet_v2": ModelEntry(MobileNetV2, "torchvision's MobileNetV2, 3.5 M weights", _LARGE),
    "alexnet": ModelEntry(AlexNet, "torchvision's AlexNet, 61.1 M weights", _LARGE),
    "densenet121": _densenet(121, (6, 12, 24, 16), "8.0"),
    "densenet161": _densenet(161, (6, 12, 36, 24), "28.7", growth=48, stem=96),
    "densenet169": _densenet(169, (6, 12, 32, 32), "14.1"),
    "densenet201": _densenet(201, (6, 12, 48, 32), "20.0"),
}


def build(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """The model ``name`` of :data:`MODELS`, initialised from torch's global generator.

    Raises:
        ValueError: no such model; lists the near misses and what exists.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(f"unknown model {name!r}{hint} Known models: {', '.join(MODELS)}")
    if num_classes < 1 or in_channels < 1:
        raise ValueError(f"num_classes {num_classes} and in_channels {in_channels} must be at least 1")
    return MODELS[name].make(num_classes=num_classes, in_channels=in_channels)


def strip_module_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the ``module.`` that DataParallel puts in front of its names."""
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def published_state(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict from somebody else's file, under the names of ``model``.

    Takes off DataParallel's prefix, and lets models whose published files differ (``adapt_state``: GoogLeNet's
    auxiliary heads, DenseNet's old names) say how. Shapes are not looked at.
    """
    plain = strip_module_prefix(state)
    adapt = getattr(model, "adapt_state", None)
    return plain if adapt is None else adapt(plain)


__all__ = ["MODELS", "ModelEntry", "build", "published_state", "strip_module_prefix"]
