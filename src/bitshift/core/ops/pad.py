"""A constant around a value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, register, source
from bitshift.core.ops.rules import (
    check_kinds,
    check_parts,
    check_same_type,
    check_shape,
    integer,
    number,
    padding_pairs,
)
from bitshift.core.ops.weighted import memory


@register
class Pad(Op):
    """``value`` (in integer units, or a float) before and after each per-sample axis."""

    name = "pad"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1), attrs=("padding", "value"))
        check_kinds(node, graph)
        check_same_type(node, graph)
        x = source(node, graph)
        padding = padding_pairs(node, len(x.shape))
        if isinstance(x.type, FixedPoint):
            integer(node, "value", x.type.lo, x.type.hi)
        else:
            number(node, "value", node.attrs["value"])
        check_shape(
            node, graph, [size + before + after for size, (before, after) in zip(x.shape, padding, strict=True)]
        )

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        return np.pad(inputs[0], [(0, 0), *node.attrs["padding"]], constant_values=node.attrs["value"])

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        if ranges[0] is None:
            return Bound(range=None)
        value = node.attrs["value"]
        return Bound(range=(min(ranges[0][0], value), max(ranges[0][1], value)))

    def cost(self, node: Node, graph: Graph) -> Cost:
        return memory(node, graph)
