"""The type of exact values between two roundings, before ``fuse`` and ``narrow`` have run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitshift.core.fixed import FixedPoint, ValueType

MAX_EXACT = 1 << 62
"""Bound on a wide integer: sums of two stay inside int64."""


@dataclass(frozen=True)
class Wide(FixedPoint):
    """An exact int64 value at grid ``2**-frac``.

    It exists only inside ``lower``: the literal graph uses it for what the torch model carries as exact
    floats, and the last pass turns what is left of it into ``s32`` or refuses. No file can hold it.
    """

    def __post_init__(self) -> None:
        if self.bits != 64 or not self.signed:
            raise ValueError("a wide value has 64 bits and a sign")

    @classmethod
    def at(cls, frac: int) -> Wide:
        """The wide type with grid ``2**-frac``."""
        return cls(64, frac)

    @property
    def dtype(self) -> np.dtype:
        """Storage type."""
        return np.dtype(np.int64)


def is_wide(kind: ValueType) -> bool:
    """Whether ``kind`` is the int64 type of this module."""
    return isinstance(kind, Wide)


def dyadic(value: float) -> tuple[int, int]:
    """``(m, e)`` with ``value == m * 2**-e``, ``m`` odd (or 0 with ``e`` 0); ValueError for infinities and NaN."""
    if not np.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    top, bottom = float(value).as_integer_ratio()
    if top == 0:
        return 0, 0
    zeros = (top & -top).bit_length() - 1
    return top >> zeros, bottom.bit_length() - 1 - zeros
