"""The same elements in another shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, register, result, source
from bitshift.core.ops.rules import check_kinds, check_parts, check_same_type, check_shape, fail


@register
class Reshape(Op):
    """Per-sample reshape, row-major; flatten is this."""

    name = "reshape"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1), attrs=("shape",))
        check_kinds(node, graph)
        check_same_type(node, graph)
        x, shape = source(node, graph), node.attrs["shape"]
        if not isinstance(shape, tuple) or not all(type(s) is int and s > 0 for s in shape):
            fail(node, "attribute 'shape'", shape, "positive integers")
        if math.prod(shape) != x.size:
            fail(node, "attribute 'shape'", list(shape), f"shapes of {x.size} elements, as {list(x.shape)}")
        check_shape(node, graph, shape)

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        return inputs[0].reshape(inputs[0].shape[0], *result(node, graph).shape)

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return Bound(range=ranges[0])

    def cost(self, node: Node, graph: Graph) -> Cost:
        return Cost()
