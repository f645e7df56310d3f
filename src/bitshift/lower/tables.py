"""Expressions of one small value, tabulated: torch's own arithmetic, run once on every possible input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from bitshift.core.fixed import FixedPoint
from bitshift.lower.context import Call, Context, dtype_of
from bitshift.lower.wide import is_wide

MAX_BITS = 8
_ROWS = 1024

TABLE_ONLY = (
    "aten.selu.default", "aten.celu.default", "aten.softplus.default", "aten.mish.default", "aten.softsign.default",
    "aten.log_sigmoid.default", "aten.logit.default", "aten.exp.default", "aten.expm1.default",
    "aten.log1p.default", "aten.sqrt.default", "aten.abs.default", "aten.square.default", "aten.sin.default",
    "aten.cos.default", "aten.erf.default", "aten.sign.default", "aten.floor.default", "aten.ceil.default",
    "aten.round.default", "aten.minimum.default", "aten.maximum.default", "aten.threshold.default",
    "aten.pow.Tensor_Scalar",
)  # fmt: skip
"""Functions of single elements for which the graph has no op."""

_OTHERS = (
    "relu.default", "hardtanh.default", "relu6.default", "clamp.default", "clamp_min.default", "clamp_max.default",
    "sigmoid.default", "tanh.default", "gelu.default", "silu.default", "hardswish.default", "hardsigmoid.default",
    "leaky_relu.default", "elu.default", "neg.default", "clone.default", "detach.default", "alias.default",
    "contiguous.default", "dropout.default", "clamp.Tensor", "add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar",
    "rsub.Tensor", "rsub.Scalar", "mul.Tensor", "mul.Scalar", "div.Tensor", "div.Scalar",
)  # fmt: skip

POINTWISE = frozenset((*TABLE_ONLY, *(f"aten.{name}" for name in _OTHERS)))
"""Ops that compute every element of the result from the same element of their inputs."""


def table_of(context: Context, quantise: Call, out: FixedPoint) -> tuple[str, np.ndarray] | None:
    """The table behind a ``bitshift::quantize`` call, if its input is a function of one value of at most 8 bits.

    Returns the name of that value and ``(2**bits,)`` entries in ``out``'s dtype, or None when the input is no such
    expression. Evaluated by torch in the value's own dtype, as the frozen model does.
    """
    start = quantise.raw["x"]
    if not isinstance(start, fx.Node) or str(start.target) not in POINTWISE or _is_integer_path(context, start):
        return None
    order: list[fx.Node] = []
    leaves: set[fx.Node] = set()
    if not _collect(context, start, order, leaves, set()) or len(leaves) != 1:
        return None
    leaf = leaves.pop()
    name = context.items[leaf]
    kind = context.fixed(name) if isinstance(name, str) else None
    if kind is None or is_wide(kind) or kind.bits > MAX_BITS:
        return None
    values = _evaluate(leaf, order, kind, context)
    result = quantise.node.target(values, out.bits, out.frac, out.signed, str(quantise["rounding"]))  # type: ignore[operator]
    entries = np.rint(result.double().numpy() * 2.0**out.frac).astype(np.int64)
    return str(name), entries.astype(out.dtype)


def _is_integer_path(context: Context, node: fx.Node) -> bool:
    """Whether the rules already gave the expression an exact fixed point form (a relu, an add of a constant)."""
    item = context.items.get(node)
    return isinstance(item, str) and context.fixed(item) is not None


def _collect(context: Context, node: fx.Node, order: list[fx.Node], leaves: set[fx.Node], seen: set[fx.Node]) -> bool:
    """Post-order of the pointwise expression that ends in ``node``; False when a constant tensor is no scalar."""
    if node in seen:
        return True
    seen.add(node)
    item = context.items.get(node)
    if isinstance(item, Tensor):
        return item.numel() == 1
    if str(node.target) not in POINTWISE:
        leaves.add(node)
        return True
    if not all(_collect(context, n, order, leaves, seen) for n in node.all_input_nodes):
        return False
    order.append(node)
    return True


def _evaluate(leaf: fx.Node, order: list[fx.Node], kind: FixedPoint, context: Context) -> Tensor:
    values: dict[fx.Node, Tensor] = {}
    grid = np.arange(kind.lo, kind.hi + 1, dtype=np.float64) * 2.0**-kind.frac
    # Repeated to a full vector: torch's scalar and SIMD paths may differ in the last bit; real tensors take the latter.
    values[leaf] = torch.from_numpy(np.tile(grid, -(-_ROWS // grid.size))).to(dtype_of(leaf))

    def known(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return values[argument] if argument in values else context.items[argument]
        return argument

    with torch.no_grad():
        for node in order:
            args = [known(a) for a in node.args]
            kwargs = {k: known(v) for k, v in node.kwargs.items()}
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return values[order[-1]][: grid.size]
