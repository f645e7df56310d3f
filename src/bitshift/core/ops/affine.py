"""``x * scale + bias`` on floats: a norm in a float network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, is_float, register, result, source
from bitshift.core.ops.rules import check_kinds, check_parts, check_shape, check_vectors, fail
from bitshift.core.ops.weighted import finish_float, memory


@register
class Affine(Op):
    """``x * scale + bias`` in float32; constants of one element, or one a channel of axis 0."""

    name = "affine"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1), consts=("scale", "bias"))
        check_kinds(node, graph)
        x = source(node, graph)
        if not is_float(node, graph):
            fail(node, "the input's type", x.type, "f32; use rescale for integers")
        check_shape(node, graph, x.shape)
        check_vectors(node, graph, (1, *x.shape[:1]))

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        x = inputs[0]
        if x.ndim == 1:
            return finish_float(x[:, None], node, graph, axis=1)[:, 0]
        return finish_float(x, node, graph, axis=1)

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return Bound(range=None)

    def cost(self, node: Node, graph: Graph) -> Cost:
        size = result(node, graph).size
        own = Cost(float_multiplications=size * ("scale" in node.consts), float_adds=size * ("bias" in node.consts))
        return memory(node, graph) + own
