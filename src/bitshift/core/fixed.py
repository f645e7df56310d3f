"""Types of the values in a graph: fixed point integers and float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FixedPoint:
    """An integer ``q`` of ``bits`` bits that stands for the value ``q * 2**-frac``.

    Signed types hold ``-2**(bits-1) .. 2**(bits-1)-1``, unsigned ones ``0 .. 2**bits-1``. ``frac`` may
    be negative. Zero is always representable as 0: there are no zero points.
    """

    bits: int
    frac: int
    signed: bool = True

    def __post_init__(self) -> None:
        top = 32 if self.signed else 31
        if not 2 <= self.bits <= top and not (self.bits == 1 and not self.signed):
            raise ValueError(
                f"fixed point with {self.bits} bits: allowed are 2 to {top} ({'' if self.signed else 'un'}signed)"
            )
        if not -64 <= self.frac <= 64:
            raise ValueError(f"fixed point with frac {self.frac}: allowed are -64 to 64")

    @property
    def lo(self) -> int:
        """Smallest integer."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def hi(self) -> int:
        """Largest integer."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def dtype(self) -> np.dtype:
        """Storage: uint8 for unsigned up to 8 bits, else the smallest of int8, int16, int32 that holds it."""
        if not self.signed and self.bits <= 8:
            return np.dtype(np.uint8)
        need = self.bits if self.signed else self.bits + 1
        return np.dtype(np.int8 if need <= 8 else np.int16 if need <= 16 else np.int32)

    def __str__(self) -> str:
        return f"{'s' if self.signed else 'u'}{self.bits}.{self.frac}"


@dataclass(frozen=True)
class Float32:
    """IEEE binary32 values: the papers' setting, power-of-two weights with float activations."""

    @property
    def dtype(self) -> np.dtype:
        """Storage type."""
        return np.dtype(np.float32)

    def __str__(self) -> str:
        return "f32"


ValueType = FixedPoint | Float32


def is_power_of_two(x: np.ndarray) -> np.ndarray:
    """Elementwise: integer ``x`` is 1, 2, 4, ...; shape and order of ``x``."""
    x = np.asarray(x)
    return (x > 0) & ((x & (x - 1)) == 0)
