"""S3: sign, sparsity and shift as separate latents."""

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
from bitshift.nn.init import check_penalty, check_positive, device_of, he_std
from bitshift.nn.kernels import on_cpu
from bitshift.nn.method import register
from bitshift.nn.ste import PushedGateWeight, keep_penalty, take_penalty


@lru_cache(maxsize=8)
def gate_rule(bits: int) -> GateRule:
    """Level ``sigma z 2^S`` and slopes; see :class:`S3`."""
    gates = S3.gates(bits)
    pattern = np.arange(4 << gates)
    sigma, z = 2.0 * (pattern & 1) - 1, (pattern >> 1) & 1
    exponent, before, opened = exponent_gates(pattern, S3.first_gate, gates)
    power = 2.0**exponent
    slopes = np.stack([z * power, sigma * power, *gate_slopes(sigma * z * power * np.log(2), before, opened)])
    return GateRule(("sign", "sparse", *(f"gate{t + 1}" for t in range(gates))), sigma * z * power, slopes)


@register
class S3(GateMethod):
    """S3, sign-sparse-shift reparameterisation (Li et al., NeurIPS 2021, arXiv 2107.03453).

    Levels: 0, +-2^k, k = 0 .. T, T = 2^(bits-1) - 2. Latents a weight: T + 2, stored as one parameter of shape
    ``(T + 2, O, ...)``: sign, sparse, then the gates 1 (innermost) to T (outermost).

    Forward: ``sigma = +1 if sign >= 0 else -1``; ``z = 1 if sparse > 0 else 0``; ``b_t = 1 if gate_t > 0 else 0``;
    ``S_0 = 0``, ``S_t = (S_{t-1} + 1) * b_t``; ``W = sigma * z * 2^S_T * scale``.

    Gradient, with ``g = dL/dW * scale`` and every step straight through without clipping: ``d sign = g z 2^S``,
    ``d sparse = g sigma 2^S``, ``dS = g sigma z 2^S ln 2``, ``d gate_t = dS_t (S_{t-1} + 1)``, ``dS_{t-1} = dS_t b_t``.

    Regulariser: ``alpha * sum(max(-sparse, 0))``, alpha 1e-5. Weight decay acts on all latents.

    Initialisation: N(0, 2/fan_out) for every latent, fan_out = kernel area * O. ``init="symmetric"`` is the released
    code; ``init="dense"`` takes +|N| for sparse and -|N| for the gates, so that all weights start at +-1 (the first
    public commit, and the paper's words). The 4-bit set extends the 3-bit recursion; the source shows 3 bits.

    Ours, not the paper's: the power-of-two ``scale`` per channel (ones from scratch, searched in ``from_float``), and
    ``from_float`` with the rules of DenseShift (``start``): sparse = eps*(|v| - 0.5) decides between 0 and 1.

    Known weakness: 2^(bits-1) times the parameter, gradient and momentum memory.
    """

    name = "s3"
    bits = (2, 3, 4)
    first_gate = 2
    options: ClassVar[dict[str, Any]] = {
        "init": "symmetric", "alpha": 1e-5, "start": "margin", "eps": 3e-3, "std": 1e-3, "scale": None,
    }  # fmt: skip

    def __init__(self, latents: Tensor, format: str, *, alpha: float = 1e-5, scale: Tensor | None = None) -> None:
        super().__init__(latents, format, rule=gate_rule(self.check_format(format).bits), scale=scale)
        check_penalty("s3", alpha=alpha)
        self.alpha = float(alpha)

    @staticmethod
    def gates(bits: int) -> int:
        return (1 << (bits - 1)) - 2

    @staticmethod
    def format_for(bits: int) -> str:
        if bits not in S3.bits:
            raise ValueError(f"method 's3' has no {bits}-bit set; allowed bits: 2, 3, 4")
        return f"pot{bits}"

    @classmethod
    def random(
        cls, shape: Iterable[int], format: str, *, generator: torch.Generator | None = None, init: str = "symmetric",
        alpha: float = 1e-5, start: str = "margin", eps: float = 3e-3, std: float = 1e-3, scale: Tensor | None = None,
    ) -> S3:  # fmt: skip
        """He fan-out latents by ``init``; ``start``, ``eps`` and ``std`` belong to :meth:`from_float`."""
        check_positive("s3", std=std, eps=eps)
        if init not in ("symmetric", "dense"):
            raise ValueError(
                f"s3: init={init!r}; allowed: 'symmetric' (released code), 'dense' (all weights start at +-1)"
            )
        shape = tuple(shape)
        latents = torch.empty(cls.gates(cls.check_format(format).bits) + 2, *shape, device=device_of(generator))
        latents.normal_(0, he_std(shape), generator=generator)
        if init == "dense":
            latents[1:].abs_()
            latents[2:].neg_()
        return cls(latents, format, alpha=alpha, scale=scale)

    @classmethod
    def from_float(
        cls, weight: Tensor, format: str, *, generator: torch.Generator | None = None, init: str = "symmetric",
        alpha: float = 1e-5, start: str = "margin", eps: float = 3e-3, std: float = 1e-3, scale: Tensor | None = None,
    ) -> S3:  # fmt: skip
        """Latents whose level is the one nearest to ``weight / scale``; the scale is searched unless given."""
        check_positive("s3", std=std, eps=eps)
        bits = cls.check_format(format).bits
        values, scale = split_weight(weight, format, scale, "s3")
        magnitude = values.abs()
        latents = torch.stack([values, magnitude - 0.5, *margin_gates(magnitude, cls.gates(bits))]) * eps
        if start == "sign_consistent":
            latents = sign_consistent(latents, gate_rule(bits), cls.first_gate, std, generator)
        elif start != "margin":
            raise ValueError(f"s3: start={start!r}; allowed: 'margin', 'sign_consistent'")
        return cls(latents, format, alpha=alpha, scale=scale)

    def weight(self) -> Tensor:
        if not (self.training and self.alpha and self.stack.requires_grad and torch.is_grad_enabled()):
            return super().weight()
        if not on_cpu(self.stack):
            return super().weight()
        weight, penalty = PushedGateWeight.apply(self.stack, self.scale(), self._values, self._slopes, self.alpha)
        keep_penalty(self, penalty, (self.stack,))
        return weight

    def penalty(self) -> Tensor:
        """``alpha * sum(max(-sparse, 0))``: pushes weights out of zero."""
        found = take_penalty(self, (self.stack,))
        return self.alpha * torch.relu(-self.stack[1].float()).sum() if found is None else found
