"""A strided crop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, register, source
from bitshift.core.ops.rules import check_kinds, check_parts, check_same_type, check_shape, fail, integers
from bitshift.core.ops.weighted import memory

_LENGTH = (1 << 31) - 1


@register
class Slice(Op):
    """``x[start:stop:step]`` along each per-sample axis; ``0 <= start < stop <= size``, steps positive."""

    name = "slice"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1), attrs=("start", "stop", "step"))
        check_kinds(node, graph)
        check_same_type(node, graph)
        shape = source(node, graph).shape
        start = integers(node, "start", len(shape), 0, _LENGTH)
        stop = integers(node, "stop", len(shape), 0, _LENGTH)
        step = integers(node, "step", len(shape), 1, _LENGTH)
        for axis, size in enumerate(shape):
            if not start[axis] < stop[axis] <= size:
                fail(node, f"start:stop of axis {axis}", f"{start[axis]}:{stop[axis]}", f"0 <= start < stop <= {size}")
        check_shape(node, graph, [-((a - b) // s) for a, b, s in zip(start, stop, step, strict=True)])

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        attrs = node.attrs
        crop = [slice(*bounds) for bounds in zip(attrs["start"], attrs["stop"], attrs["step"], strict=True)]
        return inputs[0][(slice(None), *crop)]

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return Bound(range=ranges[0])

    def cost(self, node: Node, graph: Graph) -> Cost:
        return memory(node, graph)
