"""Rules that join values, and the index of a maximum."""

from __future__ import annotations

from collections.abc import Sequence

from bitshift.core.fixed import FixedPoint, Float32
from bitshift.lower.context import Call, Context, Item
from bitshift.lower.rules.moves import emit_reshape
from bitshift.lower.rules.pointwise import operand
from bitshift.lower.rules.registry import rule
from bitshift.lower.wide import Wide, is_wide


@rule("aten.cat.default", "aten.concat.default", "aten.concatenate.default")
def cat(context: Context, call: Call) -> Item:
    """A concatenation."""
    names = list(call["tensors"])
    if not all(isinstance(n, str) for n in names):
        raise call.error(
            "one of the tensors is a constant or a result the graph cannot hold; concatenate computed values only"
        )
    names = [operand(context, call, n) for n in names]
    return emit_concat(context, call, names, call.axis(call["dim"], len(call.shape)))


@rule("aten.stack.default")
def stack(context: Context, call: Call) -> Item:
    """A concatenation along a new axis."""
    axis = call.axis(call["dim"], len(call.shape))
    names = []
    for at, name in enumerate(call["tensors"]):
        if not isinstance(name, str):
            raise call.error("one of the tensors is a constant; stack computed values only")
        shape = (*call.shape[:axis], 1, *call.shape[axis + 1 :])
        names.append(emit_reshape(context, call, operand(context, call, name), shape, suffix=f"_{at}"))
    return emit_concat(context, call, names, axis)


def emit_concat(context: Context, call: Call, names: Sequence[str], axis: int, *, whole: bool = True) -> str:
    """The concatenation at the finest grid of its inputs, which holds all of them exactly.

    ``whole`` says that it is the call's result, else a part of it on the way.
    """
    kinds = [context.fixed(n) for n in names]
    shape = list(context.shape(names[0]))
    shape[axis] = sum(context.shape(n)[axis] for n in names)
    as_part = {} if whole else {"shape": shape, "suffix": "_joined"}
    if any(k is None for k in kinds):
        names = [context.as_float(n, call) for n in names]
        return context.emit("concat", names, Float32(), call, attrs={"axis": axis}, **as_part)
    kind = common_type([k for k in kinds if k is not None])
    return context.emit("concat", names, kind, call, attrs={"axis": axis}, **as_part)


def common_type(kinds: Sequence[FixedPoint]) -> FixedPoint:
    """The narrowest type that holds the values of all ``kinds``."""
    frac = max(k.frac for k in kinds)
    if len(set(kinds)) == 1:
        return kinds[0]
    signed = any(k.signed for k in kinds)
    bits = max(k.bits + (signed and not k.signed) + frac - k.frac for k in kinds)
    if any(is_wide(k) for k in kinds) or bits > (32 if signed else 31):
        return Wide.at(frac)
    return FixedPoint(bits, frac, signed)


@rule("aten.argmax.default")
def argmax(context: Context, call: Call) -> Item:
    """The index of the first maximum along one axis."""
    x = call.value("self")
    shape = context.shape(x)
    if call["dim"] is None:
        raise call.error("without dim it mixes the samples; write argmax(1)")
    axis = call.axis(call["dim"], len(shape))
    if axis != len(shape) - 1:
        order = (*(a for a in range(len(shape)) if a != axis), axis)
        moved = tuple(shape[a] for a in order)
        x = context.emit("transpose", [x], context.type(x), call, shape=moved, attrs={"perm": order}, suffix="_last")
    rest = tuple(n for a, n in enumerate(shape) if a != axis)
    index = context.emit("argmax", [x], FixedPoint(32, 0), call, shape=rest)
    return emit_reshape(context, call, index, call.shape, suffix="_kept") if call["keepdim"] else index
