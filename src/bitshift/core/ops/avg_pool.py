"""The sum of each window, times a number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bitshift.core.arith import saturate
from bitshift.core.graph import Graph, Node
from bitshift.core.ops.aligned import clipped
from bitshift.core.ops.base import Bound, Cost, Op, Range, fixed, is_float, register, result, source
from bitshift.core.ops.rules import (
    check_kinds,
    check_parts,
    check_shape,
    clamp_of,
    clamp_pair,
    fail,
    integer,
    integers,
    number,
    window_shape,
)
from bitshift.core.ops.weighted import memory
from bitshift.core.roles import MAX_MULT, MAX_SHIFT
from bitshift.core.windows import offsets, pad_spatial

_LENGTH = (1 << 31) - 1


@register
class AvgPool(Op):
    """Integer: ``(sum * mult + offset) >> shift``, saturated; f32: ``sum * scale``. The zeros of the padding count."""

    name = "avg_pool"

    def check(self, node: Node, graph: Graph) -> None:
        if not node.inputs:
            fail(node, "the number of inputs", 0, 1)
        geometry = ("kernel", "stride", "padding")
        if is_float(node, graph):
            check_parts(node, inputs=(1, 1), attrs=(*geometry, "scale"))
            check_kinds(node, graph)
            number(node, "scale", node.attrs["scale"])
        else:
            check_parts(node, inputs=(1, 1), attrs=(*geometry, "mult", "offset", "shift"), optional=("clamp",))
            check_kinds(node, graph)
            integer(node, "mult", 1, MAX_MULT)
            integer(node, "offset", -(1 << 63), (1 << 63) - 1)
            integer(node, "shift", 0, MAX_SHIFT)
            clamp_pair(node, fixed(result(node, graph)))
        x = source(node, graph)
        kernel = integers(node, "kernel", max(len(x.shape) - 1, 1), 1, _LENGTH)
        lengths = window_shape(node, graph, kernel, dilated=False)
        check_shape(node, graph, (x.shape[0], *lengths))

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        attrs, plain = node.attrs, is_float(node, graph)
        padded = pad_spatial(inputs[0], attrs["padding"], 0)
        lengths = result(node, graph).shape[1:]
        total = np.zeros((*padded.shape[:2], *lengths), dtype=np.float32 if plain else np.int64)
        for place in offsets(attrs["kernel"], attrs["stride"], (1,) * len(lengths), lengths):
            total += padded[place]
        if plain:
            return total * np.float32(attrs["scale"])
        scaled = (total * attrs["mult"] + attrs["offset"]) >> attrs["shift"]
        return saturate(scaled, fixed(result(node, graph)), clamp_of(node))

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        if ranges[0] is None:
            return Bound(range=None)
        attrs, taps = node.attrs, math.prod(node.attrs["kernel"])
        lo, hi = min(ranges[0][0], 0) * taps, max(ranges[0][1], 0) * taps
        mult, offset, shift = attrs["mult"], attrs["offset"], attrs["shift"]
        raw = (lo * mult + offset) >> shift, (hi * mult + offset) >> shift
        acc = max(-lo, hi)
        return Bound(
            range=clipped(raw, fixed(result(node, graph)), clamp_of(node)),
            raw=raw,
            acc=acc,
            total=acc * mult + abs(offset),
        )

    def cost(self, node: Node, graph: Graph) -> Cost:
        attrs, size = node.attrs, result(node, graph).size
        taps = math.prod(attrs["kernel"])
        if is_float(node, graph):
            return memory(node, graph) + Cost(float_adds=size * (taps - 1), float_multiplications=size)
        power = attrs["mult"].bit_count() == 1
        return memory(node, graph) + Cost(
            adds=size * (taps - 1 + (attrs["offset"] != 0)),
            shifts=size * ((power and attrs["mult"] != 1) + (attrs["shift"] != 0)),
            multiplications=0 if power else size,
            comparisons=2 * size,
            requantisations=size,
        )
