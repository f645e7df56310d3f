"""A value times a number and shifted, per channel: a norm that no layer could take in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.aligned import clipped
from bitshift.core.ops.base import Bound, Cost, Op, Range, fixed, register, result, source
from bitshift.core.ops.rules import check_fixed, check_parts, check_shape, check_vectors, clamp_of, clamp_pair
from bitshift.core.ops.weighted import finish, memory, rule4_cost, vector


@register
class Rescale(Op):
    """``(x * mult + offset) >> shift``, saturated; constants of one element, or one a channel of axis 0."""

    name = "rescale"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1), optional=("clamp",), consts=("mult", "offset", "shift"))
        x = source(node, graph)
        check_fixed(node, x)
        clamp_pair(node, check_fixed(node, result(node, graph)))
        check_shape(node, graph, x.shape)
        check_vectors(node, graph, (1, *x.shape[:1]))

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        x = inputs[0].astype(np.int64)
        if x.ndim == 1:  # a scalar a sample: its only channel is an axis of one
            return finish(x[:, None], node, inputs, graph, axis=1)[:, 0]
        return finish(x, node, inputs, graph, axis=1)

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        lo, hi = ranges[0] or (0, 0)
        count = (*source(node, graph).shape, 1)[0]
        mult, offset, shift = (vector(node, graph, role, count).astype(object) for role in ("mult", "offset", "shift"))
        raw = int(min((lo * mult + offset) >> shift)), int(max((hi * mult + offset) >> shift))
        return Bound(
            range=clipped(raw, fixed(result(node, graph)), clamp_of(node)),
            raw=raw,
            total=int(max(max(abs(lo), abs(hi)) * mult + abs(offset))),
        )

    def cost(self, node: Node, graph: Graph) -> Cost:
        shape = source(node, graph).shape
        channels = (*shape, 1)[0]
        return memory(node, graph) + rule4_cost(node, graph, result(node, graph).size // channels, channels)
