"""Values side by side along one axis, each brought to the output's type."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.arith import alignment, requantize
from bitshift.core.graph import Graph, Node
from bitshift.core.ops.aligned import sum_bound
from bitshift.core.ops.base import Bound, Cost, Op, Range, fixed, is_float, register, result
from bitshift.core.ops.rules import check_alignment, check_kinds, check_parts, check_shape, fail, integer
from bitshift.core.ops.weighted import memory

MAX_INPUTS = 10_000


@register
class Concat(Op):
    """Inputs joined along ``axis`` (per sample); integers by the rule of requantize."""

    name = "concat"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, MAX_INPUTS), attrs=("axis",))
        check_kinds(node, graph)
        shapes = [graph.values[name].shape for name in node.inputs]
        axis = integer(node, "axis", 0, len(shapes[0]) - 1)
        for name, shape in zip(node.inputs, shapes, strict=True):
            if len(shape) != len(shapes[0]) or any(
                s != t for i, (s, t) in enumerate(zip(shape, shapes[0], strict=True)) if i != axis
            ):
                fail(node, f"the shape of {name!r}", list(shape), f"{list(shapes[0])} except along axis {axis}")
        joined = list(shapes[0])
        joined[axis] = sum(shape[axis] for shape in shapes)
        check_shape(node, graph, joined)
        if not is_float(node, graph):
            check_alignment(node, graph)

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        axis = node.attrs["axis"] + 1
        if is_float(node, graph):
            return np.concatenate(inputs, axis=axis)
        out = fixed(result(node, graph))
        parts = [requantize(x, fixed(graph.values[n]).frac, out) for x, n in zip(inputs, node.inputs, strict=True)]
        return np.concatenate(parts, axis=axis)

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        known = [r for r in ranges if r is not None]
        if len(known) != len(ranges):
            return Bound(range=None)
        out = fixed(result(node, graph))
        parts = [
            sum_bound([r], [fixed(graph.values[n]).frac], out, None) for r, n in zip(known, node.inputs, strict=True)
        ]
        hulls = {
            kind: (min(getattr(p, kind)[0] for p in parts), max(getattr(p, kind)[1] for p in parts))
            for kind in ("range", "raw")
        }
        return Bound(range=hulls["range"], raw=hulls["raw"], total=max(p.total for p in parts))

    def cost(self, node: Node, graph: Graph) -> Cost:
        cost = memory(node, graph)
        if is_float(node, graph):
            return cost
        out = fixed(result(node, graph))
        for value in (graph.values[name] for name in node.inputs):
            if value.type != out:
                (up,), down = alignment((fixed(value).frac,), out.frac)
                size = value.size
                shifts = size * ((up > 0) + (down > 0))
                cost += Cost(shifts=shifts, adds=size * (down > 0), comparisons=2 * size, requantisations=size)
        return cost
