"""The index of the largest element: a classifier's answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, register, result, source
from bitshift.core.ops.rules import check_parts, check_shape, fail
from bitshift.core.ops.weighted import memory

INDEX = FixedPoint(32, 0)


@register
class Argmax(Op):
    """Index of the first maximum along the last axis, which the output (s32.0) lacks."""

    name = "argmax"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1))
        shape = source(node, graph).shape
        if not shape:
            fail(node, "the input's shape", [], "at least one axis")
        if result(node, graph).type != INDEX:
            fail(node, "the output's type", result(node, graph).type, INDEX)
        check_shape(node, graph, shape[:-1])

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        return np.argmax(inputs[0], axis=-1).astype(np.int32)

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return Bound(range=(0, source(node, graph).shape[-1] - 1))

    def cost(self, node: Node, graph: Graph) -> Cost:
        x = source(node, graph)
        return memory(node, graph) + Cost(comparisons=x.size - result(node, graph).size)
