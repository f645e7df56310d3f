"""Uniform integers with a learned step: the multiplying baseline at the same bits."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bitshift.nn.init import check_rate, default_weight
from bitshift.nn.kernels import cpu, fused
from bitshift.nn.method import Method, register
from bitshift.nn.scale_search import SCALE_EXP_MAX, SCALE_EXP_MIN, check_weight, midpoint_distance, per_channel


def _round(values: Tensor, top: int) -> Tensor:
    """The nearest integer within ``-top .. top``, ties up."""
    return values.add(0.5).floor_().clamp_(-top, top)


class _LearnedStep(torch.autograd.Function):
    """``W = level * step``; ``d latent`` is clipped straight-through, ``d step`` the LSQ gradient times ``factor``."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, step: Tensor, top: int, factor: float) -> Tensor:
        ctx.top, ctx.factor, ctx.step_shape, ctx.dtype = top, factor, step.shape, latent.dtype
        ctx.fused, ctx.levels = fused(latent, step), cpu.Levels(top)
        if ctx.fused is not None:
            ctx.save_for_backward(latent, step)
            return ctx.fused.level_forward(latent, step, ctx.levels)
        values = latent.float() / step
        level = _round(values, top)
        ctx.save_for_backward(values)
        return level.mul_(step)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.fused is not None:
            latent, step = ctx.saved_tensors
            d_latent, sums = ctx.fused.level_backward(grad, latent, step, ctx.levels, learned=True)
            assert sums is not None
            return d_latent, sums.view(ctx.step_shape).mul_(ctx.factor), None, None
        (values,) = ctx.saved_tensors
        grad = grad.float()
        inside = values.abs() <= ctx.top
        # round(v) - v inside, +-top outside; where(), because v may be infinite outside
        slope = _round(values, ctx.top).sub_(torch.where(inside, values, 0.0))
        d_step = (grad * slope).sum_to_size(ctx.step_shape).mul_(ctx.factor)
        return (grad * inside).to(ctx.dtype), d_step, None, None


class _RoundStep(torch.autograd.Function):
    """The nearest power of two (in the log domain), straight through."""

    @staticmethod
    def forward(ctx: Any, step: Tensor) -> Tensor:
        return torch.exp2(torch.log2(step.double()).round()).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad


@register
class Uniform(Method):
    """Learned step size quantisation, LSQ (Esser et al., ICLR 2020, arXiv 1902.08153).

    Levels -Q .. Q, Q = 2^(bits-1) - 1.

    Forward: ``v = latent / step``, ``W = clamp(round(v), -Q, Q) * step``. Gradient, with g = dL/dW: ``d latent = g``
    where |v| <= Q, else 0; ``d step = factor * sum(g * (round(v) - v))`` inside, ``+-Q`` for the bracket outside,
    factor = 1 / sqrt(N Q), N the number of weights that share the step. One latent a weight; one step per channel or
    tensor (``granularity``), no weight decay on it, kept positive by :meth:`after_step`. ``step="pot"`` rounds the
    step to the nearest power of two in the forward, straight through. ``lr_step`` is a rate of its own, for optimisers
    that divide gradients by their size, and so LSQ's factor out: there the weights' rate is far too much for a step.

    Initialisation: step = 2 mean|W| / sqrt(Q), per channel or tensor; from scratch PyTorch's default weight.
    Where we differ: the level -2^(bits-1) is not used (so that a channel can change its sign), and ties go up.
    """

    name = "uniform"
    weight_units = True
    bits = (2, 3, 4, 5, 6, 7, 8)
    options: ClassVar[dict[str, Any]] = {"step": "free", "granularity": "channel", "lr_step": None}

    def __init__(
        self, latent: Tensor, format: str, *, step: Tensor, power_of_two: bool = False, lr_step: float | None = None
    ) -> None:
        super().__init__()
        self.format = self.check_format(format)
        self.shape = tuple(latent.shape)
        if tuple(step.shape) not in ((self.shape[0],), (1,)) or not bool(((step > 0) & torch.isfinite(step)).all()):
            raise ValueError(
                f"uniform: step {tuple(step.shape)}; expected positive finite numbers, ({self.shape[0]},) or (1,)"
            )
        self.latent = nn.Parameter(latent.detach().clone())
        self.step = nn.Parameter(step.detach().to(latent.device, torch.float32).clone())
        check_rate("uniform", lr_step=lr_step)
        self.power_of_two, self.lr_step = bool(power_of_two), lr_step
        self.factor = 1 / sqrt(latent.numel() / step.numel() * self.format.max_level)

    @staticmethod
    def format_for(bits: int) -> str:
        if bits not in Uniform.bits:
            raise ValueError(f"method 'uniform' has no {bits}-bit set; allowed bits: 2 to 8")
        return f"int{bits}"

    @classmethod
    def random(
        cls, shape: Iterable[int], format: str, *, generator: torch.Generator | None = None, step: str = "free",
        granularity: str = "channel", lr_step: float | None = None,
    ) -> Uniform:  # fmt: skip
        """PyTorch's default weight."""
        weight = default_weight(shape, generator)
        return cls.from_float(weight, format, step=step, granularity=granularity, lr_step=lr_step)

    @classmethod
    def from_float(
        cls, weight: Tensor, format: str, *, generator: torch.Generator | None = None, step: str = "free",
        granularity: str = "channel", lr_step: float | None = None,
    ) -> Uniform:  # fmt: skip
        """The weight itself as the latent, LSQ's first step."""
        top = cls.check_format(format).max_level
        latent = check_weight(weight, "uniform.from_float")
        if step not in ("free", "pot"):
            raise ValueError(f"uniform: step={step!r}; allowed: 'free', 'pot'")
        if granularity not in ("channel", "tensor"):
            raise ValueError(f"uniform: granularity={granularity!r}; allowed: 'channel', 'tensor'")
        rows = latent.double().reshape(latent.shape[0] if granularity == "channel" else 1, -1)
        start = 2 * rows.abs().mean(1) / sqrt(top)
        # A channel of zeros has no size of its own: any step represents it.
        start = torch.where(start > 0, start, start.max() if bool(start.max() > 0) else 1 / top)
        start = start.clamp(2.0**SCALE_EXP_MIN, 2.0**SCALE_EXP_MAX)
        return cls(latent, format, step=start, power_of_two=step == "pot", lr_step=lr_step)

    def _step(self) -> Tensor:
        step = self.step.float()
        return _RoundStep.apply(step) if self.power_of_two else step

    def weight(self) -> Tensor:
        step = per_channel(self._step(), len(self.shape))
        return _LearnedStep.apply(self.latent, step, self.format.max_level, self.factor)

    def _values(self) -> Tensor:
        latent = check_weight(self.latent, "latent of uniform")
        return latent / per_channel(self.scale(), latent.ndim)

    def codes(self) -> Tensor:
        level = _round(self._values(), self.format.max_level).to(torch.int16)
        return (level & ((1 << self.format.bits) - 1)).to(torch.uint8)  # two's complement

    def scale(self) -> Tensor:
        return self._step().detach().expand(self.shape[0])

    def latents(self) -> dict[str, Tensor]:
        return {"latent": self.latent, "step": self.step}

    def threshold_distance(self) -> Tensor:
        """Distance of the latent to the nearest midpoint between two levels."""
        scale = per_channel(self.scale(), len(self.shape)).double()  # float32 would overflow far outside the table
        return (midpoint_distance(self.latent.detach() / scale, self.format) * scale).float()

    def param_groups(self, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        rate = lr if self.lr_step is None else self.lr_step
        return [
            {"params": [self.latent], "lr": lr, "weight_decay": weight_decay},
            {"params": [self.step], "lr": rate, "weight_decay": 0.0},
        ]

    @torch.no_grad()
    def after_step(self) -> None:
        self.step.clamp_(2.0**SCALE_EXP_MIN, 2.0**SCALE_EXP_MAX)
