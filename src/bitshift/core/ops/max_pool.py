"""The largest element of each window."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, register, result, source
from bitshift.core.ops.rules import check_kinds, check_parts, check_same_type, check_shape, fail, integers, window_shape
from bitshift.core.ops.weighted import memory
from bitshift.core.windows import offsets, pad_spatial

_LENGTH = (1 << 31) - 1


@register
class MaxPool(Op):
    """Maximum over ``kernel``; padding never wins, and every window holds at least one element of x."""

    name = "max_pool"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1), attrs=("kernel", "stride", "padding", "dilation"))
        check_kinds(node, graph)
        check_same_type(node, graph)
        x = source(node, graph)
        kernel = integers(node, "kernel", max(len(x.shape) - 1, 1), 1, _LENGTH)
        lengths = window_shape(node, graph, kernel)
        for axis, (size, k, n) in enumerate(zip(x.shape[1:], kernel, lengths, strict=True)):
            stride, (before, _), dilation = (node.attrs[key][axis] for key in ("stride", "padding", "dilation"))
            if _has_empty_window(size, k, n, stride, before, dilation):
                fail(
                    node,
                    f"a window on spatial axis {axis}",
                    "all padding",
                    "windows with at least one element; use less padding",
                )
        check_shape(node, graph, (x.shape[0], *lengths))

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        type, attrs = source(node, graph).type, node.attrs
        lowest = type.lo if isinstance(type, FixedPoint) else -np.inf
        padded = pad_spatial(inputs[0], attrs["padding"], lowest)
        lengths = result(node, graph).shape[1:]
        best: np.ndarray | None = None
        for place in offsets(attrs["kernel"], attrs["stride"], attrs["dilation"], lengths):
            best = padded[place].copy() if best is None else np.maximum(best, padded[place], out=best)
        assert best is not None, "a kernel has at least one element"
        return best

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return Bound(range=ranges[0])

    def cost(self, node: Node, graph: Graph) -> Cost:
        comparisons = result(node, graph).size * (math.prod(node.attrs["kernel"]) - 1)
        return memory(node, graph) + Cost(comparisons=comparisons)


def _has_empty_window(size: int, kernel: int, count: int, stride: int, before: int, dilation: int) -> bool:
    """Whether one of ``count`` windows meets no element. Each window begins at ``i * stride - before``."""
    if (count - 1) * stride - before >= size:
        return True
    # Windows that begin in the padding before the axis; at most 65535 of them, as many as padding is allowed.
    begins = np.arange(0, min(count, -(-before // stride)), dtype=np.int64) * stride - before
    steps = -(begins // dilation)  # the first element of the kernel at or behind 0: ceil(-begin / dilation)
    return bool(((steps >= kernel) | (begins + steps * dilation >= size)).any())
