"""Norms behind a shift layer, with the affine map that evaluation folds into integers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bitshift.nn.kernels import cpu, on_cpu
from bitshift.nn.ops import power_of_two
from bitshift.nn.wide import HALF, wide_again

_LEAST_VARIANCE = 2.0**-40


def widened(y: Tensor) -> Tensor:
    """``y`` in the type that norms compute in: float64 stays, everything else becomes float32."""
    return y if y.dtype == torch.float64 else y.float()


class ChannelNorm(nn.Module, ABC):
    """Batch statistics per channel (axis 1) in ``train``, a fixed affine map in ``eval``.

    Buffers ``running_mean``, ``running_var``, ``num_batches_tracked`` mean what they mean in ``nn.BatchNorm2d``:
    exponential averages with ``momentum``, plain averages over all batches for ``momentum=None``, unbiased variance.
    They are float32, or float64 behind ``.double()``: ``.bfloat16()`` and ``.half()`` leave them alone, because an
    average of 8 or 11 bits stands still when the next batch would move it by less than half a step.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"norm of {num_features} channels: needs at least one")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        statistics = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.register_buffer("running_mean", torch.zeros(num_features, dtype=statistics))
        self.register_buffer("running_var", torch.ones(num_features, dtype=statistics))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    @abstractmethod
    def gain_shift(self) -> tuple[Tensor, Tensor]:
        """``(gain, shift)`` of evaluation, ``y * gain + shift``, float64 ``(C)``; gain may be negative."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: getattr(self, name) for name in ("running_mean", "running_var")}
        super()._apply(fn, recurse)
        wide_again(self, before)
        return self

    def _affine(self, y: Tensor) -> Tensor:
        gain, shift = (v.to(torch.promote_types(y.dtype, torch.float32)) for v in self.gain_shift())
        shape = [-1] + [1] * (y.dim() - 2)
        return (y * gain.view(shape) + shift.view(shape)).to(y.dtype)

    def extra_repr(self) -> str:
        """Channels and constants."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class AffineNorm(ChannelNorm):
    """Batch normalisation; ``eval`` becomes one multiplier and one offset per channel (rule 4).

    Parameters ``weight`` (gamma) and ``bias`` (beta), ``(C)``, as in ``nn.BatchNorm2d``. A gamma of exactly zero
    keeps the smallest multiplier.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def gain_shift(self) -> tuple[Tensor, Tensor]:
        """Gamma / sigma, and beta - mean * gamma / sigma."""
        gain = self.weight.double() / torch.sqrt(self.running_var.double() + self.eps)
        return gain, self.bias.double() - self.running_mean.double() * gain

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C, ...)`` normalised, in the dtype of ``input``."""
        if not self.training:
            return self._affine(input)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
        rate = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        mean, variance = self.running_mean, self.running_var
        # batch_norm wants parameters of the statistics' type; a half input goes with float32, any other with its own
        wide = torch.promote_types(torch.promote_types(input.dtype, mean.dtype), torch.float32)
        half = input.dtype in HALF and wide == torch.float32
        x, weight, bias = input if half else input.to(wide), self.weight.to(wide), self.bias.to(wide)
        if mean.dtype == wide:
            return F.batch_norm(x, mean, variance, weight, bias, True, rate, self.eps).to(input.dtype)
        taken = mean.to(wide), variance.to(wide)
        out = F.batch_norm(x, *taken, weight, bias, True, rate, self.eps).to(input.dtype)
        with torch.no_grad():
            mean.copy_(taken[0])
            variance.copy_(taken[1])
        return out


class _CentredGain(torch.autograd.Function):
    """``(y - mean(y)) * gain + beta`` per channel.

    With ``v = y - mean`` and means over all but the channels: d beta = sum g, d gain = sum g v,
    d y = gain * (g - mean(g) - v * mean(g v) / variance). The last term is the gradient through the deviation that the
    gain follows, and is there only where ``variance`` is given.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, mean: Tensor, variance: Tensor | None, gain: Tensor, beta: Tensor) -> Tensor:
        ctx.fused = on_cpu(y)
        y = cpu.dense(y) if ctx.fused else y
        ctx.save_for_backward(y, mean, variance, gain)
        if ctx.fused:
            return cpu.channel_map(y, mean, gain, beta)
        shape = [1, -1] + [1] * (y.dim() - 2)
        return (widened(y) - mean.view(shape)).mul_(gain.view(shape)).add_(beta.view(shape)).to(y.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (g,) = grads
        y, mean, variance, gain = ctx.saved_tensors
        count = max(y.numel() // y.shape[1], 1)
        if ctx.fused:
            g = cpu.like(g, y)
            total, d_gain = (s.float() for s in cpu.channel_sums(g, y, mean, centre_a=False))
            slope = torch.zeros_like(gain) if variance is None else -gain * d_gain / (count * variance)
            d_y = cpu.channel_map_backward(g, y, mean, gain, slope, -gain * total / count)
            return d_y, None, None, d_gain, total
        g = widened(g)
        dims = [0, *range(2, g.dim())]
        shape = [1, -1] + [1] * (g.dim() - 2)
        centred = widened(y) - mean.view(shape)
        total = g.sum(dims)
        d_gain = (g * centred).sum(dims)
        d_y = g * gain.view(shape)
        if variance is not None:
            d_y.addcmul_(centred, (-gain * d_gain / (count * variance)).view(shape))
        return d_y.sub_((gain * total / count).view(shape)).to(y.dtype), None, None, d_gain, total


def _moments(y: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel, as :func:`widened`; ``near`` (C) is a guess of the mean for one pass."""
    if on_cpu(y):
        y, near = cpu.dense(y), near.float()
        count = max(y.numel() // y.shape[1], 1)
        first, second = cpu.channel_sums(y, y, near, centre_a=True)
        offset = first / count
        variance = (second / count - offset.square()).clamp_min(0.0)
        if bool((offset.square() <= 100 * variance).all()):  # else float32 has lost digits of the variance
            return (near + offset).float(), variance.float()
    y = widened(y)
    dims = [0, *range(2, y.dim())]
    shape = [1, -1] + [1] * (y.dim() - 2)
    mean = y.mean(dims)  # by plain sums: on a CPU torch.var_mean takes ten times as long
    return mean, (y - mean.view(shape)).square_().mean(dims)


class ShiftNorm(ChannelNorm):
    """Norm without a multiplication: ``2**e[c] * (y - mean[c]) + beta[c]``, ``e = round(t - log2 sigma)``.

    ``t`` (parameter ``log2_gain``, ``(C)``) is the learned log2 gain; the rounding is straight-through: d 2**e / dt =
    2**e ln 2. ``sigma`` is the *running* deviation, also in ``train``, so that training and evaluation use the same
    power of two; the first batch sets it. The mean is the batch's in ``train`` (with the gradient through it) and the
    running one in ``eval``.

    With ``learn_scale=False`` ``e`` is 0 and only the mean is removed: for a weight that a pretrained norm was folded
    into.

    Our own construction: rounding a trained norm's gain to a power of two afterwards costs far more.
    """

    log2_gain: nn.Parameter | None

    def __init__(
        self, num_features: int, *, eps: float = 1e-5, momentum: float | None = 0.1, learn_scale: bool = True
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.learn_scale = learn_scale
        self.register_parameter("log2_gain", nn.Parameter(torch.zeros(num_features)) if learn_scale else None)
        self.bias = nn.Parameter(torch.zeros(num_features))

    def exponent(self) -> Tensor:
        """``e``, int64 ``(C)``; no gradient."""
        with torch.no_grad():
            if self.log2_gain is None:
                return torch.zeros(self.num_features, dtype=torch.long, device=self.bias.device)
            variance = self.running_var.double().clamp_min(_LEAST_VARIANCE) + self.eps
            return torch.floor(self.log2_gain.double() - 0.5 * torch.log2(variance) + 0.5).clamp(-60, 60).long()

    def gain_shift(self) -> tuple[Tensor, Tensor]:
        """``2**e``, and beta - mean * 2**e."""
        gain = power_of_two(self.exponent())
        return gain, self.bias.double() - self.running_mean.double() * gain

    def _update(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics; the first batch sets them."""
        self.num_batches_tracked.add_(1)
        mean, variance = mean.to(self.running_mean.dtype), variance.to(self.running_var.dtype)
        seen = self.num_batches_tracked.to(mean.dtype)
        rate = 1.0 / seen
        if self.momentum is not None:
            rate = (
                torch.maximum(rate, torch.full_like(rate, self.momentum))
                if self.learn_scale
                else rate.new_tensor(self.momentum)
            )
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), rate)

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C, ...)`` normalised, in the dtype of ``input``."""
        if not self.training:
            return self._affine(input)
        with torch.autocast(input.device.type, enabled=False):
            with torch.no_grad():
                mean, variance, count = self._batch_moments(input.detach())
                self._update(mean, variance, count)
                gain = power_of_two(self.exponent()).to(mean.dtype)
            if self.log2_gain is not None:
                gain = gain * torch.exp((self.log2_gain - self.log2_gain.detach()) * 0.6931471805599453)
            follows = None if self.log2_gain is None else variance.clamp_min(_LEAST_VARIANCE) + self.eps
            return self._normalised(input, mean, follows, gain, count)

    def _batch_moments(self, y: Tensor) -> tuple[Tensor, Tensor, int]:
        """Mean, biased variance and number of values of each channel of the batch."""
        return *_moments(y, self.running_mean), y.numel() // y.shape[1]

    def _normalised(self, y: Tensor, mean: Tensor, follows: Tensor | None, gain: Tensor, _count: int) -> Tensor:
        """``(y - mean) * gain + bias``; the gain follows the variance ``follows``, if any, of ``_count`` values."""
        return _CentredGain.apply(y, mean, follows, gain, self.bias)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """As the base, with the kind of gain."""
        return f"{super().extra_repr()}, learn_scale={self.learn_scale}"


__all__ = ["AffineNorm", "ChannelNorm", "ShiftNorm"]
