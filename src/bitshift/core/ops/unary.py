"""Non-linear functions of floats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, is_float, register, result, source
from bitshift.core.ops.rules import check_kinds, check_parts, check_shape, fail, number
from bitshift.core.ops.weighted import memory

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: np.ndarray, _: float) -> np.ndarray:
    small = np.exp(-np.abs(x))  # never overflows
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _hardsigmoid(x: np.ndarray, _: float) -> np.ndarray:
    return np.clip(x + 3.0, 0.0, 6.0) / 6.0


def _gelu(x: np.ndarray, _: float) -> np.ndarray:
    return x * 0.5 * (1.0 + _erf(x * math.sqrt(0.5)))


FUNCTIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "sigmoid": _sigmoid,
    "tanh": lambda x, _: np.tanh(x),
    "gelu": _gelu,
    "gelu_tanh": lambda x, _: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x, _: x * _sigmoid(x, 0.0),
    "hardswish": lambda x, _: x * _hardsigmoid(x, 0.0),
    "hardsigmoid": _hardsigmoid,
    "leaky_relu": lambda x, alpha: np.where(x > 0, x, alpha * x),
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0))),
}
WITH_ALPHA = frozenset({"leaky_relu", "elu"})


@register
class Unary(Op):
    """``fn(x)`` in float64, rounded to float32 once; gelu is the exact one (erf), gelu_tanh its approximation."""

    name = "unary"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1), attrs=("fn",), optional=("alpha",))
        check_kinds(node, graph)
        if not is_float(node, graph):
            fail(node, "the input's type", source(node, graph).type, "f32; use table for integers")
        fn = node.attrs["fn"]
        if not isinstance(fn, str) or fn not in FUNCTIONS:
            fail(node, "attribute 'fn'", fn, ", ".join(FUNCTIONS))
        if ("alpha" in node.attrs) != (fn in WITH_ALPHA):
            fail(
                node,
                "attribute 'alpha'",
                node.attrs.get("alpha", "missing"),
                f"a number for {' and '.join(sorted(WITH_ALPHA))}, else none",
            )
        if "alpha" in node.attrs:
            number(node, "alpha", node.attrs["alpha"])
        check_shape(node, graph, source(node, graph).shape)

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        x = inputs[0].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # infinities give NaN or infinities, as in C
            return FUNCTIONS[node.attrs["fn"]](x, node.attrs.get("alpha", 0.0)).astype(np.float32)

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        return Bound(range=None)

    def cost(self, node: Node, graph: Graph) -> Cost:
        return memory(node, graph) + Cost(float_functions=result(node, graph).size)
