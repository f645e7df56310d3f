"""What the straight-line kernel is to do: which cells a load serves, and how many planes share an accumulator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from bitshift.backends.c99 import cost
from bitshift.backends.c99.kernels.geometry import Geometry, geometry, rows_of, tall
from bitshift.backends.c99.kernels.image import PIXELS, Image, centred_offset, lanes_across
from bitshift.backends.c99.layer import Layer
from bitshift.backends.c99.proof import blocks, centre, cut, fits, merge, planes, starts_at
from bitshift.backends.c99.targets import Target


@dataclass(frozen=True, kw_only=True)
class Row:
    """How an output sums: blocks of weights, and in each the planes that share an accumulator."""

    digits: np.ndarray
    ends: tuple[int, ...]
    groups: tuple[tuple[range, ...], ...]
    fused: bool

    @property
    def terms(self) -> int:
        """Additions."""
        return int(np.count_nonzero(self.digits))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the text is made from: ``rows`` by output; whether a sum a plane (``by_plane``), a value that is shifted
    between the additions of ``joint`` outputs (``chained``), or shifted operands.
    """

    geo: Geometry
    image: Image
    rows: tuple[Row, ...]
    by_plane: bool
    chained: bool = False
    joint: int
    offset: np.ndarray

    @property
    def scratch(self) -> int:
        """Bytes."""
        return 0 if self.image.direct else self.image.bytes


def plan_unrolled(layer: Layer, target: Target) -> Plan | str:
    """The plan, or why there is none."""
    geo = geometry(layer)
    if geo is None:
        return "three spatial axes"
    geo = tall(geo)
    if layer.codes.size > 1 << 18:
        return f"{layer.codes.size} weights: too much code"
    small = target.word < 4
    found = []
    for lanes in (1,) if small or geo.places < 2 else (2, 1):
        # Thumb loads a signed byte by a constant offset in two instructions, a word in one: words are copied for it,
        # which a chain, with its few loads, need not pay.
        copied = bool(geo.inputs) and lanes == 1 and geo.places == 1 and target.thumb1
        for mid in dict.fromkeys((0, centre(min(layer.x.lo, 0), max(layer.x.hi, 0)))):
            if mid and lanes == 1 and not small:
                continue
            ways = {(False, copied)} if target.free_shift else {(False, copied), (True, copied), (True, False)}
            for chained, words in sorted(ways):
                made = plan_of(layer, geo, target, lanes=lanes, mid=mid, chained=chained, words=words)
                if made is not None:
                    found.append(made)
    return min(found, key=lambda plan: cost.unrolled(plan, target).cycles) if found else "levels beyond the lanes"


def plan_of(
    layer: Layer, geo: Geometry, target: Target, *, lanes: int, mid: int, chained: bool, words: bool
) -> Plan | None:
    """One way of doing it, with values ``mid`` below their activations; None where its sums do not fit."""
    small = target.word < 4
    narrow = small or lanes == 2
    bits = 16 if narrow else 32
    lo, hi = min(layer.x.lo, 0) - mid, max(layer.x.hi, 0) - mid
    cell = "int32_t" if words else layer.x.ctype if lanes == 1 and not mid else "uint32_t"
    if small and mid:
        cell = "int8_t" if layer.x.type.dtype.itemsize == 1 else "int16_t"
    across = lanes == 1 or lanes_across(geo)
    image = Image(geo=geo, lanes=lanes, across=across, rows=1, mid=mid, xtype=layer.x.ctype, cell=cell)
    image = replace(image, rows=_strip(image))
    levels = rows_of(layer.levels.astype(np.int64), geo)
    offset = centred_offset(layer, mid)
    by_plane = not target.free_shift and not chained
    common = cut(levels, lo, hi, most=geo.inputs, bits=bits) if chained else None
    if chained and common is None:
        return None
    rows = []
    for output, row in enumerate(levels):
        fuse = narrow and not layer.wide and int(layer.mult[output]) == 1
        made = _row(row, lo, hi, bits, int(offset[output]) if fuse else None, common)
        if made is None:
            return None
        rows.append(made)
    registers = 12 if target.free_shift else 22 if target.far else 5
    if chained and not target.far:
        registers = 8 if small else 6
    accumulators = max(len(r.digits) if by_plane else len(r.groups[0]) for r in rows) or 1
    joint = registers if chained else max(1, min(4, registers // accumulators))
    return Plan(geo=geo, image=image, rows=tuple(rows), by_plane=by_plane, chained=chained, joint=joint, offset=offset)


def _row(row: np.ndarray, lo: int, hi: int, bits: int, offset: int | None, common: list[int] | None) -> Row | None:
    """Blocks as long as every plane fits, then as few accumulators as the proof allows; in ``common`` blocks, whose
    sums fit, one.
    """
    digits = planes(row[None])[:, 0]
    ends = common or blocks(
        len(row),
        lambda start, end: all(fits(plane[None, start:end], lo, hi, bits) for plane in digits),
        most=len(row),
        shorter=lambda length: length // 2,
    )
    if ends is None:
        return None
    if common:
        groups = ((range(len(digits)),) if len(digits) else (),) * len(ends)
    else:
        groups = tuple(tuple(merge(digits[:, a:b], lo, hi, bits) or ()) for a, b in pairwise((0, *ends))) or ((),)
    fused = False
    if offset is not None and len(ends) == 1 and len(groups[0]) == 1 and groups[0][0].start == 0:
        fused = starts_at(row[None], lo, hi, np.array([offset]), bits)
    return Row(digits=digits, ends=tuple(ends), groups=groups, fused=fused)


def _strip(image: Image) -> int:
    """Rows of a strip: few, as long as the copies of shared rows stay cheap."""
    rows, columns = image.pairs
    if image.tall:
        return rows if image.direct else min(rows, PIXELS)
    if image.geo.groups > 1:
        want = max(1, -(-128 // columns))
        return -(-rows // max(1, rows // want))
    want = 1 if image.direct or image.geo.kernel[0] == 1 else 2
    strips = max(1, rows // want)
    return -(-rows // strips)


__all__ = ["Plan", "Row", "plan_of", "plan_unrolled"]
