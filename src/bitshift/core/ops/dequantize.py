"""From fixed point to floats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, fixed, register, result, source
from bitshift.core.ops.rules import check_fixed, check_parts, check_shape, fail
from bitshift.core.ops.weighted import memory


def dequantize(q: np.ndarray, type: FixedPoint) -> np.ndarray:
    """``q * 2**-frac`` in float64, rounded to float32 once."""
    return (q.astype(np.float64) * 2.0**-type.frac).astype(np.float32)


@register
class Dequantize(Op):
    """Fixed point to f32."""

    name = "dequantize"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1))
        check_fixed(node, source(node, graph))
        if not isinstance(result(node, graph).type, Float32):
            fail(node, "the output's type", result(node, graph).type, "f32")
        check_shape(node, graph, source(node, graph).shape)

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        return dequantize(inputs[0], fixed(source(node, graph)))

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return Bound(range=None)

    def cost(self, node: Node, graph: Graph) -> Cost:
        return memory(node, graph) + Cost(float_shifts=result(node, graph).size)
