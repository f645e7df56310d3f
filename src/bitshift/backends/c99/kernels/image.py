"""The lane image: rows of a layer's input, with the padding, channels last, two pixels a word where they fit.

A word is ``a + 65536*b``: pixel ``a`` and the one half the output further, right or down, which meets the same weights.
Additions and shifts of the word are those of both pixels (:mod:`~bitshift.backends.c99.proof`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bitshift.backends.c99.kernels.geometry import Geometry
from bitshift.backends.c99.layer import Layer
from bitshift.backends.c99.text import Lines, counter, indent, unsigned
from bitshift.core.windows import extent

PIXELS = 8
"""Cells of a strip of a column of pixels: whole tiles of every kernel."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A strip of the input as the kernels read it.

    Args:
        lanes: pixels a cell: 2, or 1.
        across: two lanes are half a row apart, else half the rows.
        rows: rows of pairs in a strip.
        mid: what every cell lies below its activation (:func:`~bitshift.backends.c99.proof.centre`).
        xtype, cell: C types of an activation and of a cell.
    """

    geo: Geometry
    lanes: int
    across: bool
    rows: int
    mid: int
    xtype: str
    cell: str

    @property
    def pairs(self) -> tuple[int, int]:
        """Rows and columns of cells that an output channel needs."""
        height, width = self.geo.out
        if self.lanes == 1:
            return height, width
        return (height, -(-width // 2)) if self.across else (-(-height // 2), width)

    @property
    def tall(self) -> bool:
        """Whether it is a column of pixels that are read one by one (:func:`~.geometry.tall`)."""
        return self.geo.groups == 1 and self.geo.pointwise and self.geo.out[1] == 1

    @property
    def strips(self) -> int:
        """Strips of the layer."""
        return -(-self.pairs[0] // self.rows)

    @property
    def high(self) -> tuple[int, int]:
        """Rows and columns of the input from one lane to the other."""
        if self.lanes == 1:
            return 0, 0
        rows, columns = self.pairs
        return (0, columns * self.geo.stride[1]) if self.across else (rows * self.geo.stride[0], 0)

    @property
    def high_out(self) -> int:
        """Elements of the output from one lane to the other."""
        rows, columns = self.pairs
        return columns * self.geo.y_step[2] if self.across else rows * self.geo.y_step[1]

    @property
    def odd(self) -> bool:
        """Whether the last cell of a row, or the last row, has one pixel only."""
        return self.lanes == 2 and self.geo.out[1 if self.across else 0] % 2 == 1

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the image."""
        geo = self.geo
        return (
            (self.rows - 1) * geo.stride[0] + extent(geo.kernel[0], geo.dilation[0]),
            (self.pairs[1] - 1) * geo.stride[1] + extent(geo.kernel[1], geo.dilation[1]),
        )

    @property
    def row(self) -> int:
        """Cells of a row."""
        return self.size[1] * self.geo.channels

    @property
    def cells(self) -> int:
        """Cells of the image."""
        return self.size[0] * self.row

    @property
    def bytes(self) -> int:
        """Bytes of the image, rounded up to whole words."""
        width = {"8": 1, "16": 2, "32": 4}[self.cell.removesuffix("_t").removeprefix("u").removeprefix("int")]
        return -(-self.cells * width // 4) * 4

    @property
    def direct(self) -> bool:
        """Whether the input itself lies as the image would: no copy is made."""
        geo = self.geo
        flat = geo.kernel == (1, 1) and geo.x_step[0] == 1 and not geo.padded
        return self.lanes == 1 and not self.mid and self.cell == self.xtype and flat

    def taps(self) -> list[int]:
        """Place of every weight's cell from that of the pair's first one: rows, columns, channels of the kernel."""
        geo = self.geo
        row, column = (geo.x_step[1], geo.x_step[2]) if self.direct else (self.row, geo.channels)
        return [
            y * geo.dilation[0] * row + x * geo.dilation[1] * column + c
            for y in range(geo.kernel[0])
            for x in range(geo.kernel[1])
            for c in range(geo.channels)
        ]

    @property
    def step(self) -> tuple[int, int]:
        """Cells from one pair to the next: a row down, a column right."""
        geo = self.geo
        if self.direct:
            return geo.x_step[1] * geo.stride[0], geo.x_step[2] * geo.stride[1]
        return self.row * geo.stride[0], geo.channels * geo.stride[1]

    def segments(self) -> list[tuple[int, bool, bool]]:
        """Columns of a row from left to right: how many, and whether each lane lies inside the input."""
        width, columns, left, apart = self.geo.size[1], self.size[1], self.geo.before[1], self.high[1]
        first = (left, left + width)
        second = (left - apart, left - apart + width)
        edges = sorted({0, columns, *(min(max(edge, 0), columns) for edge in (*first, *second))})
        return [
            (b - a, first[0] <= a < first[1], self.lanes == 2 and second[0] <= a < second[1])
            for a, b in pairwise(edges)
        ]

    def text(self, name: str) -> Lines:
        """The function that fills a strip: ``name(cells, x, y, at)``, ``y`` its first row and ``at`` that row's place.

        Both may be negative, outside the input; ``at`` is in elements of ``x``.
        """
        if self.tall:
            return self._pixels(name)
        geo, (down, right) = self.geo, self.high
        _, row_step, column_step = geo.x_step
        start = max(0, right - geo.before[1])
        inside = self._always_inside()
        low = ("a", "y", 0, 0)
        lanes = [low] if self.lanes == 1 else [low, ("b", f"(y + {down})" if down else "y", down, start)]
        used = {lane for _, *there in self.segments() for lane, inside_ in zip("ab", there, strict=True) if inside_}
        lanes = [lane for lane in lanes if lane[0] in used]
        body: Lines = []
        for lane, y, below, columns in lanes:
            place = f"x + (at + {below * row_step + columns * column_step})" if below or columns else "x + at"
            if inside:
                body.append(f"const {self.xtype} *{lane}0 = {place};")
            else:
                body += [
                    f"const int {lane}_in = {y} >= 0 && {y} < {geo.size[0]};",
                    f"const {self.xtype} *{lane}0 = {lane}_in ? {place} : &zero;",
                    f"const ptrdiff_t {lane}_step = {lane}_in ? {column_step} : 0;",
                    f"const ptrdiff_t {lane}_next = {lane}_in ? {geo.x_step[0]} : 0;",
                ]
        channel: Lines = [f"const {self.xtype} *{lane} = {lane}0;" for lane, *_ in lanes]
        channel.append(f"{self.cell} *d = cells;")
        for count, first, second in self.segments():
            channel += self._segment(count, first, second, inside)
        channel += [f"{lane}0 += {geo.x_step[0] if inside else f'{lane}_next'};" for lane, *_ in lanes]
        channel.append("cells++;")
        if geo.channels > 1:
            body += [f"for (c = {geo.channels}; c != 0; c--) {{", *indent(channel), "}"]
        else:
            body += ["{", *indent(channel), "}"]
        body += [f"cells += {self.row - geo.channels};"] if self.row != geo.channels else []
        body += [*([] if inside else ["y++;"]), f"at += {row_step};"]
        counters = [f"{counter(self.size[0])} r;"]
        if geo.channels > 1:
            counters.append(f"{counter(geo.channels)} c;")
        if (longest := max(count for count, *_ in self.segments())) > 2:
            counters.append(f"{counter(longest)} n;")
        zero = [] if inside or not lanes else [f"const {self.xtype} zero = 0;"]
        lines = [*zero, *counters, f"for (r = {self.size[0]}; r != 0; r--) {{", *indent(body), "}"]
        unused = [*(["(void)y;"] if inside else []), *([] if lanes else ["(void)x;"])]
        head = f"static void {name}({self.cell} *cells, const {self.xtype} *x, ptrdiff_t y, ptrdiff_t at)"
        return [head, "{", *indent([*lines, *unused]), "}"]

    def _pixels(self, name: str) -> Lines:
        """The function for a column of pixels: channel by channel, as a channel's pixels lie at one distance."""
        geo, cells = self.geo, self.pairs[0]
        apart, along, _ = geo.x_step
        lone = self.odd and "y + (ptrdiff_t)count == " + str(cells)
        short = cells % self.rows != 0
        lines = [f"const {self.xtype} *a0 = x + at;"]
        lanes = ["a", "b"][: self.lanes]
        if self.lanes == 2:
            lines.append(f"const {self.xtype} *b0 = x + (at + {cells * along});")
        kind = counter(self.rows)
        rows = f"y > {cells - self.rows} ? ({kind})({cells} - y) : {self.rows}" if short else str(self.rows)
        lines.append(f"{kind} count = {rows};")
        if lone:
            lines += [f"const int lone = {lone};", f"count = ({kind})(count - (lone ? 1 : 0));"]
        one = [f"*d = {self._value(first=True, second=self.lanes == 2)};", f"d += {geo.channels};"]
        one += [f"{lane} += {along};" for lane in lanes]
        wide = next((k for k in (4, 3, 2) if self.rows % k == 0), 1)
        turns, body = (f"{self.rows // wide}", one * wide) if not short and not lone else ("count", one)
        channel = [*(f"const {self.xtype} *{lane} = {lane}0;" for lane in lanes), f"{self.cell} *d = cells;"]
        channel += body if turns == "1" else [f"for (n = {turns}; n != 0; n--) {{", *indent(body), "}"]
        if lone:
            channel.append(f"if (lone) {{ *d = {self._value(first=True, second=False)}; }}")
        channel += [*(f"{lane}0 += {apart};" for lane in lanes), "cells++;"]
        both = counter(max(geo.channels, self.rows))
        lines += [f"{both} c;"] if turns == "1" else [f"{both} c, n;"]
        lines += [f"for (c = {geo.channels}; c != 0; c--) {{", *indent(channel), "}"]
        head = f"static void {name}({self.cell} *cells, const {self.xtype} *x, ptrdiff_t y, ptrdiff_t at)"
        return [head, "{", *indent([*lines, "(void)y;", "(void)count;"]), "}"]

    def _value(self, *, first: bool, second: bool) -> str:
        """The cell of the lanes that lie inside the input."""
        terms = [part for part, there in (("(uint32_t)*a", first), ("((uint32_t)*b << 16)", second)) if there]
        if self.lanes == 1 and not self.mid:
            return "*a" if first else "0"
        shift = -self.mid * (0x10001 if self.lanes == 2 else 1)
        value = " + ".join([*terms, *([unsigned(shift)] if shift or not terms else [])])
        return value if self.cell == "uint32_t" else f"({self.cell})({value})"

    def _segment(self, count: int, first: bool, second: bool, inside: bool) -> Lines:
        """``count`` columns; ``first`` and ``second`` say which lanes lie inside."""
        value = self._value(first=first, second=second)
        column = self.geo.x_step[2]
        one = [f"*d = {value};", f"d += {self.geo.channels};"]
        for lane, there in (("a", first), ("b", second)):
            if there:
                one += [f"{lane} += {column};"] if inside else [f"{lane} += {lane}_step;"]
        if count <= 2:
            return one * count
        wide = next((k for k in (4, 3, 2) if count % k == 0), 1)
        return [f"for (n = {count // wide}; n != 0; n--) {{", *indent(one * wide), "}"]

    def _always_inside(self) -> bool:
        """Whether no strip reaches over the top or the bottom of the input, in either lane."""
        last = (self.strips - 1) * self.rows * self.geo.stride[0] + self.size[0] - 1
        return self.geo.before[0] == 0 and last + self.high[0] < self.geo.size[0]


def centred_offset(layer: Layer, mid: int) -> np.ndarray:
    """Rule 4's offsets (O) for sums of cells that lie ``mid`` below their activations."""
    return layer.offset + mid * layer.levels.reshape(len(layer.levels), -1).sum(axis=1, dtype=np.int64) * layer.mult


def lanes_across(geo: Geometry) -> bool:
    """Whether halves of a row make fewer pairs, or as few, as halves of the rows."""
    height, width = geo.out
    return height * -(-width // 2) <= -(-height // 2) * width


__all__ = ["PIXELS", "Image", "centred_offset", "lanes_across"]
