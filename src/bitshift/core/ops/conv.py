"""Convolution over one to three spatial axes, grouped, with an optional residual behind the accumulator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, is_float, register, result, source
from bitshift.core.ops.rules import check_groups, check_spatial, fail, window_shape
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
from bitshift.core.windows import convolve, exact_dtype


@register
class Conv(Op):
    """x (C, *spatial), codes (O, C/groups, *kernel) -> (O, *out); ``padding`` is of zeros."""

    name = "conv"

    def check(self, node: Node, graph: Graph) -> None:
        if not node.inputs:
            fail(node, "the number of inputs", 0, "1 or 2")
        x = source(node, graph)
        check_spatial(node, x)
        shape = check_weights(node, graph, ("stride", "padding", "dilation", "groups"), len(x.shape) + 1)
        check_groups(node, x, shape)
        lengths = window_shape(node, graph, shape[2:])
        check_result(node, graph, (shape[0], *lengths), shape[0])

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        x, attrs = inputs[0], node.attrs
        geometry = (attrs["stride"], attrs["padding"], attrs["dilation"], attrs["groups"])
        if is_float(node, graph):
            return finish_float(convolve(x, float_weights(node, graph), *geometry), node, graph, axis=1)
        levels = levels_of(node, graph)
        dtype = exact_dtype(magnitude(x, levels))
        acc = convolve(x.astype(dtype), levels.astype(dtype), *geometry).astype(np.int64)
        return finish(acc, node, inputs, graph, axis=1)

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return weighted_bound(node, ranges, graph)

    def cost(self, node: Node, graph: Graph) -> Cost:
        return weighted_cost(node, graph, result(node, graph).shape[0])


def magnitude(x: np.ndarray, levels: np.ndarray) -> int:
    """Largest sum of magnitudes of products that any output of ``x`` and ``levels`` (O, ...) can have."""
    largest = max(abs(int(x.min())), abs(int(x.max()))) if x.size else 0
    return largest * int(np.abs(levels).reshape(levels.shape[0], -1).sum(axis=1).max())
