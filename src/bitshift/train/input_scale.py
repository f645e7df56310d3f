"""A network trained on one normalisation of its input, made to take another."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.nn.observe import observe
from bitshift.nn.weights import CONVOLUTIONS
from bitshift.train.data.base import Normalise


def change_of_input(old: Normalise, new: Normalise, channels: int) -> tuple[Tensor, Tensor]:
    """``factor`` and ``shift``, float64 (channels), with ``old(p) = new(p) * factor + shift`` for every pixel ``p``."""

    def entries(values: tuple[float, ...]) -> Tensor:
        if len(values) not in (1, channels):
            raise ValueError(f"a normalisation of {len(values)} channels for an input of {channels}")
        return torch.tensor(values, dtype=torch.float64).expand(channels)

    factor = entries(old.scale) / entries(new.scale)
    return factor, (entries(new.mean) - entries(old.mean)) * entries(old.scale)


class OnInput(nn.Module):
    """``model`` behind ``x * factor + shift`` per channel: exactly the old network, on the new input."""

    factor: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, old: Normalise, new: Normalise, channels: int) -> None:
        super().__init__()
        self.model = model
        for name, value in zip(("factor", "shift"), change_of_input(old, new, channels), strict=True):
            self.register_buffer(name, value.float())

    def forward(self, x: Tensor) -> Tensor:
        """What ``model`` makes of the images that ``x`` (N, C, ...) shows."""
        shape = [1, -1] + [1] * (x.dim() - 2)
        return self.model(x * self.factor.view(shape) + self.shift.view(shape))  # type: ignore[no-any-return]


@torch.no_grad()
def fold_input(model: nn.Module, old: Normalise, new: Normalise, *, sample: Tensor) -> nn.Module:
    """A copy of ``model``, trained on ``old`` pixels, that takes ``new`` ones: its first layer holds the difference.

    The first layer's weight takes the factors and its bias (made, if there is none) the shift. A float deviation is no
    power of two, so ``(pixel - mean) / std`` in front of an integer network is a multiplication a pixel; folded, the
    network takes ``(pixel - 128) / 64``. Zero padding is then another grey than before, which a few steps of training
    mend; :class:`OnInput` is exact.

    Args:
        model: float network whose first layer is a convolution or nn.Linear.
        old: the normalisation that the network was trained on.
        new: that of the data to come.
        sample: an input (N, C, ...), which tells the first layer and the channels.

    Raises:
        ValueError: the first layer is of another kind, or its inputs are not the input's channels.
    """
    model = copy.deepcopy(model)
    channels = int(sample.shape[1])
    layer = _first_layer(model, sample)
    factor, shift = change_of_input(old, new, channels)
    weight = layer.weight
    inputs, groups = weight.shape[1], getattr(layer, "groups", 1)
    if isinstance(layer, nn.Linear) and inputs % channels == 0:
        factor, shift = (v.repeat_interleave(inputs // channels) for v in (factor, shift))  # a flattened image
    elif inputs * groups != channels:
        raise ValueError(f"the first layer takes {inputs * groups} channels, the input has {channels}")
    rows = weight.shape[0] // groups
    of_row = [v.view(groups, 1, -1).expand(groups, rows, -1).reshape(weight.shape[0], -1) for v in (factor, shift)]
    shape = (*of_row[0].shape, *[1] * (weight.dim() - 2))
    moved = (weight.double() * of_row[1].view(shape).to(weight.device)).flatten(1).sum(1)
    _bias(layer).add_(moved.to(weight.dtype))
    weight.copy_(weight.double() * of_row[0].view(shape).to(weight.device))
    return model


def add_input_bias(model: nn.Module, sample: Tensor) -> None:
    """Give the first layer of ``model`` a bias of zeros where it has none, so that it holds a folded network's state.

    Raises:
        ValueError: as :func:`fold_input`.
    """
    _bias(_first_layer(model, sample))


def _first_layer(model: nn.Module, sample: Tensor) -> Any:
    layer = next(iter(observe(model, sample).calls), None)
    if not isinstance(layer, (nn.Linear, *CONVOLUTIONS)):
        found = "no such layer" if layer is None else type(layer).__name__
        raise ValueError(f"the first layer must be nn.Linear or a convolution to take the input's scale; found {found}")
    return layer


def _bias(layer: Any) -> Tensor:
    """The layer's bias, made if there is none."""
    if layer.bias is None:
        outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        layer.bias = nn.Parameter(torch.zeros(outputs, dtype=layer.weight.dtype, device=layer.weight.device))
    return layer.bias  # type: ignore[no-any-return]


__all__ = ["OnInput", "add_input_bias", "change_of_input", "fold_input"]
