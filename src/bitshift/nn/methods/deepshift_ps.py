"""DeepShift-PS: shift and sign as two trained tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bitshift.nn.init import check_penalty, check_rate, device_of
from bitshift.nn.kernels import cpu, fused, on_cpu
from bitshift.nn.method import Method, register
from bitshift.nn.scale_search import check_weight, exponents_of, per_channel, scale_of, start_scale
from bitshift.nn.ste import keep_penalty, take_penalty

_LN2 = 0.6931471805599453


def rounded(shift: Tensor, sign: Tensor, low: int) -> tuple[Tensor, Tensor]:
    """``round(P)`` within ``low .. 0`` (int32, half to even), ``sign(round(S))`` (int8; +-0.5 give 0)."""
    trit = (sign > 0.5).view(torch.int8) - (sign < -0.5).view(torch.int8)
    return shift.float().round().clamp_(low, 0).int(), trit


class _ShiftSign(torch.autograd.Function):
    """``W = S~ 2^P~ top``; backward ``dP = g W ln 2`` and ``dS = g top``, on purpose without the factor 2^P~."""

    @staticmethod
    def forward(ctx: Any, shift: Tensor, sign: Tensor, top_exp: Tensor, low: int) -> Tensor:
        ctx.fused = fused(shift, sign) if shift.dtype == sign.dtype else None
        if ctx.fused is not None:
            weight, _ = ctx.fused.shift_sign_forward(shift, sign, top_exp, low)
        else:
            exponent, trit = rounded(shift, sign, low)
            weight = scale_of(exponent.add_(top_exp)).mul_(trit)
        ctx.save_for_backward(weight, scale_of(top_exp), *(() if ctx.fused is None else (shift,)))
        ctx.dtypes = shift.dtype, sign.dtype
        return weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, top, *shift = ctx.saved_tensors
        if ctx.fused is not None:
            return *ctx.fused.shift_sign_backward(grad, weight, shift[0], top), None, None
        grad = grad.float()
        return (grad * weight).mul_(_LN2).to(ctx.dtypes[0]), (grad * top).to(ctx.dtypes[1]), None, None


class _DecayedShiftSign(torch.autograd.Function):
    """:class:`_ShiftSign` and ``decay / 2 * sum((2^P top)^2)`` in one pass, by the compiled module.

    Tensors are kept on ``ctx`` itself, because a caller may run the two outputs' backward one after the other.
    """

    @staticmethod
    def forward(
        ctx: Any, shift: Tensor, sign: Tensor, top_exp: Tensor, low: int, decay: float
    ) -> tuple[Tensor, Tensor]:
        weight, squares = cpu.shift_sign_forward(shift, sign, top_exp, low, squares=True)
        ctx.parts = weight.detach(), shift.detach(), scale_of(top_exp)
        ctx.version, ctx.decay = shift._version, decay
        ctx.set_materialize_grads(False)
        return weight, torch.tensor(decay / 2 * squares)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, decayed: Tensor | None) -> tuple[Tensor, Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, shift, top = ctx.parts
        if shift._version != ctx.version:
            raise RuntimeError("deepshift_ps: the latents were changed between forward and backward")
        push = 0.0 if decayed is None else ctx.decay * _LN2 * float(decayed)
        grad = torch.zeros(weight.shape) if grad is None else grad
        return *cpu.shift_sign_backward(grad, weight, shift, top, push=push), None, None, None


@register
class DeepShiftPS(Method):
    """DeepShift-PS (Elhoushi et al., CVPR Workshops 2021, arXiv 1905.13298).

    Levels: 0, +-2^p, p = pmin .. 0, pmin = -(2^(bits-1) - 2); scale = 2^pmin. Latents a weight: P (exponent) and S
    (sign).

    Forward: ``P~ = round(P)`` (half to even), ``S~ = sign(round(S))``: -1 for S < -0.5, +1 for S > 0.5, else 0;
    ``W = S~ * 2^P~``. Gradient, with g = dL/dW, straight through: ``dP = g W ln 2`` (zero where S~ = 0), ``dS = g``, on
    purpose not multiplied by 2^P~. Projection (construction and :meth:`after_step`): P into pmin .. 0.

    Regulariser: ``weight_decay / 2 * sum((2^P)^2)``, weight_decay 1e-4, P not rounded, sign ignored; the optimiser's
    own decay is 0 for P and S. ``lr_sign`` is a learning rate of its own for S (0 freezes the signs). Train with
    RAdam: SGD does not converge usefully (the authors' README).

    Initialisation: P ~ U(-10, -1) for convolutions, U(pmin, 0) for linear layers, S ~ U(-1, 1); ``from_float``:
    P = round(log2 |W|), S = sign(W), a weight of 0 is S = 0, P = pmin.

    Where we differ: the paper projects P inside the forward, we after the optimiser's step. ``scale`` (a power of two
    per channel) moves the set for layers without a norm: W = S~ 2^P~ * top with top = scale * 2^-pmin, and ``dS = g
    top``. ``scale="search"`` takes the one of least squared error for a pretrained weight, and S = 0 where zero is
    the nearest level.
    """

    name = "deepshift_ps"
    bits = (2, 3, 4, 5, 6)
    options: ClassVar[dict[str, Any]] = {"weight_decay": 1e-4, "lr_sign": None, "scale": None}

    scale_exp: Tensor

    def __init__(
        self, shift: Tensor, sign: Tensor, format: str, *, scale: Tensor | None = None, weight_decay: float = 1e-4,
        lr_sign: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.format = self.check_format(format)
        if shift.shape != sign.shape or shift.ndim < 1 or shift.numel() == 0:
            raise ValueError(
                f"deepshift_ps: P {tuple(shift.shape)} and S {tuple(sign.shape)} must have one shape (O, ...)"
            )
        check_penalty("deepshift_ps", weight_decay=weight_decay)
        check_rate("deepshift_ps", lr_sign=lr_sign)
        self.shape = tuple(shift.shape)
        self.low = 1 - self.format.max_level.bit_length()  # pmin
        exponents = (
            torch.full((self.shape[0],), self.low, dtype=torch.int32)
            if scale is None
            else exponents_of(scale, self.shape[0], self.name)
        )
        self.register_buffer("scale_exp", exponents.to(shift.device))
        self.shift = nn.Parameter(shift.detach().clone())
        self.sign = nn.Parameter(sign.detach().clone())
        self.weight_decay = float(weight_decay)
        self.lr_sign = lr_sign
        self.after_step()

    @staticmethod
    def format_for(bits: int) -> str:
        if bits not in DeepShiftPS.bits:
            raise ValueError(f"method 'deepshift_ps' has no {bits}-bit set; allowed bits: 2, 3, 4, 5, 6")
        return f"pot{bits}"

    @classmethod
    def random(
        cls, shape: Iterable[int], format: str, *, generator: torch.Generator | None = None, weight_decay: float = 1e-4,
        lr_sign: float | None = None, scale: Tensor | str | None = None,
    ) -> DeepShiftPS:  # fmt: skip
        """S ~ U(-1, 1); P ~ U(-10, -1), or U(pmin, 0) for a linear layer (two axes)."""
        shape = tuple(shape)
        pmin = 1 - cls.check_format(format).max_level.bit_length()
        low, high = (pmin, 0) if len(shape) == 2 else (-10, -1)
        shift = torch.empty(shape, device=device_of(generator)).uniform_(low, high, generator=generator)
        sign = torch.empty(shape, device=device_of(generator)).uniform_(-1, 1, generator=generator)
        if isinstance(scale, str):  # there is no weight to search for
            start_scale(scale, torch.ones(1, 1), cls.check_format(format), cls.name)
            scale = None
        return cls(shift, sign, format, scale=scale, weight_decay=weight_decay, lr_sign=lr_sign)

    @classmethod
    def from_float(
        cls, weight: Tensor, format: str, *, generator: torch.Generator | None = None, weight_decay: float = 1e-4,
        lr_sign: float | None = None, scale: Tensor | str | None = None,
    ) -> DeepShiftPS:  # fmt: skip
        """P = round(log2 |W|), S = sign(W); with ``scale="search"`` S = 0 where zero is the nearest level."""
        fmt = cls.check_format(format)
        weight = check_weight(weight, "deepshift_ps.from_float")
        magnitude, sign = weight.abs().double(), weight.sign()
        if isinstance(scale, str):
            scale = start_scale(scale, weight, fmt, cls.name)
            assert scale is not None
            sign = torch.where(weight.abs() < per_channel(scale, weight.ndim) / 2, 0.0, sign)
        if scale is not None:
            top = scale_of(exponents_of(scale, weight.shape[0], cls.name)).double() * fmt.max_level
            magnitude = magnitude / per_channel(top.to(weight.device), weight.ndim)
        pmin = 1 - fmt.max_level.bit_length()
        shift = torch.log2(magnitude).round().clamp(pmin, 0).float()
        return cls(shift, sign, format, scale=scale, weight_decay=weight_decay, lr_sign=lr_sign)

    def _top_exp(self) -> Tensor:
        return per_channel(self.scale_exp - self.low, len(self.shape))

    def weight(self) -> Tensor:
        both = (self.shift, self.sign)
        decayed = self.training and self.weight_decay and torch.is_grad_enabled() and self.shift.requires_grad
        if decayed and self.shift.dtype == self.sign.dtype and on_cpu(*both):
            weight, penalty = _DecayedShiftSign.apply(*both, self._top_exp(), self.low, self.weight_decay)
            keep_penalty(self, penalty, both)
            return weight
        return _ShiftSign.apply(self.shift, self.sign, self._top_exp(), self.low)

    @torch.no_grad()
    def codes(self) -> Tensor:
        for tensor in (self.shift, self.sign):
            check_weight(tensor, "latents of deepshift_ps")
        exponent, trit = rounded(self.shift.detach(), self.sign.detach(), self.low)
        index = (exponent - self.low + 1) * trit.abs()
        return (index + (trit < 0).int() * (1 << (self.format.bits - 1))).to(torch.uint8)

    def scale(self) -> Tensor:
        return scale_of(self.scale_exp)

    def latents(self) -> dict[str, Tensor]:
        return {"shift": self.shift, "sign": self.sign}

    @torch.no_grad()
    def threshold_distance(self) -> Tensor:
        """Distance of S to +-0.5, or, where S~ is not 0, of P to the nearest half-integer inside the set."""
        exponent, trit = rounded(self.shift.detach(), self.sign.detach(), self.low)
        offset = self.shift.detach().float() - exponent
        below = torch.where(exponent > self.low, 0.5 + offset, torch.inf)
        above = torch.where(exponent < 0, 0.5 - offset, torch.inf)
        shift = torch.where(trit != 0, torch.minimum(below, above), torch.inf)
        return torch.minimum(shift, (self.sign.detach().abs().float() - 0.5).abs())

    def penalty(self) -> Tensor:
        """``weight_decay / 2 * sum((top 2^P)^2)``: the L2 of the effective weights."""
        found = take_penalty(self, (self.shift, self.sign))
        if found is not None:
            return found
        return self.weight_decay / 2 * (torch.exp2(self.shift.float()) * scale_of(self._top_exp())).square().sum()

    def param_groups(self, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        lr_sign = lr if self.lr_sign is None else self.lr_sign
        return [
            {"params": [self.shift], "lr": lr, "weight_decay": 0.0},
            {"params": [self.sign], "lr": lr_sign, "weight_decay": 0.0},
        ]

    @torch.no_grad()
    def after_step(self) -> None:
        self.shift.clamp_(self.low, 0)
