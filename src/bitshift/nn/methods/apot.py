"""APoT: sums of powers of two, standardised weights, a clip that trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bitshift.core.formats import ShiftFormat
from bitshift.nn.init import check_flag, check_positive, check_rate, default_weight
from bitshift.nn.learned_scale import HYSTERESIS
from bitshift.nn.method import Method, register
from bitshift.nn.scale_search import (
    SCALE_EXP_MAX,
    SCALE_EXP_MIN,
    check_weight,
    midpoint_distance,
    nearest_code,
    nearest_level,
    scale_of,
    search_free_scale,
)

_FORMATS = {2: "pot2", 3: "pot3", 4: "apot4", 5: "apot5"}
_ALPHA_MIN, _ALPHA_MAX = 2.0**-6, 2.0**6
_LOW, _HIGH = 2.0**SCALE_EXP_MIN, 2.0**SCALE_EXP_MAX


class _Clipped(torch.autograd.Function):
    """``W = level * scale``, the level nearest to ``v = (latent - mean) * ratio / scale``.

    ``d latent = g * ratio``, not clipped; ``d alpha = size * sum(g * (level - v)) / max_level``, outside the clip
    ``level`` alone in the bracket.
    """

    @staticmethod
    def forward(
        ctx: Any, latent: Tensor, alpha: Tensor, mean: Tensor, ratio: Tensor, scale: Tensor, size: Tensor,
        format: ShiftFormat,
    ) -> Tensor:  # fmt: skip
        values = normalised(latent, mean, ratio, scale)
        level = nearest_level(values, format)
        inside = values.abs() <= format.max_level
        # where(), because a value may be infinite outside
        ctx.save_for_backward(level - torch.where(inside, values, 0.0), ratio, size)
        ctx.top, ctx.dtypes = format.max_level, (latent.dtype, alpha.dtype)
        return level.mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        slope, ratio, size = ctx.saved_tensors
        grad = grad.float()
        d_alpha = (grad * slope).sum() * (size / ctx.top)
        return (grad * ratio).to(ctx.dtypes[0]), d_alpha.to(ctx.dtypes[1]), None, None, None, None, None


def normalised(latent: Tensor, mean: Tensor, ratio: Tensor, scale: Tensor) -> Tensor:
    """``(latent - mean) * ratio / scale`` in float32."""
    return (latent.float() - mean).mul_(ratio / scale)


@register
class APoT(Method):
    """Additive powers of two, APoT (Li, Dong, Wang, ICLR 2020, arXiv 1909.13144).

    Levels over the largest one, m: at 4 bits all sums of one of {0, 1/2, 1/4, 1/16} and one of {0, 1/8}, that is 0, 1,
    2, 3, 4, 6, 8, 10; at 5 bits of {0, 2^-1, 2^-3, 2^-5} and {0, 2^-2, 2^-4, 2^-6}; at 3 bits 0, 1/4, 1/2, 1 (the set
    of ``pot3``); at 2 bits 0, 1, which the authors' code leaves open.

    Forward: the latent is standardised over the layer, ``u = (latent - mean) / std``; ``v = m u / alpha``;
    ``W = level * scale`` with the level nearest to v and ``scale = size alpha / m``. ``alpha`` is the clip, one trained
    number per layer, ``size`` a constant. Gradient, as the authors' code has it, with g = dL/dW:
    ``d latent = g size / std``, for clipped weights too (mean and std count as constants);
    ``d alpha = size sum(g (level - v)) / m``, ``level`` alone in the bracket where |v| > m. No weight decay on alpha;
    ``lr_alpha`` is a rate of its own (0.02 beside 0.04 in the authors' CIFAR-10 runs). One latent a weight.

    ``scale="pot"`` rounds the scale to a power of two: the exponent follows ``log2(size alpha / m)`` with hysteresis,
    as in :class:`~bitshift.nn.learned_scale.LearnedScale`.

    Start: the weight; alpha = 3, or ``alpha="search"``, the clip with the least squared error.

    Where we differ: ``size``, the deviation of the starting weight (the paper has 1). Behind a batch norm it cancels
    in forward and gradients; without one, and for a pretrained net, the layer keeps its gain. ``normalise=False`` takes
    the latent as it is, in the unit ``size``: for nets whose norms are folded into the weight. The authors decay alpha.
    """

    name = "apot"
    weight_units = True
    bits = (2, 3, 4, 5)
    options: ClassVar[dict[str, Any]] = {"alpha": 3.0, "scale": "free", "normalise": True, "lr_alpha": None}

    size: Tensor
    exponent: Tensor

    def __init__(
        self, latent: Tensor, format: str, *, alpha: float | str = 3.0, scale: str = "free", normalise: bool = True,
        lr_alpha: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.format = self.check_format(format)
        self.shape = tuple(latent.shape)
        if scale not in ("free", "pot"):
            raise ValueError(f"apot: scale={scale!r}; allowed: 'free', 'pot'")
        check_rate("apot", lr_alpha=lr_alpha)
        check_flag("apot", normalise=normalise)
        self.power_of_two, self.normalise, self.lr_alpha = scale == "pot", normalise, lr_alpha
        self.latent = nn.Parameter(latent.detach().clone())
        self.register_buffer("size", self._deviation()[1].float().clamp(_LOW, _HIGH))
        if isinstance(alpha, str):
            if alpha != "search":
                raise ValueError(f"apot: alpha={alpha!r}; allowed: a positive number, 'search'")
            alpha = self._searched()
        check_positive("apot", alpha=alpha)
        self.alpha = nn.Parameter(torch.tensor(float(alpha), device=latent.device))
        if self.power_of_two:
            self.register_buffer("exponent", self._wanted().round().int())
        self.after_step()

    @staticmethod
    def format_for(bits: int) -> str:
        if bits not in _FORMATS:
            raise ValueError(f"method 'apot' has no {bits}-bit set; allowed bits: 2, 3, 4, 5")
        return _FORMATS[bits]

    @classmethod
    def random(
        cls, shape: Iterable[int], format: str, *, generator: torch.Generator | None = None, **options: Any
    ) -> APoT:
        """PyTorch's default weight."""
        return cls.from_float(default_weight(shape, generator), format, **options)

    @classmethod
    def from_float(
        cls, weight: Tensor, format: str, *, generator: torch.Generator | None = None, alpha: float | str = 3.0,
        scale: str = "free", normalise: bool = True, lr_alpha: float | None = None,
    ) -> APoT:  # fmt: skip
        """The weight itself as the latent."""
        cls.check_format(format)
        latent = check_weight(weight, "apot.from_float")
        return cls(latent, format, alpha=alpha, scale=scale, normalise=normalise, lr_alpha=lr_alpha)

    @torch.no_grad()
    def _deviation(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, float64; without spread 0 and the largest magnitude."""
        latent = self.latent.detach().double()
        spread = latent.std(correction=min(1, latent.numel() - 1))
        flat = spread == 0
        largest = latent.abs().max()
        return (
            torch.where(flat, 0.0, latent.mean()),
            torch.where(flat, torch.where(largest > 0, largest, 1.0), spread),
        )

    @torch.no_grad()
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """What is taken off the latent, and the factor to the unit of the weight; float32 scalars."""
        if not self.normalise:
            return torch.zeros_like(self.size, dtype=torch.float32), torch.ones_like(self.size, dtype=torch.float32)
        mean, spread = self._deviation()
        return mean.float(), (self.size / spread).float().clamp(_LOW, _HIGH)

    def _searched(self) -> float:
        mean, ratio = self._statistics()
        centred = (self.latent.detach() - mean) * ratio
        scale = search_free_scale(centred, self.format, granularity="tensor")[0]
        alpha = scale.double() * self.format.max_level / self.size
        return float(alpha.clamp(_ALPHA_MIN, _ALPHA_MAX))

    @torch.no_grad()
    def _wanted(self) -> Tensor:
        """log2 of the free scale, within the range of scales."""
        wanted = (self.size.double() * self.alpha / self.format.max_level).log2()
        return wanted.clamp(SCALE_EXP_MIN, SCALE_EXP_MAX)

    @torch.no_grad()
    def _scale(self) -> Tensor:
        if self.power_of_two:
            return scale_of(self.exponent)
        return (self.size.double() * self.alpha / self.format.max_level).clamp(_LOW, _HIGH).float()

    def weight(self) -> Tensor:
        mean, ratio = self._statistics()
        return _Clipped.apply(self.latent, self.alpha, mean, ratio, self._scale(), self.size.float(), self.format)

    def _values(self) -> Tensor:
        check_weight(self.latent, "latent of apot")
        return normalised(self.latent.detach(), *self._statistics(), self._scale())

    def codes(self) -> Tensor:
        return nearest_code(self._values(), self.format)

    def scale(self) -> Tensor:
        return self._scale().expand(self.shape[0])

    def latents(self) -> dict[str, Tensor]:
        return {"latent": self.latent, "alpha": self.alpha}

    def threshold_distance(self) -> Tensor:
        """Distance of the latent to the nearest midpoint between two levels, mean and deviation held."""
        _, ratio = self._statistics()
        largest = torch.finfo(torch.float32).max
        values = self._values().double().clamp_(-largest, largest)
        distance = midpoint_distance(values, self.format) * (self._scale().double() / ratio)
        return distance.clamp_(max=largest).float()

    def param_groups(self, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        rate = lr if self.lr_alpha is None else self.lr_alpha
        return [
            {"params": [self.latent], "lr": lr, "weight_decay": weight_decay},
            {"params": [self.alpha], "lr": rate, "weight_decay": 0.0},
        ]

    @torch.no_grad()
    def after_step(self) -> None:
        self.alpha.clamp_(_ALPHA_MIN, _ALPHA_MAX)
        if self.power_of_two:
            wanted = self._wanted()
            moved = (wanted - self.exponent).abs() > 0.5 + HYSTERESIS
            self.exponent.copy_(torch.where(moved, wanted.round().int(), self.exponent))
