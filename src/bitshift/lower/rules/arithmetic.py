"""Rules for sums of two values and for arithmetic with constants."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bitshift.core.fixed import Float32
from bitshift.core.roles import MAX_MULT
from bitshift.lower.context import Call, Context, Item
from bitshift.lower.rules.pointwise import WRAPS, as_number, deferred, difference, operand, product
from bitshift.lower.rules.registry import rule
from bitshift.lower.wide import Wide, dyadic, is_wide

log = logging.getLogger("bitshift")


@rule("aten.add.Tensor", "aten.add_.Tensor", "aten.add.Scalar", "aten.add_.Scalar")
def add(context: Context, call: Call) -> Item:
    """A sum of two values, or of a value and a constant."""
    a, b = call["self"], call["other"]
    alpha = as_number(call["alpha"], call)
    if isinstance(a, str) and isinstance(b, str):
        if alpha != 1.0:
            raise call.error(f"alpha is {alpha}; only 1 exists in the graph")
        return add_values(context, call, a, b)
    if isinstance(b, str):
        constant, x = vector(a, b, call, context), b
        scale = np.full_like(constant, alpha)
        return (
            scaled(context, call, context.as_float(x, call), scale, constant)
            if alpha != 1.0
            else shifted(context, call, x, constant)
        )
    x = call.value("self")
    return shifted(context, call, x, vector(b, x, call, context) * alpha)


def add_values(context: Context, call: Call, a: str, b: str) -> str:
    """The sum of two values of one shape: exact at the finer of the two grids where torch's is, else a float sum."""
    _check_dtype(call)
    if context.shape(a) != context.shape(b):
        raise call.error(
            f"adds shapes {list(context.shape(a))} and {list(context.shape(b))}; only equal shapes are added"
        )
    a, b = operand(context, call, a), operand(context, call, b)
    fa, fb = context.fixed(a), context.fixed(b)
    if fa is not None and fb is not None:
        frac = max(fa.frac, fb.frac)
        reach = (context.reach(a) << (frac - fa.frac)) + (context.reach(b) << (frac - fb.frac))
        if _sum_is_exact(context, call, (a, b), reach):
            return context.emit("add", [a, b], Wide.at(frac), call)
    _check_real(call)
    a, b = context.as_float(a, call), context.as_float(b, call)
    return context.emit("add", [a, b], Float32(), call)


@rule("aten.sub.Tensor", "aten.sub_.Tensor", "aten.sub.Scalar")
def sub(context: Context, call: Call) -> Item:
    """A value minus a constant, or a constant minus a value."""
    a, b = call["self"], call["other"]
    if isinstance(a, str) and isinstance(b, str):
        return difference(call)
    if as_number(call["alpha"], call) != 1.0:
        raise call.error(f"alpha is {call['alpha']}; only 1 exists in the graph")
    if isinstance(b, str):
        return _constant_minus(context, call, a, call.value("other"))
    x = call.value("self")
    return shifted(context, call, x, -vector(b, x, call, context))


@rule("aten.rsub.Scalar", "aten.rsub.Tensor")
def rsub(context: Context, call: Call) -> Item:
    """A constant minus a value."""
    if as_number(call["alpha"], call) != 1.0:
        raise call.error(f"alpha is {call['alpha']}; only 1 exists in the graph")
    return _constant_minus(context, call, call["other"], call.value("self"))


def _constant_minus(context: Context, call: Call, constant: Item, x: str) -> str:
    bias = vector(constant, x, call, context)
    return scaled(context, call, context.as_float(x, call), np.full_like(bias, -1.0), bias)


@rule("aten.neg.default", "aten.neg_.default")
def neg(context: Context, call: Call) -> Item:
    """The negative, a float product with -1."""
    return scaled(context, call, context.as_float(call.value("self"), call), np.array([-1.0]), np.zeros(1))


@rule("aten.mul.Tensor", "aten.mul_.Tensor", "aten.mul.Scalar", "aten.mul_.Scalar")
def mul(context: Context, call: Call) -> Item:
    """A value times a constant."""
    a, b = call["self"], call["other"]
    if isinstance(a, str) and isinstance(b, str):
        return product(call, (context.shape(a), context.shape(b)))
    x, constant = (call.value("self"), b) if isinstance(a, str) else (call.value("other"), a)
    return times(context, call, x, vector(constant, x, call, context))


@rule("aten.div.Tensor", "aten.div_.Tensor", "aten.div.Scalar", "aten.div_.Scalar")
def div(context: Context, call: Call) -> Item:
    """A value divided by a constant."""
    if not isinstance(call["self"], str) or isinstance(call["other"], str):
        return deferred(call)
    x = call.value("self")
    divisor = vector(call["other"], x, call, context)
    if (divisor == 0).any():
        raise call.error("divides by zero")
    if any(abs(dyadic(float(d))[0]) != 1 for d in divisor):
        log.warning(
            "%s: a division by %s becomes a multiplication by its float32 reciprocal, which may differ from torch in "
            "the last bit; multiply in the model, or give the normalisation to export(preprocess=...)",
            call.error("").args[0].rstrip(": "),
            divisor.tolist() if divisor.size < 5 else "constants",
        )
        return scaled(context, call, context.as_float(x, call), 1.0 / divisor, np.zeros(1))
    return times(context, call, x, 1.0 / divisor)


def vector(item: Item, x: str, call: Call, context: Context) -> np.ndarray:
    """A constant operand as float64 ``(1,)`` or one element per channel (per-sample axis 0) of ``x``.

    The numbers are those torch computes with (float32 in a float32 expression).
    """
    if not isinstance(item, Tensor):
        return np.array([as_number(item, call)], np.float64)
    if item.numel() == 1:
        return np.array([as_number(item, call)], np.float64)
    shape = list(item.shape)
    rank = len(context.shape(x))
    aligned = [1] * (rank + 1 - len(shape)) + shape
    if (
        len(aligned) != rank + 1
        or aligned[0] != 1
        or any(n != 1 for n in aligned[2:])
        or call.shape != context.shape(x)
    ):
        raise call.error(
            f"the constant of shape {shape} with a value of shape {['N', *context.shape(x)]}: the graph has one "
            f"number, or one per channel: shape [{context.shape(x)[0]}" + ", 1" * (rank - 1) + "]"
        )
    values = item.detach().cpu().reshape(-1)
    return (values.float() if call.dtype == torch.float32 else values).double().numpy()


def scaled(context: Context, call: Call, x: str, scale: np.ndarray, bias: np.ndarray) -> str:
    """``x * scale + bias`` on a float value."""
    _check_real(call)
    consts = {}
    if (scale != 1).any():
        consts["scale"] = scale.astype(np.float32)
    if bias.any():
        consts["bias"] = bias.astype(np.float32)
    if not all(np.isfinite(c).all() for c in consts.values()):
        raise call.error("a constant is not finite in float32")
    return context.emit("affine", [x], Float32(), call, consts=consts) if consts else x


def shifted(context: Context, call: Call, x: str, constant: np.ndarray) -> str:
    """``x + constant``: exact at the finer of the two grids where torch's sum is exact too, else a float sum."""
    _check_dtype(call)
    x = operand(context, call, x)
    kind = context.fixed(x)
    if not constant.any():
        return x
    if kind is not None:
        frac = max(kind.frac, *(dyadic(float(c))[1] for c in constant))
        mult = 1 << (frac - kind.frac)
        reach = context.reach(x) * mult + float(np.abs(constant).max()) * 2.0**frac
        if mult <= MAX_MULT and _sum_is_exact(context, call, (x,), reach):
            consts = {"offset": _integers([float(c) * 2.0**frac for c in constant], call)}
            if mult > 1:
                consts["mult"] = np.array([mult], np.int64)
            return context.emit("rescale", [x], Wide.at(frac), call, consts=consts)
    return scaled(context, call, context.as_float(x, call), np.ones(1), constant)


def _sum_is_exact(context: Context, call: Call, names: Sequence[str], reach: float) -> bool:
    """Whether torch rounds no sum of the values ``names`` that is at most ``reach`` steps of its grid long."""
    if not call.dtype.is_floating_point:
        return True
    if call.dtype == torch.float64 and any(is_wide(context.type(n)) for n in names):  # room for what a layer computes
        return True
    return reach <= 2 / torch.finfo(call.dtype).eps


def times(context: Context, call: Call, x: str, constant: np.ndarray) -> str:
    """``x * constant``: exact integers where torch's float product is exact too, else a float product."""
    _check_dtype(call)
    x = operand(context, call, x)
    kind = context.fixed(x)
    if (constant == 1).all():
        return x
    if kind is not None and (constant > 0).all():
        parts = [dyadic(float(c)) for c in constant]
        frac = max(e for _, e in parts)
        mult = [m << (frac - e) for m, e in parts]
        # An 8-bit value times a 16-bit number is exact in float32; a wide one only times a power of two.
        exact = (
            call.has_integers
            or all(m == 1 for m, _ in parts)
            or (not is_wide(kind) and all(kind.bits + m.bit_length() <= 24 for m, _ in parts))
        )
        if exact and max(mult) <= MAX_MULT:
            consts = {} if set(mult) == {1} else {"mult": np.array(mult, np.int64)}
            return context.emit("rescale", [x], Wide.at(kind.frac + frac), call, consts=consts)
    return scaled(context, call, context.as_float(x, call), constant, np.zeros(1))


def _check_dtype(call: Call) -> None:
    if not call.dtype.is_floating_point and not call.has_integers:
        raise call.error(f"computes in {call.dtype}, {WRAPS}")


def _check_real(call: Call) -> None:
    """Refuse a float form of what torch computes in integers."""
    _check_dtype(call)
    if call.has_integers:
        raise call.error(
            f"computes in {call.dtype}, for which the graph has additions of constants and multiplications by 1 to "
            f"{MAX_MULT}; cast first, as in x.float()"
        )


def _integers(values: Sequence[float], call: Call) -> np.ndarray:
    if any(abs(v) >= 2.0**62 for v in values):
        raise call.error("the constant needs more than 62 bits at the value's grid; use a rounder number")
    return np.array([int(v) for v in values], np.int64)
