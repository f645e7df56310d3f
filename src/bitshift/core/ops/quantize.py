"""From floats to fixed point: the border into the integer world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, fixed, is_float, register, result, source, type_range
from bitshift.core.ops.rules import check_fixed, check_parts, check_shape, fail
from bitshift.core.ops.weighted import memory

ROUNDINGS = ("half_up", "floor")


def quantize(x: np.ndarray, out: FixedPoint, rounding: str = "half_up") -> np.ndarray:
    """``clamp(floor(x * 2**frac + (0.5 or 0)))`` in float64; NaN gives 0, infinities saturate."""
    step = 0.5 if rounding == "half_up" else 0.0
    with np.errstate(over="ignore"):  # a product beyond float64 is an infinity, which saturates
        scaled = np.floor(x.astype(np.float64) * 2.0**out.frac + step)
    return np.where(np.isnan(scaled), 0.0, np.clip(scaled, out.lo, out.hi)).astype(out.dtype)


@register
class Quantize(Op):
    """f32 to fixed point; ``rounding`` is half_up or floor."""

    name = "quantize"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1), attrs=("rounding",))
        if not is_float(node, graph):
            fail(node, "the input's type", source(node, graph).type, "f32; use requantize for integers")
        check_fixed(node, result(node, graph))
        if node.attrs["rounding"] not in ROUNDINGS:
            fail(node, "attribute 'rounding'", node.attrs["rounding"], " or ".join(ROUNDINGS))
        check_shape(node, graph, source(node, graph).shape)

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        return quantize(inputs[0], fixed(result(node, graph)), node.attrs["rounding"])

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return Bound(range=type_range(result(node, graph).type))

    def cost(self, node: Node, graph: Graph) -> Cost:
        size = result(node, graph).size
        return memory(node, graph) + Cost(float_shifts=size, float_adds=size, comparisons=2 * size)
