"""Ops that move elements: copies, concat, pad, slice, transpose, upsample."""

from __future__ import annotations

import math
from collections.abc import Callable

from bitshift.backends.c99.layer import Code
from bitshift.backends.c99.ops.base import Site, each, function
from bitshift.backends.c99.rule4 import WIDE_NEEDS, rounded
from bitshift.backends.c99.text import Lines, indent, literal, pitches, walk
from bitshift.core.arith import alignment, half
from bitshift.core.ops.aligned import sum_bound


def _plain(a: str, b: str) -> Lines:
    return [f"y[{b}] = x[{a}];"]


def copy(site: Site) -> Code:
    """The elements as they lie: an output that is an input, or another output, in another shape."""
    return Code(text=function(site, walk([(site.y.size, 1, 1)], _plain)))


def transpose(site: Site) -> Code:
    """Axes in another order."""
    steps = pitches(site.xs[0].shape)
    walked = [steps[axis] for axis in site.node.attrs["perm"]]
    dims = list(zip(site.y.shape, walked, pitches(site.y.shape), strict=True))
    return Code(text=function(site, walk(dims, _plain)))


def crop(site: Site) -> Code:
    """A strided part."""
    attrs, steps = site.node.attrs, pitches(site.xs[0].shape)
    walked = [pitch * step for pitch, step in zip(steps, attrs["step"], strict=True)]
    dims = list(zip(site.y.shape, walked, pitches(site.y.shape), strict=True))
    first = sum(pitch * start for pitch, start in zip(steps, attrs["start"], strict=True))
    return Code(text=function(site, walk(dims, _plain, x=first)))


def pad(site: Site) -> Code:
    """The constant everywhere, then the value in its middle."""
    attrs, steps = site.node.attrs, pitches(site.y.shape)
    fill = each(site.y.size, [f"y[n] = {literal(attrs['value'])};"])
    first = sum(pitch * before for pitch, (before, _) in zip(steps, attrs["padding"], strict=True))
    dims = list(zip(site.xs[0].shape, pitches(site.xs[0].shape), steps, strict=True))
    return Code(text=function(site, [*fill, *walk(dims, _plain, y=first)]))


def upsample(site: Site) -> Code:
    """Every element ``factor`` times along each spatial axis."""
    shape, factors = site.xs[0].shape, (1, *site.node.attrs["factor"])
    dims = []
    for size, factor, x, y in zip(shape, factors, pitches(shape), pitches(site.y.shape), strict=True):
        dims += [(size, x, factor * y), (factor, 0, y)]
    return Code(text=function(site, walk(dims, _plain)))


def concat(site: Site) -> Code:
    """Each input in turn to its place along the axis, brought to the output's grid."""
    axis, out = site.node.attrs["axis"], site.y
    before, inner = math.prod(out.shape[:axis]), math.prod(out.shape[axis + 1 :])
    body, needs, first = [], frozenset(), 0
    for i, port in enumerate(site.xs):
        wide = port.type != out.type and not sum_bound([(port.lo, port.hi)], [port.type.frac], out.type, None).fits32
        if wide:
            needs |= WIDE_NEEDS
        chunk = port.shape[axis] * inner
        dims = [(before, chunk, out.shape[axis] * inner), (chunk, 1, 1)]
        body += ["{", *indent(walk(dims, _brought(site, i, wide=wide), y=first)), "}"]
        first += chunk
    return Code(text=function(site, body), needs=needs)


def _brought(site: Site, index: int, *, wide: bool) -> Callable[[str, str], Lines]:
    """The body that moves an element of input ``index`` to the output's type."""
    port, out, name = site.xs[index], site.y, f"x{index}" if index else "x"
    if port.type == out.type:
        return lambda a, b: [f"y[{b}] = {name}[{a}];"]
    (up,), down = alignment((port.type.frac,), out.type.frac)

    def move(a: str, b: str) -> Lines:
        lines = rounded([(f"{name}[{a}]", up)], half(down), down, *site.limits, wide=wide)
        return [*lines, f"y[{b}] = ({out.ctype})v;"]

    return move
