"""Scales that train: a free number, or a power of two that follows a trained logarithm."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bitshift.core.formats import ShiftFormat
from bitshift.nn.kernels import fused
from bitshift.nn.scale_search import SCALE_EXP_MAX, SCALE_EXP_MIN, nearest_level, per_channel, scale_of
from bitshift.nn.ste import fused_levels
from bitshift.nn.wide import wide_again

HYSTERESIS = 0.2
"""A power of two changes when the trained logarithm is this much more than half an octave away from its exponent."""

_REACH = 6  # octaves that a scale may move away from its start


def is_power_of_two(scale: Tensor) -> bool:
    """Whether every element of a positive ``scale`` is a power of two."""
    return bool((torch.frexp(scale.detach().double())[0] == 0.5).all())


class _Free(torch.autograd.Function):
    """The number itself; its gradient times ``factor``."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor, ctx.dtype = factor, value.dtype
        return value.float().clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (grad * ctx.factor).to(ctx.dtype), None


class _Power(torch.autograd.Function):
    """``2 ** exponent``; the logarithm gets ``factor * d scale * scale / (2^(2 origin) ln 2)``."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, exponent: Tensor, origin: Tensor, factor: float) -> Tensor:
        scale = scale_of(exponent)
        ctx.save_for_backward(torch.exp2(exponent.double() - 2 * origin))
        ctx.factor, ctx.dtype = factor, value.dtype
        return scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (ratio,) = ctx.saved_tensors
        return (grad.double() * ratio).mul_(ctx.factor / log(2)).to(ctx.dtype), None, None, None


class LearnedScale(nn.Module):
    """Positive scales ``(G,)`` that train, LSQ's way (Esser et al., ICLR 2020).

    Free: the parameter is the scale ``s``; ``d s = factor * dL/ds``. Power of two: the parameter is a logarithm ``t``,
    the scale ``2^e`` of an integer ``e`` that goes one towards ``t`` when ``|t - e| > 1/2 + 1/5`` (:meth:`after_step`):
    an exponent that has just changed has to go back by 2/5 of an octave before it changes again. The gradient is
    straight through, ``d t = factor * dL/dt / (s0 ln 2)^2`` with ``dL/dt = dL/ds s ln 2`` and ``s0`` the scale of the
    start: there a step changes the scale by the ratio by which the free one's would change.

    ``t`` keeps within one of ``e`` and either kind within six octaves of the start, so that one wild step does no harm.

    Args:
        start: float ``(G,)``, positive; powers of two where ``power_of_two`` is set.
        factor: of the gradient; LSQ's is ``1 / sqrt(N * largest level)`` for N weights that share a scale.
    """

    value: nn.Parameter
    exponent: Tensor
    origin: Tensor

    def __init__(self, start: Tensor, *, power_of_two: bool, factor: float) -> None:
        super().__init__()
        self.power_of_two, self.factor = power_of_two, float(factor)
        self.value = nn.Parameter(torch.empty_like(start, dtype=torch.float32))
        self.register_buffer("origin", torch.zeros_like(start, dtype=torch.int32))
        if power_of_two:
            self.register_buffer("exponent", torch.zeros_like(start, dtype=torch.int32))
        self.reset(start)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast; the scale stays float32 at least."""
        before = {"value": self.value.detach()}
        super()._apply(fn, recurse)
        wide_again(self, before)
        return self

    @torch.no_grad()
    def reset(self, start: Tensor) -> None:
        """Begin anew at ``start`` (G,)."""
        start = start.detach().to(self.value.device).double().clamp(2.0**SCALE_EXP_MIN, 2.0**SCALE_EXP_MAX)
        self.origin.copy_(start.log2().round())
        if self.power_of_two:
            self.value.copy_(start.log2())
            self.exponent.copy_(self.origin)
        else:
            self.value.copy_(start)

    def forward(self) -> Tensor:
        """The scales, float32 ``(G,)``, differentiable."""
        if self.power_of_two:
            return _Power.apply(self.value, self.exponent, self.origin, self.factor)
        return _Free.apply(self.value, self.factor)

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the scale within its range; follow the logarithm where it is far enough away."""
        low = (self.origin - _REACH).clamp_min(SCALE_EXP_MIN)
        high = (self.origin + _REACH).clamp_max(SCALE_EXP_MAX)
        if not self.power_of_two:
            self.value.copy_(torch.minimum(torch.maximum(self.value.float(), scale_of(low)), scale_of(high)))
            return
        value = torch.minimum(torch.maximum(self.value.float(), self.exponent - 1.0), self.exponent + 1.0)
        value = torch.minimum(torch.maximum(value, low.float()), high.float())
        moved = (value - self.exponent).abs() > 0.5 + HYSTERESIS
        self.value.copy_(value)
        self.exponent.copy_(torch.where(moved, value.round().int(), self.exponent))


class ScaledNearest(torch.autograd.Function):
    """Nearest level times a scale that trains.

    ``d latent = g`` where ``|latent| <= max_level * scale``, else 0; ``d scale = sum(g * (q - v))`` inside and
    ``sum(g * q)`` outside, for ``v = latent / scale`` and its nearest level ``q``.
    """

    @staticmethod
    def forward(ctx: Any, latent: Tensor, scale: Tensor, format: ShiftFormat) -> Tensor:
        shaped, kernels = per_channel(scale, latent.ndim), fused(latent, scale)
        ctx.shape, ctx.dtype = shaped.shape, latent.dtype
        ctx.fused, ctx.levels = kernels, kernels and fused_levels(format.name)
        if kernels is not None and ctx.levels is not None:
            ctx.save_for_backward(latent, scale)
            return kernels.level_forward(latent, scale, ctx.levels)
        values = latent.float() / shaped
        level = nearest_level(values, format)
        inside = values.abs() <= format.max_level
        # where(), because v may be infinite outside
        ctx.save_for_backward(level - torch.where(inside, values, 0.0), inside)
        return level.mul_(shaped)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.levels is not None:
            latent, scale = ctx.saved_tensors
            d_latent, d_scale = ctx.fused.level_backward(grad, latent, scale, ctx.levels, learned=True)
            return d_latent, d_scale, None
        slope, inside = ctx.saved_tensors
        grad = grad.float()
        return (grad * inside).to(ctx.dtype), (grad * slope).sum_to_size(ctx.shape).view(-1), None


__all__ = ["HYSTERESIS", "LearnedScale", "ScaledNearest", "is_power_of_two"]
