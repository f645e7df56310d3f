"""Convolution over one or two spatial axes, grouped, with an optional residual behind the accumulator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, is_float, register, source
from bitshift.core.ops.rules import check_codes, fail, integer, weights_format, window_shape
from bitshift.core.ops.weighted import (
    check_node_parts,
    check_result,
    finish,
    finish_float,
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
        check_node_parts(node, graph, ("format", "stride", "padding", "dilation", "groups"))
        x = source(node, graph)
        if len(x.shape) not in (2, 3):
            fail(node, "the input's shape", list(x.shape), "(channels, length) or (channels, height, width)")
        codes = check_codes(node, graph, weights_format(node, graph), len(x.shape) + 1)
        groups = integer(node, "groups", 1, x.shape[0])
        if x.shape[0] % groups or codes.shape[0] % groups or codes.shape[1] != x.shape[0] // groups:
            fail(
                node,
                f"the shape of codes for {x.shape[0]} input channels in {groups} groups",
                list(codes.shape),
                f"(O, {x.shape[0]} / groups, *kernel) with O and {x.shape[0]} multiples of groups",
            )
        lengths = window_shape(node, graph, codes.shape[2:])
        check_result(node, graph, (codes.shape[0], *lengths), codes.shape[0])

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        x, levels, attrs = inputs[0], levels_of(node, graph), node.attrs
        geometry = (attrs["stride"], attrs["padding"], attrs["dilation"], attrs["groups"])
        if is_float(node, graph):
            return finish_float(convolve(x, levels.astype(np.float32), *geometry), node, graph, axis=1)
        dtype = exact_dtype(magnitude(x, levels))
        acc = convolve(x.astype(dtype), levels.astype(dtype), *geometry).astype(np.int64)
        return finish(acc, node, inputs, graph, axis=1)

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return weighted_bound(node, ranges, graph)

    def cost(self, node: Node, graph: Graph) -> Cost:
        return weighted_cost(node, graph, graph.const(node, "codes").shape[0])


def magnitude(x: np.ndarray, levels: np.ndarray) -> int:
    """Largest sum of magnitudes of products that any output of ``x`` and ``levels`` (O, ...) can have."""
    largest = max(abs(int(x.min())), abs(int(x.max()))) if x.size else 0
    return largest * int(np.abs(levels).reshape(levels.shape[0], -1).sum(axis=1).max())
