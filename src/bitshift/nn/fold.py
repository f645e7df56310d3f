"""What becomes of a batch norm: folded, made ours, or a layer of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from bitshift.nn.layers import ShiftConv1d, ShiftConv2d, ShiftConv3d, ShiftLayer, ShiftLinear
from bitshift.nn.method import get_method
from bitshift.nn.norms import AffineNorm, ChannelNorm, ShiftNorm

_LEAST_GAIN = 2.0**-6


def _statistics(norm: BatchNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Running mean, variance and count; the caller has checked that they exist."""
    mean, variance, count = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if mean is None or variance is None or count is None:
        raise ValueError(
            "the norm has no running statistics (track_running_stats=False), so evaluation has no fixed map"
        )
    return mean, variance, count


def folded_gain(norm: BatchNorm) -> Tensor:
    """Gamma / sigma, float64 ``(C)``."""
    gain = torch.rsqrt(_statistics(norm)[1].double() + norm.eps)
    return gain if norm.weight is None else gain * norm.weight.detach().double()


def affine_norm(norm: BatchNorm) -> AffineNorm:
    """The same norm as ours, with all its state."""
    mean, variance, count = _statistics(norm)
    new = AffineNorm(norm.num_features, eps=norm.eps, momentum=norm.momentum).to(mean.device)
    with torch.no_grad():
        if norm.weight is not None:
            new.weight.copy_(norm.weight).requires_grad_(norm.weight.requires_grad)
            new.bias.copy_(norm.bias).requires_grad_(norm.bias.requires_grad)
        new.running_mean.copy_(mean)
        new.running_var.copy_(variance)
        new.num_batches_tracked.copy_(count)
    return new.train(norm.training)


def fresh_shift_norm(norm: BatchNorm, *, keep_statistics: bool = False) -> ShiftNorm:
    """A norm for a weight that starts anew: the learned gain is |gamma|, at least 2**-6 so that it can grow."""
    mean, variance, _ = _statistics(norm)
    new = ShiftNorm(norm.num_features, eps=norm.eps, momentum=norm.momentum).to(mean.device)
    with torch.no_grad():
        if norm.weight is not None and new.log2_gain is not None:
            new.log2_gain.copy_(norm.weight.abs().clamp_min(_LEAST_GAIN).log2())
            new.log2_gain.requires_grad_(norm.weight.requires_grad)
            new.bias.copy_(norm.bias).requires_grad_(norm.bias.requires_grad)
        if keep_statistics:
            new.running_mean.copy_(mean)
            new.running_var.copy_(variance)
            new.num_batches_tracked.fill_(1)
    return new.train(norm.training)


def folded_norm(norm: BatchNorm, bias: Tensor | None) -> ShiftNorm:
    """The mean-only norm behind a weight that the norm's gain has been folded into; takes over the layer's ``bias``."""
    mean, variance, count = _statistics(norm)
    gain = folded_gain(norm)
    new = ShiftNorm(norm.num_features, eps=norm.eps, momentum=norm.momentum, learn_scale=False).to(mean.device)
    with torch.no_grad():
        new.running_mean.copy_((mean.double() if bias is None else mean.double() - bias.double()) * gain)
        new.running_var.copy_(variance.double() * gain.square())
        new.num_batches_tracked.copy_(count)
        if norm.bias is not None:
            new.bias.copy_(norm.bias).requires_grad_(norm.bias.requires_grad)
    return new.train(norm.training)


def norm_layer(norm: BatchNorm, rank: int | None, *, multiplier: bool, pretrained: bool) -> ShiftLayer:
    """A layer that only normalises: one fixed weight of +1 per channel, in front of the norm.

    Without a multiplier a pretrained norm's gain becomes a power of two per channel; its sign goes into the weight.
    """
    channels = norm.num_features
    device = _statistics(norm)[0].device
    new: ChannelNorm = affine_norm(norm) if multiplier else fresh_shift_norm(norm, keep_statistics=pretrained)
    sign = torch.ones(channels, device=device)
    if not multiplier and pretrained and norm.weight is not None:
        sign = torch.where(norm.weight.detach() < 0, -1.0, 1.0)
        new.running_mean.mul_(sign)
    nearest: Any = get_method("nearest")
    flat = isinstance(norm, nn.BatchNorm1d) and rank in (None, 2)
    if flat:
        weight, form = torch.diag(sign), "pot2"
    else:
        volume = isinstance(norm, nn.BatchNorm3d) or rank == 5
        axes = 1 if isinstance(norm, nn.BatchNorm1d) or rank == 3 else 3 if volume else 2
        weight, form = sign.view(-1, *[1] * (1 + axes)), "pot1"
    method = nearest.from_float(weight, form, scale=torch.ones(channels)).requires_grad_(False).to(device)
    if flat:
        return ShiftLinear(method, norm=new).train(norm.training)
    cls = (ShiftConv1d, ShiftConv2d, ShiftConv3d)[weight.dim() - 3]
    return cls(method, groups=channels, norm=new).train(norm.training)


__all__ = ["BatchNorm", "affine_norm", "folded_gain", "folded_norm", "fresh_shift_norm", "norm_layer"]
