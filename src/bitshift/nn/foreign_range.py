"""Grids of activations that another method has chosen."""

from __future__ import annotations

from math import log2
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.nn.activations import ActQuant


class KnownRange(nn.Module):
    """Stands where another method rounds to ``(q - zero_point) * scale``, ``low <= q <= high``; passes values on."""

    def __init__(self, scale: float, zero_point: int, low: int, high: int) -> None:
        super().__init__()
        self.scale, self.zero_point, self.low, self.high = scale, zero_point, low, high

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return input

    def quantiser(self, most_bits: int) -> ActQuant | str:
        """The very same grid as a quantiser of at most ``most_bits`` bits, or why there is none."""
        lo, hi = self.low - self.zero_point, self.high - self.zero_point
        signed = lo < 0
        bits = hi.bit_length() + signed
        exponent = log2(self.scale)
        if exponent != round(exponent):
            return f"its scale {self.scale:.6g} is no power of two"
        if (lo, hi) != ((-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)):
            return f"its integers {lo}..{hi} around the zero point are no type without one"
        if not 2 <= bits <= most_bits:
            return f"it has {bits} bits, not {'at most ' if bits > most_bits else ''}{most_bits}"
        quant = ActQuant(bits, signed=signed)
        with torch.no_grad():
            quant.log2_step.fill_(exponent)
            quant.initialised.fill_(True)
        quant.given = True
        return quant

    def extra_repr(self) -> str:
        """The grid."""
        return f"scale={self.scale:.6g}, zero_point={self.zero_point}, {self.low}..{self.high}"


def _number(value: Any) -> float | None:
    """A python number from a number or a tensor of one element."""
    if isinstance(value, Tensor):
        return float(value.detach().reshape(-1)[0]) if value.numel() == 1 else None
    return float(value) if isinstance(value, (int, float)) else None


def range_of(module: Any) -> KnownRange | None:
    """The grid of a quantised module's output, of a fake quantiser or an observer; None if it tells none."""
    if hasattr(module, "fake_quant_enabled") and not bool(torch.as_tensor(module.fake_quant_enabled).all()):
        return None
    if not hasattr(module, "scale") and callable(getattr(module, "calculate_qparams", None)):
        return _observed(module)
    scale, zero = _number(getattr(module, "scale", None)), _number(getattr(module, "zero_point", 0))
    if scale is None or zero is None or not scale > 0:
        return None
    low = _number(getattr(module, "quant_min", None))
    high = _number(getattr(module, "quant_max", None))
    if low is None or high is None:
        unsigned = getattr(module, "dtype", torch.quint8) in (torch.quint8, torch.uint8)
        low, high = (0, 255) if unsigned else (-128, 127)
    return KnownRange(scale, int(zero), int(low), int(high))


def _observed(observer: Any) -> KnownRange | None:
    """The grid that an observer would choose, if it has seen data."""
    seen = getattr(observer, "min_val", None)
    if not isinstance(seen, Tensor) or seen.numel() != 1 or not bool(seen.isfinite().all()):
        return None
    scale, zero = observer.calculate_qparams()
    low, high = _number(observer.quant_min), _number(observer.quant_max)
    number = _number(scale)
    if number is None or low is None or high is None:
        return None
    return KnownRange(number, int(_number(zero) or 0), int(low), int(high))


def brevitas_range(proxy: Any) -> KnownRange | None:
    """The grid of an activation's quantiser in brevitas; None if it has none, or one a channel."""
    try:
        scale, zero, bits = (_number(getattr(proxy, name)()) for name in ("scale", "zero_point", "bit_width"))
    except (AttributeError, TypeError, RuntimeError):  # no quantiser, or one of floats
        return None
    if not scale or zero is None or bits is None:
        return None
    signed = bool(getattr(proxy, "is_signed", True))
    low = -(1 << (int(bits) - 1)) + bool(getattr(proxy, "is_narrow_range", False)) if signed else 0
    return KnownRange(scale, int(zero), low, (1 << (int(bits) - signed)) - 1)


__all__ = ["KnownRange", "brevitas_range", "range_of"]
