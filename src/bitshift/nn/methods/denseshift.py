"""DenseShift: zero-free powers of two by sign-scale decomposition."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bitshift.nn.gates import (
    GateMethod,
    GateRule,
    exponent_gates,
    gate_slopes,
    margin_gates,
    sign_consistent,
    split_weight,
)
from bitshift.nn.init import check_flag, check_positive, device_of, he_std
from bitshift.nn.method import register


@lru_cache(maxsize=16)
def gate_rule(bits: int, surrogate: bool) -> GateRule:
    """Level ``sigma 2^S`` and slopes; see :class:`DenseShift`."""
    gates = DenseShift.gates(bits)
    pattern = np.arange(2 << gates)
    sigma = 2.0 * (pattern & 1) - 1
    exponent, before, opened = exponent_gates(pattern, DenseShift.first_gate, gates)
    if surrogate:
        d_sign, d_exponent = np.sqrt(exponent + 1), sigma / (2 * np.sqrt(exponent + 1))
    else:
        d_sign, d_exponent = 2.0**exponent, sigma * 2.0**exponent * np.log(2)
    slopes = np.stack([d_sign, *gate_slopes(d_exponent, before, opened)])
    return GateRule(("sign", *(f"gate{t + 1}" for t in range(gates))), sigma * 2.0**exponent, slopes)


def _deviation(std: float | str, shape: tuple[int, ...]) -> float:
    """The number that the option ``std`` means for a weight of ``shape``."""
    if isinstance(std, str):
        if std != "he":
            raise ValueError(f"denseshift: std={std!r}; allowed: a positive number, or 'he'")
        return he_std(shape)
    return std


@register
class DenseShift(GateMethod):
    """DenseShift (Li et al., ICCV 2023, arXiv 2208.09708).

    Levels: +-2^k, k = 0 .. T, T = 2^(bits-1) - 1 (no zero). Latents a weight: T + 1, stored as one parameter of shape
    ``(T + 1, O, ...)``: the sign, then the gates 1 (innermost) to T (outermost).

    Forward: ``sigma = +1 if sign >= 0 else -1``; ``b_t = 1 if gate_t > 0 else 0``; ``S_0 = 0``,
    ``S_t = (S_{t-1} + 1) * b_t``; ``W = sigma * 2^S_T * scale``.

    Gradient, with ``g = dL/dW * scale`` and every step straight through without clipping: of the surrogate
    ``sigma * sqrt(S + 1)``, that is ``d sign = g * sqrt(S + 1)``, ``dS = g * sigma / (2 sqrt(S + 1))``, then
    ``d gate_t = dS_t * (S_{t-1} + 1)``, ``dS_{t-1} = dS_t * b_t``. ``surrogate=False`` takes the gradient of
    ``sigma * 2^S`` instead (the paper's ablation): ``d sign = g * 2^S``, ``dS = g * sigma * 2^S * ln 2``.

    Initialisation: all latents N(0, ``std``), std 1e-3; ``std="he"`` is He's deviation by fan-out, the high variance of
    S3's start, for comparison. Weight decay acts on the latents. No regulariser.

    Ours, not the paper's: the power-of-two ``scale`` per channel (ones from scratch, searched in ``from_float``) and
    both rules of ``from_float``. "margin" sets sign = eps*v and gate_{T-k} = eps*(|v| - 1.5*2^k)/2^k for v =
    weight/scale: the level is the nearest one and each latent knows how far it is from changing it. "sign_consistent"
    draws magnitudes |N(0, std)| with the signs of that level, gates behind a closed one at random.

    Known weakness: 2^(bits-1) times the parameter, gradient and momentum memory.
    """

    name = "denseshift"
    bits = (2, 3, 4)
    first_gate = 1
    options: ClassVar[dict[str, Any]] = {
        "surrogate": True, "std": 1e-3, "start": "margin", "eps": 3e-3, "scale": None,
    }  # fmt: skip

    def __init__(self, latents: Tensor, format: str, *, surrogate: bool = True, scale: Tensor | None = None) -> None:
        check_flag("denseshift", surrogate=surrogate)
        rule = gate_rule(self.check_format(format).bits, surrogate)
        super().__init__(latents, format, rule=rule, scale=scale)

    @staticmethod
    def gates(bits: int) -> int:
        return (1 << (bits - 1)) - 1

    @staticmethod
    def format_for(bits: int) -> str:
        if bits not in DenseShift.bits:
            raise ValueError(f"method 'denseshift' has no {bits}-bit set; allowed bits: 2, 3, 4")
        return f"pot{bits}d"

    @classmethod
    def random(
        cls, shape: Iterable[int], format: str, *, generator: torch.Generator | None = None, surrogate: bool = True,
        std: float | str = 1e-3, start: str = "margin", eps: float = 3e-3, scale: Tensor | None = None,
    ) -> DenseShift:  # fmt: skip
        """All latents N(0, std); ``start`` and ``eps`` belong to :meth:`from_float`."""
        shape = tuple(shape)
        std = _deviation(std, shape)
        check_positive("denseshift", std=std, eps=eps)
        latents = torch.empty(cls.gates(cls.check_format(format).bits) + 1, *shape, device=device_of(generator))
        return cls(latents.normal_(0, std, generator=generator), format, surrogate=surrogate, scale=scale)

    @classmethod
    def from_float(
        cls, weight: Tensor, format: str, *, generator: torch.Generator | None = None, surrogate: bool = True,
        std: float | str = 1e-3, start: str = "margin", eps: float = 3e-3, scale: Tensor | None = None,
    ) -> DenseShift:  # fmt: skip
        """Latents whose level is the one nearest to ``weight / scale``; the scale is searched unless given."""
        std = _deviation(std, tuple(weight.shape))
        check_positive("denseshift", std=std, eps=eps)
        bits = cls.check_format(format).bits
        values, scale = split_weight(weight, format, scale, "denseshift")
        latents = torch.stack([values, *margin_gates(values.abs(), cls.gates(bits))]) * eps
        if start == "sign_consistent":
            latents = sign_consistent(latents, gate_rule(bits, surrogate), cls.first_gate, std, generator)
        elif start != "margin":
            raise ValueError(f"denseshift: start={start!r}; allowed: 'margin', 'sign_consistent'")
        return cls(latents, format, surrogate=surrogate, scale=scale)
