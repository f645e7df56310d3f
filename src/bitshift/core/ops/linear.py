"""Matrix product along the last axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, is_float, register, source
from bitshift.core.ops.conv import magnitude
from bitshift.core.ops.rules import check_codes, fail, weights_format
from bitshift.core.ops.weighted import (
    check_node_parts,
    check_result,
    finish,
    finish_float,
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
        check_node_parts(node, graph, ("format",))
        x = source(node, graph)
        codes = check_codes(node, graph, weights_format(node, graph), 2)
        if not x.shape or x.shape[-1] != codes.shape[1]:
            fail(node, "the input's shape", list(x.shape), f"(..., {codes.shape[1]}) for codes of shape {list(codes.shape)}")
        check_result(node, graph, (*x.shape[:-1], codes.shape[0]), codes.shape[0])

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        x, levels = inputs[0], levels_of(node, graph)
        axis = x.ndim - 1
        if is_float(node, graph):
            return finish_float(np.matmul(x, levels.T.astype(np.float32)), node, graph, axis)
        dtype = exact_dtype(magnitude(x, levels))
        acc = np.matmul(x.astype(dtype), levels.T.astype(dtype)).astype(np.int64)
        return finish(acc, node, inputs, graph, axis)

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return weighted_bound(node, ranges, graph)

    def cost(self, node: Node, graph: Graph) -> Cost:
        return weighted_cost(node, graph, graph.const(node, "codes").shape[0])
