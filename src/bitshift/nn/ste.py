"""Straight-through quantisers shared by several methods, each one fused autograd function."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bitshift.core.formats import ShiftFormat, get_format
from bitshift.nn.kernels import cpu, fused
from bitshift.nn.scale_search import nearest_level, per_channel, sorted_levels

_MOST_LEVELS = 64
# of a format whose nearest level the compiled module finds by comparing with every threshold


def bits_of(table: np.ndarray) -> Tensor:
    """A float32 table as int32 bit patterns: as an integer buffer it survives ``module.half()`` unrounded."""
    return torch.from_numpy(np.ascontiguousarray(table, dtype=np.float32).view(np.int32).copy())


def gate_pattern(latents: Tensor) -> Tensor:
    """Signs of ``latents`` (L, ...), a byte a weight: bit 0 is ``latents[0] >= 0``, bit j ``latents[j] > 0``."""
    pattern = (latents[0] >= 0).view(torch.uint8)
    for j in range(1, latents.shape[0]):
        pattern.add_((latents[j] > 0).view(torch.uint8), alpha=1 << j)
    return pattern


def look_up(table_bits: Tensor, index: Tensor) -> Tensor:
    """``table[index]`` for a float32 table held as :func:`bits_of` and a flat int32 ``index``."""
    return table_bits.view(torch.float32).index_select(0, index)


class GateWeight(torch.autograd.Function):
    """Weights that depend on the signs of their latents only (S3, DenseShift).

    ``weight = values[pattern] * scale``; the gradient of latent j is ``grad * scale * slopes[j, pattern]``. The
    tables hold the method's forward and its closed-form straight-through gradient for all ``2**L`` patterns; one byte
    a weight is saved for the backward.
    """

    @staticmethod
    def forward(ctx: Any, latents: Tensor, scale: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
        ctx.dtype, ctx.fused = latents.dtype, fused(latents, scale)
        if ctx.fused is not None:
            weight, pattern, _ = ctx.fused.gate_forward(latents, scale, values)
        else:
            pattern = gate_pattern(latents)
            weight = look_up(values, pattern.flatten().int()).view(pattern.shape)
            weight.mul_(per_channel(scale, pattern.ndim))
        ctx.save_for_backward(pattern, scale, slopes)
        return weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pattern, scale, slopes = ctx.saved_tensors
        if ctx.fused is not None:
            return ctx.fused.gate_backward(grad, pattern, scale, slopes, ctx.dtype), None, None, None
        grad = grad.float() * per_channel(scale, grad.ndim)
        index = pattern.flatten().int()
        out = torch.empty((slopes.shape[0], *pattern.shape), dtype=torch.float32, device=grad.device)
        for j in range(slopes.shape[0]):
            torch.mul(look_up(slopes[j], index).view(pattern.shape), grad, out=out[j])
        return out.to(ctx.dtype), None, None, None


class PushedGateWeight(torch.autograd.Function):
    """:class:`GateWeight` and ``alpha * sum(max(-latents[1], 0))`` in one pass, by the compiled module.

    Both gradients are written at once; apart they cost as much again. What the backward needs is kept on ``ctx``
    itself, because a caller may run the two outputs' backward one after the other.
    """

    @staticmethod
    def forward(
        ctx: Any, latents: Tensor, scale: Tensor, values: Tensor, slopes: Tensor, alpha: float
    ) -> tuple[Tensor, Tensor]:
        weight, pattern, total = cpu.gate_forward(latents, scale, values, negative=True)
        latents = latents.detach()
        ctx.parts = latents, pattern, scale, slopes
        ctx.version, ctx.alpha = latents._version, alpha
        ctx.set_materialize_grads(False)
        return weight, torch.tensor(-alpha * total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, pushed: Tensor | None) -> tuple[Tensor, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        latents, pattern, scale, slopes = ctx.parts
        if latents._version != ctx.version:
            raise RuntimeError("the latents of a weight were changed between its forward and its backward")
        push = 0.0 if pushed is None else -ctx.alpha * float(pushed)
        grad = torch.zeros(pattern.shape) if grad is None else grad
        out = cpu.gate_backward(grad, pattern, scale, slopes, latents.dtype, pushed=latents.contiguous(), push=push)
        return out, None, None, None, None


_penalties: WeakKeyDictionary[nn.Module, tuple[Tensor, tuple[int, ...]]] = WeakKeyDictionary()


def keep_penalty(method: nn.Module, penalty: Tensor, latents: tuple[Tensor, ...]) -> None:
    """Lay a penalty that ``weight()`` has computed on the way by for :func:`take_penalty`.

    Not on the module: a tensor with a graph there could not be copied.
    """
    _penalties[method] = penalty, tuple(t._version for t in latents)


def take_penalty(method: nn.Module, latents: tuple[Tensor, ...]) -> Tensor | None:
    """The penalty of the last ``weight()``, once; None if there is none or ``latents`` have changed since."""
    penalty, versions = _penalties.pop(method, (None, ()))
    if not torch.is_grad_enabled() or versions != tuple(t._version for t in latents):
        return None
    return penalty


@lru_cache(maxsize=64)
def fused_levels(name: str) -> cpu.Levels | None:
    """The nearest level of the format ``name`` for the compiled module; None where it has too many levels."""
    levels, thresholds, _ = sorted_levels(name)
    if len(levels) > _MOST_LEVELS:
        return None
    return cpu.Levels(get_format(name).max_level, torch.tensor(levels), torch.tensor(thresholds))


class ClippedNearest(torch.autograd.Function):
    """Nearest level times a fixed scale; the gradient passes where ``|weight| <= max_level * scale``, else it is 0."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, scale: Tensor, format: ShiftFormat) -> Tensor:
        kernels = fused(latent, scale)
        ctx.dtype, ctx.fused, ctx.levels = latent.dtype, kernels, kernels and fused_levels(format.name)
        if kernels is not None and ctx.levels is not None:
            ctx.save_for_backward(latent, scale)
            return kernels.level_forward(latent, scale, ctx.levels)
        scale = per_channel(scale, latent.ndim)
        values = latent.float() / scale
        ctx.save_for_backward(values.abs() <= format.max_level)
        return nearest_level(values, format).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.levels is not None:
            latent, scale = ctx.saved_tensors
            return ctx.fused.level_backward(grad, latent, scale, ctx.levels, learned=False)[0], None, None
        (inside,) = ctx.saved_tensors
        return (grad.float() * inside).to(ctx.dtype), None, None


__all__ = [
    "ClippedNearest",
    "GateWeight",
    "PushedGateWeight",
    "bits_of",
    "fused_levels",
    "gate_pattern",
    "keep_penalty",
    "look_up",
    "take_penalty",
]
