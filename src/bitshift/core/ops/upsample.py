"""Every element several times: enlargement by the nearest neighbour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, register, source
from bitshift.core.ops.rules import (
    MAX_STEP,
    check_kinds,
    check_parts,
    check_same_type,
    check_shape,
    check_spatial,
    integers,
)
from bitshift.core.ops.weighted import memory


@register
class Upsample(Op):
    """``y[c, p] = x[c, p // factor]`` for x (C, *spatial), one factor a spatial axis."""

    name = "upsample"
    since = 2

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1), attrs=("factor",))
        check_kinds(node, graph)
        check_same_type(node, graph)
        x = source(node, graph)
        factor = integers(node, "factor", check_spatial(node, x), 1, MAX_STEP)
        check_shape(node, graph, (x.shape[0], *(n * f for n, f in zip(x.shape[1:], factor, strict=True))))

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        y = inputs[0]
        for axis, factor in enumerate(node.attrs["factor"], start=2):
            y = np.repeat(y, factor, axis=axis)
        return y

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return Bound(range=ranges[0])

    def cost(self, node: Node, graph: Graph) -> Cost:
        return memory(node, graph)
