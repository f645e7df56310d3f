"""A value brought to another fixed-point type."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core import arith
from bitshift.core.graph import Graph, Node
from bitshift.core.ops.aligned import align_bound, align_cost
from bitshift.core.ops.base import Bound, Cost, Op, Range, fixed, register, result, source
from bitshift.core.ops.rules import check_alignment, check_fixed, check_parts, check_shape, clamp_of, clamp_pair
from bitshift.core.ops.weighted import memory


@register
class Requantize(Op):
    """``(x << F-f(x)) + half(d) >> d``, saturated: the rule of add for one input."""

    name = "requantize"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1), optional=("clamp",))
        check_fixed(node, source(node, graph))
        clamp_pair(node, check_fixed(node, result(node, graph)))
        check_shape(node, graph, source(node, graph).shape)
        check_alignment(node, graph)

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        return arith.requantize(inputs[0], fixed(source(node, graph)).frac, fixed(result(node, graph)), clamp_of(node))

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return align_bound(node, ranges, graph)

    def cost(self, node: Node, graph: Graph) -> Cost:
        return memory(node, graph) + align_cost(node, graph)
