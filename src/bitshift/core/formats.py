"""The weight sets: the only place in the project where one is defined.

A :class:`ShiftFormat` maps a ``bits``-wide code to an integer level. The C header, the table in the
docs and the preconditions of the kernels are generated from :data:`FORMATS`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class ShiftFormat:
    """A finite set of integer weight levels and their binary codes.

    ``levels[code]`` is the level of a code; the value of a weight is ``level * scale`` with one scale
    per output channel. Codes of signed-magnitude formats are ``sign << (bits - 1) | index``; codes of
    ``int*`` formats are two's complement. ``reserved`` lists the codes that no weight uses (a negative
    zero, the most negative integer); they decode to 0 and a file that holds one is refused.
    """

    name: str
    bits: int
    levels: tuple[int, ...]
    reserved: tuple[int, ...]
    used_by: str

    def __post_init__(self) -> None:
        if len(self.levels) != 1 << self.bits:
            raise ValueError(f"format {self.name!r}: {len(self.levels)} levels for {self.bits} bits")
        valid = self.valid_levels
        if len(set(valid)) != len(valid) or sorted(valid) != [-x for x in sorted(valid, reverse=True)]:
            raise ValueError(f"format {self.name!r}: levels must be distinct and symmetric")

    @cached_property
    def valid_levels(self) -> tuple[int, ...]:
        """All levels that a weight may take, in the order of their codes."""
        return tuple(v for c, v in enumerate(self.levels) if c not in self.reserved)

    @cached_property
    def max_level(self) -> int:
        """The largest magnitude."""
        return max(self.valid_levels)

    @cached_property
    def float_only(self) -> bool:
        """Whether the levels are too wide for integer nodes (over 2**15), so that only f32 nodes may use it."""
        return self.max_level > 1 << 15

    @cached_property
    def terms(self) -> int:
        """Most powers of two in one level: the shifts of one product; 0 for the ``int*`` baselines, which multiply."""
        return max(abs(v).bit_count() for v in self.levels) if self.multiplication_free else 0

    @cached_property
    def has_zero(self) -> bool:
        """Whether zero is a level."""
        return 0 in self.valid_levels

    @cached_property
    def multiplication_free(self) -> bool:
        """Whether every level is a sum of at most two powers of two (false for the ``int*`` baselines)."""
        return not self.name.startswith("int")

    @cached_property
    def table(self) -> np.ndarray:
        """``levels`` as a read-only int64 array of shape ``(2**bits,)``."""
        table = np.array(self.levels, dtype=np.int64)
        table.setflags(write=False)
        return table

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Levels in rising order, their codes, and the midpoints between neighbours."""
        codes = np.array([c for c in range(len(self.levels)) if c not in self.reserved], dtype=np.uint8)
        order = np.argsort(self.table[codes], kind="stable")
        codes = codes[order]
        levels = self.table[codes]
        return levels, codes, (levels[1:] + levels[:-1]) / 2

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """Codes (uint8) of the levels nearest to ``values`` (any shape, unit scale, no NaN).

        A tie goes to the upper level; values beyond the ends go to the ends.
        """
        values = np.asarray(values)
        if np.isnan(values).any():
            raise ValueError(f"format {self.name!r}: cannot encode NaN")
        _, codes, thresholds = self._sorted
        return codes[np.searchsorted(thresholds, values, side="right")]

    def encode(self, levels: np.ndarray) -> np.ndarray:
        """Codes (uint8) of exact integer ``levels``; ValueError names the first that is not in the set."""
        levels = np.asarray(levels)
        codes = self.nearest(levels)
        wrong = self.table[codes] != levels
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"format {self.name!r}: {levels[at]} at index {at} is no level; allowed: {sorted(self.valid_levels)}"
            )
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Levels (int64) of ``codes``; ValueError for a code outside the table or a reserved one."""
        codes = np.asarray(codes)
        self.check(codes)
        return self.table[codes]

    def check(self, codes: np.ndarray) -> None:
        """Refuse (ValueError) a code outside the table or a reserved one."""
        if codes.size and int(codes.max()) >= len(self.levels):
            raise ValueError(f"format {self.name!r}: code {int(codes.max())} does not fit {self.bits} bits")
        for code in self.reserved:
            found = codes == code
            if found.any():
                at = tuple(int(i) for i in np.unravel_index(int(found.argmax()), codes.shape))
                raise ValueError(f"format {self.name!r}: reserved code {code} at index {at}")


def _signed(name: str, bits: int, magnitudes: list[int], used_by: str) -> ShiftFormat:
    """Sign bit above an index into ``magnitudes``; a negative zero is reserved."""
    negative = [-m for m in magnitudes]
    reserved = (len(magnitudes),) if magnitudes[0] == 0 else ()
    return ShiftFormat(name, bits, tuple(magnitudes + negative), reserved, used_by)


def _uniform(bits: int) -> ShiftFormat:
    """Symmetric two's complement; the most negative code is reserved so that a channel can change sign."""
    half = 1 << (bits - 1)
    levels = [*range(half), 0, *range(1 - half, 0)]
    return ShiftFormat(f"int{bits}", bits, tuple(levels), (half,), "uniform baseline, sensitive layers")


def _powers(count: int) -> list[int]:
    return [1 << k for k in range(count)]


FORMATS: dict[str, ShiftFormat] = {
    f.name: f
    for f in (
        _signed("pot1", 1, [1], "binary (sign only)"),
        _signed("pot2", 2, [0, *_powers(1)], "ternary, DeepShift-PS-2, S3-2, INQ-2, APoT-2"),
        _signed("pot2d", 2, _powers(2), "DenseShift-2, DeepShift-Q-2"),
        _signed("pot3", 3, [0, *_powers(3)], "S3-3, DeepShift-PS-3, INQ-3, APoT-3"),
        _signed("pot3d", 3, _powers(4), "DenseShift-3, DeepShift-Q-3"),
        _signed("pot4", 4, [0, *_powers(7)], "S3-4, DeepShift-PS-4, INQ-4"),
        _signed("pot4d", 4, _powers(8), "DenseShift-4, DeepShift-Q-4"),
        _signed("pot4x2", 4, [1, 2, 3, 4, 6, 8, 12, 16], "two-term sums (ours)"),
        _signed("apot4", 4, [0, 1, 2, 3, 4, 6, 8, 10], "APoT-4"),
        _signed("apot5", 5, [0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48], "APoT-5"),
        _signed("pot5", 5, [0, *_powers(15)], "DeepShift-PS-5, INQ-5"),
        _signed("pot5d", 5, _powers(16), "DeepShift-Q-5"),
        _signed("pot6", 6, [0, *_powers(31)], "DeepShift-PS-6, float activations only"),
        _signed("pot6d", 6, _powers(32), "DeepShift-Q-6, float activations only"),
        *(_uniform(b) for b in range(2, 9)),
    )
}


def get_format(name: str) -> ShiftFormat:
    """The format called ``name``; ValueError lists the near misses and what exists."""
    try:
        return FORMATS[name]
    except KeyError:
        near = difflib.get_close_matches(str(name), FORMATS, n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(f"unknown format {name!r}{hint} Known formats: {', '.join(FORMATS)}") from None
