"""Ops whose output depends on the elements of one place: add, requantize, clamp, rescale, table."""

from __future__ import annotations

import math

import numpy as np

from bitshift.backends.c99.layer import Code
from bitshift.backends.c99.ops.base import Site, each, function, rule4, store
from bitshift.backends.c99.rule4 import WIDE_NEEDS, clamped, rounded
from bitshift.backends.c99.text import indent, loop, narrowest, read, table
from bitshift.core.arith import alignment, half
from bitshift.core.fixed import is_power_of_two


def aligned(site: Site) -> Code:
    """``add`` and ``requantize``: inputs brought to the finest grid, summed, rounded once."""
    ups, down = alignment(tuple(x.type.frac for x in site.xs), site.y.type.frac)
    names = ["x[n]", "x1[n]"][: len(site.xs)]
    terms = list(zip(names, ups, strict=True))
    body = [*rounded(terms, half(down), down, *site.limits, wide=site.wide), store(site)]
    return Code(
        text=function(site, each(site.y.size, body)),
        needs=WIDE_NEEDS if site.wide else frozenset(),
        in_place=frozenset(range(len(site.xs))),
    )


def clamp(site: Site) -> Code:
    """Limits, in place where nobody else reads the input."""
    lo, hi = site.node.attrs["lo"], site.node.attrs["hi"]
    ends = site.y.type.lo if lo is None else lo, site.y.type.hi if hi is None else hi
    # A limit that the input's range keeps by itself needs no comparison.
    ends = ends[0] if ends[0] > site.xs[0].lo else -(1 << 31), ends[1] if ends[1] < site.xs[0].hi else 1 << 31
    body = ["int32_t v = x[n];", *clamped(*ends), store(site)]
    return Code(text=function(site, each(site.y.size, body)), in_place=frozenset({0}))


def rescale(site: Site) -> Code:
    """``(x * mult + offset) >> shift`` by channel of axis 0; ``mult`` is a power of two, as checked before."""
    shape = site.xs[0].shape
    channels = shape[0] if shape else 1
    rule = rule4(site, channels, max(abs(site.xs[0].lo), abs(site.xs[0].hi)))
    inner = math.prod(shape) // channels
    per_channel = [
        "BS_OPAQUE(at);",
        *rule.load(),
        *loop("n", inner, ["at++"], [*rule.finish("x[at]"), store(site, "at")]),
    ]
    if inner == 1:
        per_channel.append("at++;")
    if channels == 1:
        per_channel = ["{", *indent(per_channel), "}"]
    body = [*rule.begin, "size_t at = 0;", *loop("c", channels, [], per_channel)]
    return Code(
        text=function(site, body, tables=rule.text), needs=rule.needs, table_bytes=rule.table_bytes,
        in_place=frozenset({0}),
    )  # fmt: skip


def lookup(site: Site) -> Code:
    """A table of one entry for each integer of the input's type."""
    values = site.graph.const(site.node, "table").astype(np.int64)
    ctype, size = narrowest(values)
    name, lo = f"{site.name}_table", site.xs[0].type.lo
    index = f"(uint8_t)(x[n] + {-lo})" if lo else "x[n]"
    entry = [f"size_t i = {index};", "BS_OPAQUE(i);", f"y[n] = ({site.y.ctype}){read(ctype, f'{name} + i')};"]
    body = each(site.y.size, entry)
    return Code(
        text=function(site, body, tables=table(name, values, ctype)), table_bytes=size * values.size,
        in_place=frozenset({0}),
    )  # fmt: skip


def check_powers(site: Site, mult: np.ndarray) -> None:
    """Refuse a multiplier that is no power of two."""
    wrong = ~is_power_of_two(mult)
    if wrong.any():
        at = int(wrong.argmax())
        raise site.refuse(
            f"mult is {int(mult[at])} for channel {at}, which is no power of two and needs a multiplication",
            "train or convert with multiplier=False (the command line: without --multiplier True), so that the norm is "
            "a shift, and export again",
        )
