"""Lower and upper limit: relu, relu6, hardtanh."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, register, result, source
from bitshift.core.ops.rules import check_kinds, check_parts, check_same_type, check_shape, fail, integer, number
from bitshift.core.ops.weighted import memory


@register
class Clamp(Op):
    """``min(max(x, lo), hi)`` in integer units, or floats; None leaves a side open. Input and output have one type."""

    name = "clamp"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1), attrs=("lo", "hi"))
        check_kinds(node, graph)
        check_same_type(node, graph)
        x = source(node, graph)
        check_shape(node, graph, x.shape)
        for key in ("lo", "hi"):
            if node.attrs[key] is None:
                continue
            if isinstance(x.type, FixedPoint):
                integer(node, key, x.type.lo, x.type.hi)
            else:
                number(node, key, node.attrs[key])
        lo, hi = node.attrs["lo"], node.attrs["hi"]
        if lo is not None and hi is not None and lo > hi:
            fail(node, "lo, hi", f"{lo}, {hi}", "lo <= hi")

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        x, lo, hi = inputs[0], node.attrs["lo"], node.attrs["hi"]
        if lo is not None:
            x = np.maximum(x, x.dtype.type(lo))
        return x if hi is None else np.minimum(x, x.dtype.type(hi))

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        if ranges[0] is None:
            return Bound(range=None)
        lo, hi = ranges[0]
        if node.attrs["lo"] is not None:
            lo, hi = max(lo, node.attrs["lo"]), max(hi, node.attrs["lo"])
        if node.attrs["hi"] is not None:
            lo, hi = min(lo, node.attrs["hi"]), min(hi, node.attrs["hi"])
        return Bound(range=(lo, hi))

    def cost(self, node: Node, graph: Graph) -> Cost:
        sides = sum(node.attrs[key] is not None for key in ("lo", "hi"))
        return memory(node, graph) + Cost(comparisons=sides * result(node, graph).size)
