"""The weight of any convertible layer as a method sees it: output channels first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def outputs_first(weight: Tensor, groups: int) -> Tensor:
    """Torch's ``(I, O/groups, *kernel)`` of a transposed convolution as ``(O, I/groups, *kernel)``."""
    inputs, outputs, kernel = weight.shape[0], weight.shape[1], weight.shape[2:]
    parts = weight.reshape(groups, inputs // groups, outputs, *kernel).transpose(1, 2)
    return parts.reshape(groups * outputs, inputs // groups, *kernel)


def inputs_first(weight: Tensor, groups: int) -> Tensor:
    """``(O, I/groups, *kernel)`` as torch's ``(I, O/groups, *kernel)`` of a transposed convolution."""
    return outputs_first(weight, groups)  # the two layouts differ by an exchange of I and O, which undoes itself


def method_weight(module: nn.Module) -> Tensor:
    """The weight of a Linear, Conv, ConvTranspose or Embedding as ``(O, ...)``; of an embedding the rows come first."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return outputs_first(weight, module.groups) if isinstance(module, TRANSPOSED) else weight


def set_weight(module: nn.Module, weight: Tensor) -> None:
    """Write a ``weight`` ``(O, ...)``, as :func:`method_weight` gives it, into ``module``; without a gradient."""
    own: Tensor = module.weight  # type: ignore[assignment]
    turned = inputs_first(weight, module.groups) if isinstance(module, TRANSPOSED) else weight
    with torch.no_grad():
        own.copy_(turned.to(own.dtype))


def output_channels(module: nn.Module) -> int:
    """Channels that a Linear, Conv or ConvTranspose gives."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.shape[1] * module.groups if isinstance(module, TRANSPOSED) else weight.shape[0]


__all__ = [
    "CONVOLUTIONS",
    "TRANSPOSED",
    "inputs_first",
    "method_weight",
    "output_channels",
    "outputs_first",
    "set_weight",
]
