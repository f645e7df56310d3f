"""Non-linear functions between two quantisers: a table of at most 256 entries in integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitshift.core.fixed import FixedPoint
from bitshift.nn.activations import ActQuant

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "softplus": F.softplus,
    "mish": F.mish,
}
"""Elementwise functions by name; each takes the keyword arguments of its namesake in torch.nn.functional."""


class Pointwise(nn.Module):
    """``fn(x)`` of a quantised ``x``, in float64 in ``eval``; with the :class:`ActQuant` behind it, one table."""

    def __init__(self, fn: str, **options: Any) -> None:
        super().__init__()
        if fn not in FUNCTIONS:
            raise ValueError(f"function {fn!r}; allowed are {', '.join(FUNCTIONS)}")
        self.fn, self.options = fn, options
        self._input: tuple[ActQuant, ...] = ()

    def set_input(self, quant: ActQuant) -> None:
        """Say whose output this reads."""
        self._input = (quant,)

    @property
    def input_type(self) -> FixedPoint | None:
        """Type of the integers that arrive."""
        return self._input[0].grid if self._input else None

    def table(self, output: ActQuant) -> Tensor:
        """The integers of ``output`` for every input integer from the lowest to the highest, int32 ``(2**bits)``."""
        if not self._input:
            raise RuntimeError(f"{self.fn} has no quantised input")
        kind, out = self._input[0].grid, output.grid
        q = torch.arange(kind.lo, kind.hi + 1, dtype=torch.float64)
        y = FUNCTIONS[self.fn](q * 2.0**-kind.frac, **self.options)
        return torch.floor(y * 2.0**out.frac + 0.5).clamp(out.lo, out.hi).int()

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return FUNCTIONS[self.fn](input if self.training else input.double(), **self.options)

    def extra_repr(self) -> str:
        """The function."""
        return ", ".join([self.fn, *(f"{k}={v}" for k, v in self.options.items())])


__all__ = ["FUNCTIONS", "Pointwise"]
