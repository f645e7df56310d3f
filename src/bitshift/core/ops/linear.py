"""Matrix product along the last axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, is_float, register, result, source
from bitshift.core.ops.conv import magnitude
from bitshift.core.ops.rules import fail
from bitshift.core.ops.weighted import (
    check_result,
    check_weights,
    finish,
    finish_float,
    float_weights,
    levels_of,
    weighted_bound,
    weighted_cost,
)
from bitshift.core.windows import exact_dtype


@register
class Linear(Op):
    """x (..., I), codes (O, I) -> (..., O)."""

    name = "linear"

    def check(self, node: Node, graph: Graph) -> None:
        if not node.inputs:
            fail(node, "the number of inputs", 0, "1 or 2")
        x, shape = source(node, graph), check_weights(node, graph, (), 2)
        if not x.shape or x.shape[-1] != shape[1]:
            fail(node, "the input's shape", list(x.shape), f"(..., {shape[1]}) for weights of shape {list(shape)}")
        check_result(node, graph, (*x.shape[:-1], shape[0]), shape[0])

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        x, axis = inputs[0], inputs[0].ndim - 1
        if is_float(node, graph):
            return finish_float(np.matmul(x, float_weights(node, graph).T), node, graph, axis)
        levels = levels_of(node, graph)
        dtype = exact_dtype(magnitude(x, levels))
        acc = np.matmul(x.astype(dtype), levels.T.astype(dtype)).astype(np.int64)
        return finish(acc, node, inputs, graph, axis)

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return weighted_bound(node, ranges, graph)

    def cost(self, node: Node, graph: Graph) -> Cost:
        return weighted_cost(node, graph, result(node, graph).shape[-1])
