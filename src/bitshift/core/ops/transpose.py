"""Axes in another order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, register, source
from bitshift.core.ops.rules import check_kinds, check_parts, check_same_type, check_shape, fail, integers
from bitshift.core.ops.weighted import memory


@register
class Transpose(Op):
    """Axis i of the output is axis ``perm[i]`` of x, counted per sample."""

    name = "transpose"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1), attrs=("perm",))
        check_kinds(node, graph)
        check_same_type(node, graph)
        shape = source(node, graph).shape
        perm = integers(node, "perm", len(shape), 0, max(len(shape) - 1, 0))
        if len(set(perm)) != len(perm):
            fail(node, "attribute 'perm'", perm, f"a permutation of 0 to {len(shape) - 1}")
        check_shape(node, graph, [shape[axis] for axis in perm])

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        return inputs[0].transpose(0, *(axis + 1 for axis in node.attrs["perm"]))

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return Bound(range=ranges[0])

    def cost(self, node: Node, graph: Graph) -> Cost:
        return memory(node, graph)
