"""What the packed kernel is to do: how a layer's pixels, weights and sums are cut, and what is proved of each part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from bitshift.backends.c99 import cost
from bitshift.backends.c99.kernels.geometry import Geometry, geometry, rows_of, tall
from bitshift.backends.c99.kernels.image import PIXELS, Image, centred_offset, lanes_across
from bitshift.backends.c99.layer import Layer
from bitshift.backends.c99.proof import centre, cut, fits, starts_at
from bitshift.backends.c99.symbols import Symbols
from bitshift.backends.c99.targets import Target


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the text is made from.

    Args:
        ends: of the blocks of weights that share a table.
        held: for each block, whether the lanes hold its sums together with those of the next one; else they are added
            to 32-bit sums behind it.
        offset: rule 4's, for the image's cells.
        fused: whether lanes begin at the offset, so that nothing is added behind them.
    """

    geo: Geometry
    image: Image
    symbols: Symbols
    ends: tuple[int, ...]
    held: tuple[bool, ...]
    offset: np.ndarray
    fused: bool

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """First and last of each block's weights."""
        return list(pairwise((0, *self.ends)))

    @property
    def longest(self) -> int:
        """Weights of the longest block."""
        return max(b - a for a, b in self.blocks)

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Full boxes and symbols of the rest, by block."""
        return [divmod((b - a) // self.symbols.codes, self.symbols.a_box) for a, b in self.blocks]

    @property
    def spills(self) -> int:
        """Times that lanes are added to 32-bit sums."""
        return self.held[:-1].count(False)

    @property
    def table_words(self) -> int:
        """32-bit words of the table."""
        return -(-self.longest // self.symbols.codes) * self.symbols.row // 4

    @property
    def image_words(self) -> int:
        """32-bit words of the image."""
        return 0 if self.image.direct else self.image.bytes // 4

    @property
    def sum_words(self) -> int:
        """32-bit words of the sums in lanes: they wait in memory if there is more than one block."""
        entries = self.geo.outputs * self.symbols.pairs if len(self.ends) > 1 else 0
        return -(-entries * self.symbols.word // 32)

    @property
    def parts(self) -> int:
        """32-bit sums of a tile."""
        return self.geo.outputs * self.symbols.pairs * self.image.lanes if self.spills else 0

    @property
    def scratch(self) -> int:
        """Bytes."""
        return 4 * (self.image_words + self.table_words + self.sum_words + self.parts)

    def runs(self) -> list[list[tuple[int, int]]]:
        """For each block: places of the cells that lie side by side, and how many."""
        taps, blocks = self.image.taps(), []
        for start, end in self.blocks:
            runs: list[tuple[int, int]] = []
            for k in range(start, end):
                if runs and taps[k] == sum(runs[-1]):
                    runs[-1] = (runs[-1][0], runs[-1][1] + 1)
                else:
                    runs.append((taps[k], 1))
            blocks.append(runs)
        return blocks


TABLE = {4: 4096, 2: 2560, 1: 1280}
"""Most bytes of a table by pairs on cores with 32-bit registers; a quarter of it on others."""


def plan_packed(layer: Layer, target: Target, pairs: int) -> Plan | str:
    """The plan for ``pairs`` cells a look-up, or why there is none."""
    geo = geometry(layer)
    if geo is None:
        return "three spatial axes"
    geo = tall(geo)
    if layer.format.bits > 5:
        return f"codes of {layer.format.bits} bits: a table would have {1 << layer.format.bits} entries for each input"
    if geo.outputs < 4:
        return f"{geo.outputs} outputs a group: the table of products would serve too few"
    places = geo.places
    if pairs > 1 and places < pairs * 2:
        return f"{places} pixels: too few for {pairs} pairs at a time"
    small = target.word < 4
    if small and pairs > 1:
        return f"{pairs} pairs a look-up need 32-bit registers"
    found = []
    for lanes in (1,) if small or places < 2 else (2, 1):
        for mid in dict.fromkeys((0, centre(min(layer.x.lo, 0), max(layer.x.hi, 0)))):
            made = _blocks(layer, geo, pairs, lanes, mid, small=small, far=target.far)
            if made is not None:
                found.append(made)
    if not found:
        return "the table of one input is too large"
    return min(found, key=lambda plan: (cost.packed(layer, plan, target).cycles, plan.scratch))


def _blocks(layer: Layer, geo: Geometry, pairs: int, lanes: int, mid: int, *, small: bool, far: bool) -> Plan | None:
    narrow = small or lanes == 2
    if not narrow and mid:
        return None
    word, box = (16, 8) if small else (32, 32)
    lo, hi = min(layer.x.lo, 0) - mid, max(layer.x.hi, 0) - mid
    cell = layer.x.ctype if not mid and lanes == 1 else ("int16_t" if small else "uint32_t")
    across = lanes == 1 or lanes_across(geo)
    image = Image(geo=geo, lanes=lanes, across=across, rows=1, mid=mid, xtype=layer.x.ctype, cell=cell)
    image = replace(image, rows=_strip(image))
    levels = rows_of(layer.levels.astype(np.int64), geo)
    codes = _codes_a_symbol(layer, image)
    symbols = Symbols(layer.format.name, codes, pairs, cell, word, box, far)
    room = TABLE[pairs] // (4 if small else 1) // symbols.row * codes
    most = max(codes, room)
    unit = symbols.a_box * codes if most >= symbols.a_box * codes else codes
    bits = 16 if narrow else 32
    ends = cut(levels, lo, hi, most=geo.inputs, bits=bits) if geo.inputs <= most else None
    if ends is None or len(ends) > 1:
        ends = cut(levels, lo, hi, most=most, unit=unit, bits=bits)
    if ends is None and unit > codes:
        ends = cut(levels, lo, hi, most=most, unit=codes, bits=bits)
    if ends is None:
        return None
    held = _held(levels, ends, lo, hi, bits)
    offset = centred_offset(layer, mid)
    left = bool((layer.mult != 1).any())
    small_offset = bool((abs(offset) < 1 << 20).all())
    fused = narrow and all(held) and not (left or layer.wide) and small_offset and starts_at(levels, lo, hi, offset)
    return Plan(geo=geo, image=image, symbols=symbols, ends=tuple(ends), held=held, offset=offset, fused=fused)


def _held(levels: np.ndarray, ends: list[int], lo: int, hi: int, bits: int) -> tuple[bool, ...]:
    """For each block whether lanes hold the sums of its group and the next block; the last one's are always held."""
    held, start = [], 0
    for end, following in pairwise(ends):
        held.append(fits(levels[:, start:following], lo, hi, bits))
        start = start if held[-1] else end
    return (*held, True)


def _strip(image: Image) -> int:
    """Rows of a strip: as few as keep the copies of shared rows cheap, and at least a tile's cells."""
    rows, columns = image.pairs
    if image.tall:
        return rows if image.direct else min(rows, PIXELS)
    if image.direct or image.geo.kernel[0] == 1:
        want = max(1, -(-8 // columns))
    else:
        want = max(2, -(-8 // columns))
    strips = max(1, rows // want)
    return -(-rows // strips)


def _codes_a_symbol(layer: Layer, image: Image) -> int:
    """As many codes as fit 4 bits and never straddle cells that do not lie side by side."""
    taps = np.array(image.taps())
    for count in (4, 2):
        if layer.format.bits * count > 4 or len(taps) % count:
            continue
        groups = taps.reshape(-1, count)
        if (groups == groups[:, :1] + np.arange(count)).all():
            return count
    return 1


__all__ = ["Plan", "plan_packed"]
