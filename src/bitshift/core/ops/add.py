"""Sum of two values, brought to one grid by shifts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.arith import alignment, half, saturate
from bitshift.core.graph import Graph, Node
from bitshift.core.ops.aligned import align_bound, align_cost
from bitshift.core.ops.base import Bound, Cost, Op, Range, fixed, is_float, register, result, source
from bitshift.core.ops.rules import check_alignment, check_kinds, check_parts, check_shape, clamp_of, clamp_pair, fail
from bitshift.core.ops.weighted import memory


@register
class Add(Op):
    """``(s + half(d)) >> d`` of ``s = (a << F-f(a)) + (b << F-f(b))``; ``F = max(fracs)``, ``d = F-f(out)``."""

    name = "add"

    def check(self, node: Node, graph: Graph) -> None:
        if len(node.inputs) != 2:
            fail(node, "the number of inputs", len(node.inputs), 2)
        plain = is_float(node, graph)
        check_parts(node, inputs=(2, 2), optional=() if plain else ("clamp",))
        check_kinds(node, graph)
        a, b = source(node, graph), source(node, graph, 1)
        if a.shape != b.shape:
            fail(node, f"the shape of {b.name!r}", list(b.shape), f"{list(a.shape)}, that of {a.name!r}")
        check_shape(node, graph, a.shape)
        if not plain:
            check_alignment(node, graph)
            clamp_pair(node, fixed(result(node, graph)))

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        a, b = inputs
        if is_float(node, graph):
            return a + b
        out = fixed(result(node, graph))
        fracs = fixed(source(node, graph)).frac, fixed(source(node, graph, 1)).frac
        (up_a, up_b), down = alignment(fracs, out.frac)
        total = (a.astype(np.int64) << up_a) + (b.astype(np.int64) << up_b)
        return saturate((total + half(down)) >> down, out, clamp_of(node))

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return align_bound(node, ranges, graph)

    def cost(self, node: Node, graph: Graph) -> Cost:
        if is_float(node, graph):
            return memory(node, graph) + Cost(float_adds=result(node, graph).size)
        return memory(node, graph) + align_cost(node, graph) + Cost(adds=result(node, graph).size)
