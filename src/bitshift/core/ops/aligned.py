"""Bound and cost of add and requantize: shifts to the finest grid, a sum, one rounding shift."""

from __future__ import annotations

from collections.abc import Sequence

from bitshift.core.arith import Clamp, alignment, half, limits
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Range, fixed, result
from bitshift.core.ops.rules import clamp_of


def clipped(raw: tuple[int, int], out: FixedPoint, clamp: Clamp) -> tuple[int, int]:
    """``raw`` after saturation to ``out`` and ``clamp``."""
    lo, hi = limits(out, clamp)
    return min(max(raw[0], lo), hi), max(min(raw[1], hi), lo)


def sum_bound(ranges: Sequence[tuple[int, int]], fracs: Sequence[int], out: FixedPoint, clamp: Clamp) -> Bound:
    """Bound of the rounded sum of values in ``ranges`` on the grids of ``fracs``."""
    ups, down = alignment(tuple(fracs), out.frac)
    lo = sum(r[0] << up for r, up in zip(ranges, ups, strict=True))
    hi = sum(r[1] << up for r, up in zip(ranges, ups, strict=True))
    size = sum(max(abs(r[0]), abs(r[1])) << up for r, up in zip(ranges, ups, strict=True))
    raw = (lo + half(down)) >> down, (hi + half(down)) >> down
    return Bound(range=clipped(raw, out, clamp), raw=raw, total=size + half(down))


def align_bound(node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
    """Bound of the sum of all inputs of ``node``."""
    known = [r for r in ranges if r is not None]
    if len(known) != len(ranges):
        return Bound(range=None)
    fracs = [fixed(graph.values[name]).frac for name in node.inputs]
    return sum_bound(known, fracs, fixed(result(node, graph)), clamp_of(node))


def align_cost(node: Node, graph: Graph) -> Cost:
    """Shifts of every input and of the rounding, the half step, the saturation; the sum itself is not counted."""
    size = result(node, graph).size
    ups, down = alignment(tuple(fixed(graph.values[n]).frac for n in node.inputs), fixed(result(node, graph)).frac)
    return Cost(
        shifts=size * (sum(up > 0 for up in ups) + (down > 0)),
        adds=size * (down > 0),
        comparisons=2 * size,
        requantisations=size,
    )
