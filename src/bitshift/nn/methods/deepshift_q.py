"""DeepShift-Q: weights rounded to powers of two in the log domain."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bitshift.nn.init import check_flag, default_weight, draw_seed
from bitshift.nn.kernels import fused
from bitshift.nn.method import Method, register
from bitshift.nn.scale_search import check_weight, exponents_of, per_channel, scale_of, start_scale

_SQRT2_CARRY = 0x800000 - 0x3504F4
# Added to the bits of a positive float32 this carries into the exponent exactly if the mantissa is above sqrt(2):
# the largest float32 mantissa below sqrt(2) is 0x3504F3.
_EXPONENT_MASK = 0x7F800000


def round_to_power(magnitude: Tensor) -> Tensor:
    """``2 ** round(log2(magnitude))`` of positive normal float32 values below 2**127, exact and in place.

    The boundary between 2^k and 2^(k+1) is 2^(k+1/2), which no float is equal to: half-to-even never has to decide.
    """
    magnitude.view(torch.int32).add_(_SQRT2_CARRY).bitwise_and_(_EXPONENT_MASK)
    return magnitude


def quantise(latent: Tensor, low: Tensor, high: Tensor, noise: Tensor | None) -> Tensor:
    """``sign * 2^round(log2 |latent|)`` within ``low .. high`` (powers of two); stochastic by ``noise`` in [0, 1)."""
    magnitude = latent.abs().float().clamp_(low, high)
    if noise is None:
        magnitude = round_to_power(magnitude)
    else:
        exponent = torch.log2(magnitude.double())
        magnitude = torch.exp2(torch.floor(exponent + noise)).float().clamp_(low, high)
    return magnitude.copysign_(latent)


class _PowerOfTwo(torch.autograd.Function):
    """Forward :func:`quantise`, backward the identity: no mask, because the latent itself is projected."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, low: Tensor, high: Tensor, noise: Tensor | None) -> Tensor:
        ctx.dtype = latent.dtype
        kernels = fused(latent, low, high) if noise is None else None
        if kernels is not None:
            return kernels.power_forward(latent, low, high)
        return quantise(latent, low, high, noise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad.to(ctx.dtype), None, None, None


@register
class DeepShiftQ(Method):
    """DeepShift-Q (Elhoushi et al., CVPR Workshops 2021, arXiv 1905.13298).

    Levels: +-2^p, p = -(2^(bits-1) - 1) .. 0, that is ``level * scale`` with scale = 2^-(2^(bits-1) - 1). One latent
    a weight.

    Forward: ``W = sign(latent) * 2^round(log2 |latent|)``, clamped to the set. Gradient: ``d latent = dL/dW``, no mask.
    Projection (construction and :meth:`after_step`): |latent| into 2^pmin .. 1. Weight decay acts on the latent.

    ``stochastic=True``: ``p = floor(log2 |latent| + u)`` while training, u uniform in [0, 1) per weight, drawn at
    construction and in :meth:`after_step` from a stored seed, so that forward stays pure and a resumed run repeats;
    eval rounds to nearest.

    Initialisation: the layer's default, U(+-1/sqrt(fan_in)); ``from_float`` keeps the weight.

    Where we differ: the paper projects inside the forward, we after the optimiser's step; there a latent that is
    exactly zero stays zero and gives a zero weight, which no code of the set can hold: ours counts as +2^pmin (-0.0
    as -2^pmin), in the forward and in the code, and is projected there. ``scale`` (a power of two per channel) moves
    the set for layers without a norm, ``scale="search"`` to where the squared error of the starting weight is least;
    the latent keeps the unit of the weight. Known weakness: signs freeze, because a latent must cross +-2^pmin.
    """

    name = "deepshift_q"
    weight_units = True
    bits = (2, 3, 4, 5, 6)
    options: ClassVar[dict[str, Any]] = {"stochastic": False, "scale": None}

    scale_exp: Tensor
    noise_seed: Tensor
    noise_step: Tensor
    _noise: Tensor | None

    def __init__(
        self, latent: Tensor, format: str, *, scale: Tensor | None = None, stochastic: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        self.format = self.check_format(format)
        self.shape = tuple(latent.shape)
        exponents = (
            torch.full((self.shape[0],), 1 - self.format.max_level.bit_length(), dtype=torch.int32)
            if scale is None
            else exponents_of(scale, self.shape[0], self.name)
        )
        self.register_buffer("scale_exp", exponents.to(latent.device))
        self.latent = nn.Parameter(latent.detach().clone())
        check_flag("deepshift_q", stochastic=stochastic)
        self.stochastic = stochastic
        self.register_buffer("_noise", None, persistent=False)
        if self.stochastic:
            self.register_buffer("noise_seed", torch.tensor(seed, dtype=torch.int64))
            self.register_buffer("noise_step", torch.zeros((), dtype=torch.int64))
            self._draw()
        self._project()

    @staticmethod
    def format_for(bits: int) -> str:
        if bits not in DeepShiftQ.bits:
            raise ValueError(f"method 'deepshift_q' has no {bits}-bit set; allowed bits: 2, 3, 4, 5, 6")
        return f"pot{bits}d"

    @classmethod
    def random(
        cls, shape: Iterable[int], format: str, *, generator: torch.Generator | None = None, stochastic: bool = False,
        scale: Tensor | str | None = None,
    ) -> DeepShiftQ:  # fmt: skip
        """The default of torch's linear and convolution layers: U(+-1/sqrt(fan_in))."""
        cls.check_format(format)
        return cls.from_float(
            default_weight(shape, generator), format, generator=generator, stochastic=stochastic, scale=scale
        )

    @classmethod
    def from_float(
        cls, weight: Tensor, format: str, *, generator: torch.Generator | None = None, stochastic: bool = False,
        scale: Tensor | str | None = None,
    ) -> DeepShiftQ:  # fmt: skip
        """The weight itself, projected into the set's range; ``generator`` seeds the stochastic rounding."""
        fmt = cls.check_format(format)
        seed = draw_seed(generator) if stochastic else 0
        latent = check_weight(weight, "deepshift_q.from_float")
        scale = start_scale(scale, latent, fmt, cls.name)
        return cls(latent, format, scale=scale, stochastic=stochastic, seed=seed)

    def _range(self) -> tuple[Tensor, Tensor]:
        low = per_channel(self.scale(), len(self.shape))
        return low, low * self.format.max_level

    def _active_noise(self) -> Tensor | None:
        return self._noise if self.training else None

    def _draw(self) -> None:
        """Fresh rounding offsets, a function of the stored seed and step only: drawn on the CPU on any device."""
        generator = torch.Generator().manual_seed((int(self.noise_seed) + int(self.noise_step)) % (1 << 63))
        self._noise = torch.rand(self.shape, generator=generator).to(self.latent.device)

    @torch.no_grad()
    def _project(self) -> None:
        low, high = self._range()
        self.latent.copy_(self.latent.abs().clamp_(low, high).copysign_(self.latent))

    def weight(self) -> Tensor:
        low, high = self._range()
        return _PowerOfTwo.apply(self.latent, low, high, self._active_noise())

    @torch.no_grad()
    def codes(self) -> Tensor:
        check_weight(self.latent, "latent of deepshift_q")
        low, high = self._range()
        weight = quantise(self.latent.detach(), low, high, self._active_noise())
        # A power of two keeps its exponent above bit 23: the difference to the scale's is the index of the level.
        index = (weight.abs().view(torch.int32) >> 23) - 127 - per_channel(self.scale_exp, weight.ndim)
        return (index + (weight < 0).int() * (1 << (self.format.bits - 1))).to(torch.uint8)

    def scale(self) -> Tensor:
        return scale_of(self.scale_exp)

    def latents(self) -> dict[str, Tensor]:
        return {"latent": self.latent}

    @torch.no_grad()
    def threshold_distance(self) -> Tensor:
        """Distance of ``|latent|`` to the nearest 2^(k+1/2) inside the set, or to zero, where the sign changes."""
        low, high = self._range()
        magnitude = self.latent.detach().abs().float()
        power = round_to_power(torch.minimum(torch.maximum(magnitude, low), high))
        below = torch.where(power > low, magnitude - power / sqrt(2), magnitude)
        above = torch.where(power < high, power * sqrt(2) - magnitude, torch.inf)
        return torch.minimum(torch.minimum(below, above).clamp_min(0), magnitude)

    def after_step(self) -> None:
        self._project()
        if self.stochastic:
            self.noise_step += 1
            self._draw()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.stochastic:
            self._draw()
