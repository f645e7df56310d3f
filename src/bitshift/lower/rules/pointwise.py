"""Rules for clamps and smooth activations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bitshift.core.fixed import FixedPoint, Float32
from bitshift.lower.context import Call, Context, Deferred, Item
from bitshift.lower.rules.registry import rule, supported
from bitshift.lower.tables import TABLE_ONLY
from bitshift.lower.wide import Wide, dyadic, is_wide

WRAPS = "where torch wraps around; the graph has int32, int64 and floats: cast first, as in x.float()"
"""Why arithmetic in uint8, int8 and int16 is refused, after what it does."""


def as_number(item: Item, call: Call) -> float | None:
    """A scalar argument (number or one-element constant) as torch would use it with the call's dtype; None stays."""
    if item is None:
        return None
    if isinstance(item, Tensor):
        if item.numel() != 1:
            raise call.error(f"needs one number, but the constant has shape {list(item.shape)}")
        item = item.reshape(()).item()
    if not isinstance(item, (int, float)):
        raise call.error("needs a number that does not depend on the input")
    return float(np.float32(item)) if call.dtype == torch.float32 else float(item)


def operand(context: Context, call: Call, x: str) -> str:
    """``x`` as torch reads it for ``call``: integers beyond 2**24 are rounded where a float32 is computed."""
    if call.dtype != torch.float32 or context.fixed(x) is None:
        return x
    found = [n.meta.get("val") for n in call.node.all_input_nodes]
    converted = any(isinstance(v, Tensor) and not v.dtype.is_floating_point for v in found)
    rounds = (converted or not is_wide(context.type(x))) and context.reach(x) > 1 << 24
    return context.as_float(x, call) if rounds else x


def emit_clamp(context: Context, call: Call, x: str, lo: float | None, hi: float | None) -> str:
    """``clamp(x, lo, hi)`` with real bounds; None and infinities are open. Exact on fixed point values."""
    lo = None if lo is None or lo == -np.inf else lo
    hi = None if hi is None or hi == np.inf else hi
    if not call.dtype.is_floating_point and not call.has_integers and (lo, hi) != (0.0, None):
        raise call.error(f"limits {call.dtype} numbers, {WRAPS}")
    if any(b is not None and np.isnan(b) for b in (lo, hi)):
        raise call.error("a bound is NaN")
    if lo is not None and hi is not None and lo > hi:
        raise call.error(f"the lower bound {lo} is over the upper bound {hi}")
    x = operand(context, call, x)
    kind = context.fixed(x)
    if kind is None:
        if lo is None and hi is None:
            return x
        return context.emit("clamp", [x], Float32(), call, attrs={"lo": lo, "hi": hi})
    kind = _grid_for(kind, (lo, hi))
    q = [None if b is None else _units(b, kind, call) for b in (lo, hi)]
    if (q[0] is None or q[0] <= kind.lo) and (q[1] is None or q[1] >= kind.hi):
        return x
    if kind != context.type(x):
        x = context.emit("requantize", [x], kind, call, shape=context.shape(x), suffix="_fine")
    bounds = [None if b is None else min(max(b, kind.lo), kind.hi) for b in q]
    return context.emit("clamp", [x], kind, call, attrs={"lo": bounds[0], "hi": bounds[1]})


def _grid_for(kind: FixedPoint, bounds: tuple[float | None, float | None]) -> FixedPoint:
    """``kind``, or the wide type that also holds the ``bounds`` that a value of ``kind`` can reach."""
    need = max((dyadic(b)[1] for b in bounds if b), default=kind.frac)
    lo, hi = (None if b is None else b * 2.0**kind.frac for b in bounds)
    outside = (lo is not None and lo > kind.hi) or (hi is not None and hi < kind.lo)
    return Wide.at(max(need, kind.frac)) if outside or need > kind.frac else kind


def _units(bound: float, kind: FixedPoint, call: Call) -> int:
    scaled = bound * 2.0**kind.frac  # exact: a power of two
    if abs(scaled) >= 2.0**62:
        if is_wide(kind):
            raise call.error(f"the bound {bound} needs more than 62 bits at grid 2**-{kind.frac}; use a rounder number")
        return kind.hi if scaled > 0 else kind.lo
    return int(scaled)


@rule("aten.relu.default", "aten.relu_.default")
def relu(context: Context, call: Call) -> Item:
    """Lower limit 0."""
    return emit_clamp(context, call, call.value("self"), 0.0, None)


@rule("aten.relu6.default", "aten.relu6_.default")
def relu6(context: Context, call: Call) -> Item:
    """Limits 0 and 6."""
    return emit_clamp(context, call, call.value("self"), 0.0, 6.0)


@rule("aten.hardtanh.default", "aten.hardtanh_.default")
def hardtanh(context: Context, call: Call) -> Item:
    """Two limits."""
    lo, hi = as_number(call["min_val"], call), as_number(call["max_val"], call)
    return emit_clamp(context, call, call.value("self"), lo, hi)


@rule(
    "aten.clamp.default",
    "aten.clamp_.default",
    "aten.clip.default",
    "aten.clamp.Tensor",
    "aten.clamp_min.default",
    "aten.clamp_min_.default",
    "aten.clamp_max.default",
    "aten.clamp_max_.default",
)
def clamp(context: Context, call: Call) -> Item:
    """One or two limits."""
    lo = as_number(call["min"], call) if "min" in call.raw else None
    hi = as_number(call["max"], call) if "max" in call.raw else None
    return emit_clamp(context, call, call.value("self"), lo, hi)


def _unary(context: Context, call: Call, fn: str, alpha: float | None = None) -> Item:
    x = context.as_float(call.value("self"), call)
    attrs = {"fn": fn} if alpha is None else {"fn": fn, "alpha": alpha}
    return context.emit("unary", [x], Float32(), call, attrs=attrs)


@rule(*(f"aten.{n}{u}.default" for n in ("sigmoid", "tanh", "silu", "hardswish", "hardsigmoid") for u in ("", "_")))
def unary(context: Context, call: Call) -> Item:
    """A smooth function without a parameter."""
    return _unary(context, call, call.op.split(".")[1].rstrip("_"))


@rule("aten.gelu.default", "aten.gelu_.default")
def gelu(context: Context, call: Call) -> Item:
    """GELU, exact or by tanh."""
    return _unary(context, call, "gelu_tanh" if call["approximate"] == "tanh" else "gelu")


@rule("aten.leaky_relu.default", "aten.leaky_relu_.default")
def leaky_relu(context: Context, call: Call) -> Item:
    """Leaky ReLU."""
    return _unary(context, call, "leaky_relu", as_number(call["negative_slope"], call))


@rule("aten.elu.default", "aten.elu_.default")
def elu(context: Context, call: Call) -> Item:
    """ELU."""
    if (as_number(call["scale"], call), as_number(call["input_scale"], call)) != (1.0, 1.0):
        return deferred(call)
    return _unary(context, call, "elu", as_number(call["alpha"], call))


_IN_A_TABLE = (
    "becomes a 256-entry table when all it computes from is one value of at most 8 bits and its result is quantised "
    "again: put activation quantisers before and behind it (convert(..., activations=8))"
)


def deferred(call: Call) -> Deferred:
    """The result of a pointwise op that exists only inside a table."""
    error = call.error(
        f"no float form of this op is in the graph. It {_IN_A_TABLE}, or use one of: {', '.join(supported())}"
    )
    return Deferred(str(error))


def difference(call: Call) -> Deferred:
    """The difference of two values that both depend on the input, which exists only inside a table."""
    error = call.error(
        "subtracts an activation from another one; the graph adds two activations, and subtracts constants. Write "
        "a + (-b), which is computed in floats, or let the layer before b learn the opposite sign and add. A function "
        f"of one value, as in x - tanh(x), {_IN_A_TABLE}"
    )
    return Deferred(str(error))


def product(call: Call, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> Deferred:
    """The product of two values of ``shapes`` that both depend on the input, which exists only inside a table."""
    a, b = (["N", *shape] for shape in shapes)
    error = call.error(
        f"multiplies two activations, of shapes {a} and {b}. That needs a multiplier, and no op of the graph has one: "
        "squeeze-excite and other gates have no multiplication-free form. Build the model without the gate before you "
        "train it, or keep it in torch, where the frozen model runs (freeze). A function of one value, as in x * "
        f"sigmoid(x), {_IN_A_TABLE}"
    )
    return Deferred(str(error))


@rule(*TABLE_ONLY)
def only_in_tables(_context: Context, call: Call) -> Item:
    """Functions that exist only inside a table."""
    return deferred(call)
