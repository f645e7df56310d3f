"""The rounding of the arithmetic contract in C: shifted terms, an offset, one right shift, a clamp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bitshift.backends.c99.layer import Layer, Port
from bitshift.backends.c99.text import Lines, Vector, literal, unsigned

INT32 = -(1 << 31), (1 << 31) - 1
WIDE_NEEDS = frozenset({"bs_wide_shl", "bs_wide_add", "bs_wide_sar"})
Amount = int | str


def clamped(lo: int, hi: int, variable: str = "v") -> Lines:
    """``variable`` (int32_t) brought into ``lo..hi``; a limit that no int32 passes costs nothing."""
    span = hi - lo
    if lo <= 0 < hi and span & (span + 1) == 0 and lo in (0, ~hi):
        # All bits below one are allowed, so that one comparison finds both sides.
        inside = f"(uint32_t){variable}" if lo == 0 else f"(uint32_t){variable} + {unsigned(-lo)}"
        end = f"~BS_SAR({variable}, 31) & {literal(hi)}" if lo == 0 else f"BS_SAR({variable}, 31) ^ {literal(hi)}"
        return [f"if ({inside} > {unsigned(span)}) {{ {variable} = {end}; }}"] if span < (1 << 32) - 1 else []
    lines = []
    if lo > INT32[0]:
        lines.append(f"if ({variable} < {literal(lo)}) {{ {variable} = {literal(lo)}; }}")
    if hi < INT32[1]:
        lines.append(f"if ({variable} > {literal(hi)}) {{ {variable} = {literal(hi)}; }}")
    return lines


def _shifted(expression: str, amount: Amount, *, cast: bool = True) -> str:
    word = f"(uint32_t){expression}" if cast else expression
    if isinstance(amount, str):
        return f"{word} << {amount}"
    return f"{word} << {min(amount, 31)}" if amount else word


def rounded(
    terms: Sequence[tuple[str, Amount]], offset: int | tuple[str, str], shift: Amount, lo: int, hi: int, *, wide: bool
) -> Lines:
    """Defines ``int32_t v = clamp((sum(term << amount) + offset) >> shift)``.

    Args:
        terms: expressions that are names or elements, of any integer type up to 32 bits, and their left shifts.
        offset: a constant, or the names (high, low) of its halves; low alone counts where not ``wide``.
        shift: the right shift, a number or a name.
        lo: least value of the clamp; saturation included.
        hi: its largest.
        wide: 64 bits are needed; the text then uses :data:`WIDE_NEEDS`.
    """
    if wide:
        high, low = (unsigned(offset >> 32), unsigned(offset)) if isinstance(offset, int) else offset
        first, *rest = terms
        lines = [f"bs_wide w = bs_wide_shl((int32_t){first[0]}, {first[1]});"]
        for expression, amount in rest:
            lines += [f"const bs_wide w{len(lines)} = bs_wide_shl((int32_t){expression}, {amount});"]
            lines += [f"w = bs_wide_add(w, w{len(lines) - 1}.hi, w{len(lines) - 1}.lo);"]
        if offset != 0 or not rest:  # so that every function of WIDE_NEEDS is called
            lines.append(f"w = bs_wide_add(w, {high}, {low});")
        return [*lines, f"int32_t v = bs_wide_sar(w, {shift});", *clamped(lo, hi)]
    repeated = len({term[0] for term in terms}) < len(terms)
    lines = [f"uint32_t u = {_shifted(*terms[0])};"]
    for i, (expression, amount) in enumerate(terms[1:], 1):
        # A name of its own: GCC's undefined-behaviour checks warn of the conversion inside of a sum.
        lines += [f"const uint32_t u{i} = (uint32_t){expression};", *(["BS_OPAQUE(u);"] if repeated else [])]
        lines.append(f"u += {_shifted(f'u{i}', amount, cast=False)};")
    if isinstance(offset, tuple):
        lines.append(f"u += {offset[1]};")
    elif offset:
        lines.append(f"u += {unsigned(offset)};")
    lines.append("int32_t v = (int32_t)u;")
    if shift != 0:
        lines.append(f"v = BS_SAR(v, {min(shift, 31) if isinstance(shift, int) else shift});")
    return [*lines, *clamped(lo, hi)]


def simplified(
    mult: np.ndarray, offset: np.ndarray, shift: np.ndarray, res_shift: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """The same function of accumulator and residual with the smallest left shifts: all int64, ``mult`` powers of two.

    ``(a * 2**m + b) >> s`` is ``(a * 2**(m-c) + (b >> c)) >> (s-c)`` for every ``c`` up to m and s: what lies under
    the ``2**c`` of ``b`` never carries.
    """
    left = np.array([int(m).bit_length() - 1 for m in mult], dtype=np.int64)
    common = np.minimum(left, shift)
    if res_shift is not None:
        common = np.minimum(common, res_shift)
        res_shift = res_shift - common
    return np.int64(1) << (left - common), offset >> common, shift - common, res_shift


@dataclass(frozen=True)
class Rule4:
    """Rule 4 of a layer by output channel: its tables, what stands before the loop, in it, and at each output."""

    name: str
    mult: np.ndarray
    offset: np.ndarray
    shift: np.ndarray
    res_shift: np.ndarray
    lo: int
    hi: int
    wide: bool
    residual: Port | None = None

    @classmethod
    def of(cls, layer: Layer, *, offset: np.ndarray | None = None) -> Rule4:
        """Rule 4 of ``layer``, with another ``offset`` where one is given."""
        offset = layer.offset if offset is None else offset
        return cls(
            layer.name, layer.mult, offset, layer.shift, layer.res_shift, layer.lo, layer.hi, layer.wide, layer.residual
        )

    @cached_property
    def _vectors(self) -> list[Vector]:
        left = np.array([int(m).bit_length() - 1 for m in self.mult], dtype=np.int64)
        most = 62 if self.wide else 31
        found = []
        if left.any():
            found.append(Vector("left", self.name, left, "uint8_t"))
        if self.wide:
            found.append(Vector("high", self.name, (self.offset >> 32) % (1 << 32), "uint32_t"))
            found.append(Vector("low", self.name, self.offset % (1 << 32), "uint32_t"))
        elif self.offset.any():
            found.append(Vector("low", self.name, self.offset, "uint32_t"))
        if self.shift.any():
            found.append(Vector("right", self.name, np.minimum(self.shift, most), "uint8_t"))
        if self.residual is not None and self.res_shift.any():
            found.append(Vector("res_left", self.name, np.minimum(self.res_shift, most), "uint8_t"))
        return found

    @property
    def text(self) -> Lines:
        """Definitions of the tables."""
        return [line for vector in self._vectors for line in vector.text]

    @property
    def table_bytes(self) -> int:
        """Bytes of the tables."""
        return sum(vector.table_bytes for vector in self._vectors)

    @property
    def needs(self) -> frozenset[str]:
        """Helpers that the text calls."""
        return WIDE_NEEDS if self.wide else frozenset()

    @property
    def begin(self) -> Lines:
        """Before the loop over channels: pointers into the tables."""
        return [line for vector in self._vectors for line in vector.begin]

    def load(self, index: str = "") -> Lines:
        """At the top of a channel, or for the channel ``index``: its constants."""
        return [line for vector in self._vectors for line in vector.load(index)]

    def finish(self, acc: str, residual: str = "") -> Lines:
        """Defines ``int32_t v``, the output, from the names of the accumulator and of the residual's element."""
        names = {vector.name for vector in self._vectors}
        terms: list[tuple[str, Amount]] = [(acc, "left" if "left" in names else 0)]
        if self.residual is not None:
            terms.append((residual, "res_left" if "res_left" in names else 0))
        offset: int | tuple[str, str] = ("high", "low") if "low" in names else 0
        return rounded(terms, offset, "right" if "right" in names else 0, self.lo, self.hi, wide=self.wide)
