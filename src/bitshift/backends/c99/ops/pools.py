"""Windows without weights: max_pool and avg_pool."""

from __future__ import annotations

import math

import numpy as np

from bitshift.backends.c99.layer import Code
from bitshift.backends.c99.ops.base import Site, function, store
from bitshift.backends.c99.rule4 import WIDE_NEEDS, rounded, simplified
from bitshift.backends.c99.sliding import Windows
from bitshift.backends.c99.text import Lines, indent, literal, loop


def _windows(site: Site) -> Windows:
    attrs = site.node.attrs
    kernel = attrs["kernel"]
    return Windows(
        size=site.xs[0].shape[1:], out=site.y.shape[1:], kernel=kernel, stride=attrs["stride"],
        padding=attrs["padding"], dilation=attrs.get("dilation", (1,) * len(kernel)),
    )  # fmt: skip


def _over_channels(site: Site, windows: Windows, output: Lines) -> Lines:
    positions = windows.positions(output)
    channels = site.xs[0].shape[0]
    body = ["BS_OPAQUE(at);", *positions, f"x += {windows.plane};", "BS_OPAQUE(x);"] if channels > 1 else positions
    return ["size_t at = 0;", *loop("c", channels, [], body)]


def max_pool(site: Site) -> Code:
    """The largest element; padding never wins, as every window holds an element."""
    windows = _windows(site)

    def tap(index: str, _: str) -> Lines:
        return [f"if (x[{index}] > v) {{ v = x[{index}]; }}"]

    lowest = literal(site.xs[0].type.lo)
    output = [
        f"{site.y.ctype} v = {lowest};", "{", *indent(windows.taps(tap, windows.first)), "}", "y[at++] = v;"
    ]  # fmt: skip
    return Code(text=function(site, _over_channels(site, windows, output)))


def avg_pool(site: Site) -> Code:
    """``(sum * mult + offset) >> shift``; a ``mult`` of several bits is a sum of shifts."""
    windows, attrs = _windows(site), site.node.attrs
    trailing = (attrs["mult"] & -attrs["mult"]).bit_length() - 1
    power, offset, shift, _ = simplified(
        np.array([1 << trailing]), np.array([attrs["offset"]]), np.array([attrs["shift"]]), None
    )
    mult = (attrs["mult"] >> trailing) * int(power[0])
    reach = max(-min(site.xs[0].lo, 0), max(site.xs[0].hi, 0)) * math.prod(attrs["kernel"])
    wide = reach * mult + abs(int(offset[0])) >= 1 << 31

    def tap(index: str, _: str) -> Lines:
        return [f"const uint32_t value = (uint32_t)x[{index}];", "sum += value;"]

    terms = [("sum", bit) for bit in range(mult.bit_length()) if mult >> bit & 1]
    output = [
        "uint32_t sum = 0;", "{", *indent(windows.taps(tap, windows.first)), "}",
        *rounded(terms, int(offset[0]), int(shift[0]), *site.limits, wide=wide), store(site, "at"), "at++;",
    ]  # fmt: skip
    return Code(text=function(site, _over_channels(site, windows, output)), needs=WIDE_NEEDS if wide else frozenset())
