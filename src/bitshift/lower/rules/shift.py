"""Rules for the custom ops of a frozen network (``torch.ops.bitshift.*``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.formats import get_format
from bitshift.lower.context import Call, Context, Item
from bitshift.lower.rules.registry import rule
from bitshift.lower.tables import table_of
from bitshift.lower.wide import MAX_EXACT, Wide, is_wide


def pairs(flat: list[int]) -> tuple[tuple[int, int], ...]:
    """``[before, after, before, after]`` as pairs."""
    return tuple((int(b), int(a)) for b, a in zip(flat[::2], flat[1::2], strict=True))


def grid_input(context: Context, call: Call, frac_in: int | None = None) -> tuple[str, FixedPoint, int]:
    """The fixed point input ``x`` of a call, its type, and how many bits finer ``frac_in`` is than its grid."""
    x = call.value("x")
    kind = context.fixed(x)
    if kind is None:
        raise call.error("its input is a float value; an integer layer needs an activation quantiser before it")
    extra = 0 if frac_in is None else frac_in - kind.frac
    if extra < 0:
        raise call.error(f"expects its input at frac {frac_in}, but it comes at the finer grid {kind}; quantise it")
    return x, kind, extra


def required(call: Call, name: str) -> np.ndarray:
    """The constant tensor argument ``name``."""
    array = call.array(name)
    if array is None:
        raise call.error(f"{name} is missing")
    return array


def wide_consts(call: Call, kind: FixedPoint, extra: int) -> tuple[int, dict[str, np.ndarray]]:
    """Per-tensor frac F of a layer's wide output, and its ``codes``, ``mult`` and ``offset`` at that grid (int64)."""
    codes, mult, frac = (required(call, n) for n in ("codes", "mult", "frac"))
    offset = required(call, "offset") if "offset" in call.raw else np.zeros(len(codes), np.int64)
    levels = get_format(call["format"]).decode(codes).reshape(codes.shape[0], -1)
    reach = max(-kind.lo, kind.hi)
    finest = int(frac.max())
    new_mult, new_offset = [], []
    for c in range(codes.shape[0]):
        align = finest - int(frac[c])
        m, o = int(mult[c]) << (extra + align), int(offset[c]) << align
        if int(np.abs(levels[c]).sum()) * reach * m + abs(o) >= MAX_EXACT:
            raise call.error(
                f"channel {c} spans more than 62 bits at the finest channel's grid 2**-{finest} (its own is "
                f"2**-{int(frac[c])}); the norm's scales differ too much: clip or retrain it, or use multiplier=False"
            )
        new_mult.append(m)
        new_offset.append(o)
    consts = {"codes": codes, "mult": np.array(new_mult, np.int64), "offset": np.array(new_offset, np.int64)}
    if (consts["mult"] == 1).all():
        del consts["mult"]
    if not consts["offset"].any():
        del consts["offset"]
    return finest, consts


def conv_attrs(call: Call) -> dict[str, Any]:
    """Attributes that integer and float convolutions of shift weights share."""
    return {
        "format": call["format"],
        "stride": tuple(int(s) for s in call["stride"]),
        "padding": pairs(call["padding"]),
        "dilation": tuple(int(d) for d in call["dilation"]),
        "groups": int(call["groups"]),
    }


@rule("bitshift.conv.default")
def conv(context: Context, call: Call) -> Item:
    """An integer convolution with shift weights, exact."""
    x, kind, extra = grid_input(context, call, call["frac_in"])
    frac, consts = wide_consts(call, kind, extra)
    return context.emit("conv", [x], Wide.at(frac), call, attrs=conv_attrs(call), consts=consts)


def transposed_attrs(call: Call) -> dict[str, Any]:
    """Attributes that integer and float transposed convolutions share."""
    return conv_attrs(call) | {"output_padding": tuple(int(e) for e in call["output_padding"])}


@rule("bitshift.conv_transpose.default")
def conv_transpose(context: Context, call: Call) -> Item:
    """An integer transposed convolution with shift weights, exact."""
    x, kind, extra = grid_input(context, call, call["frac_in"])
    frac, consts = wide_consts(call, kind, extra)
    return context.emit("conv_transpose", [x], Wide.at(frac), call, attrs=transposed_attrs(call), consts=consts)


@rule("bitshift.embedding.default")
def embedding(context: Context, call: Call) -> Item:
    """Rows of shift weights by their number, exact."""
    frac, consts = wide_consts(call, FixedPoint(1, 0, signed=False), 0)
    attrs = {"format": call["format"]}
    return context.emit("embedding", [ids_of(context, call)], Wide.at(frac), call, attrs=attrs, consts=consts)


def ids_of(context: Context, call: Call, name: str = "ids") -> str:
    """The argument ``name``: integers that an embedding may read."""
    ids = call.value(name)
    kind = context.fixed(ids)
    if kind is None or kind.frac != 0 or is_wide(kind):
        raise call.error(f"its ids are {context.type(ids)}; they must be an integer input of the model or an argmax")
    return ids


@rule("bitshift.linear.default")
def linear(context: Context, call: Call) -> Item:
    """An integer linear layer with shift weights, exact."""
    x, kind, extra = grid_input(context, call, call["frac_in"])
    frac, consts = wide_consts(call, kind, extra)
    return context.emit("linear", [x], Wide.at(frac), call, attrs={"format": call["format"]}, consts=consts)


def _float_consts(call: Call) -> dict[str, np.ndarray]:
    names = ("codes", "scale", "bias")
    found = {n: array for n in names if n in call.raw and (array := call.array(n)) is not None}
    if "bias" in found and not found["bias"].any():
        del found["bias"]
    return found


@rule("bitshift.conv_float.default")
def conv_float(context: Context, call: Call) -> Item:
    """A convolution of floats with shift weights."""
    x = context.as_float(call.value("x"), call)
    return context.emit("conv", [x], Float32(), call, attrs=conv_attrs(call), consts=_float_consts(call))


@rule("bitshift.conv_transpose_float.default")
def conv_transpose_float(context: Context, call: Call) -> Item:
    """A transposed convolution of floats with shift weights."""
    x = context.as_float(call.value("x"), call)
    attrs = transposed_attrs(call)
    return context.emit("conv_transpose", [x], Float32(), call, attrs=attrs, consts=_float_consts(call))


@rule("bitshift.embedding_float.default")
def embedding_float(context: Context, call: Call) -> Item:
    """Rows of shift weights by their number, as floats."""
    attrs, consts = {"format": call["format"]}, _float_consts(call)
    return context.emit("embedding", [ids_of(context, call)], Float32(), call, attrs=attrs, consts=consts)


@rule("bitshift.linear_float.default")
def linear_float(context: Context, call: Call) -> Item:
    """A linear layer of floats with shift weights."""
    x = context.as_float(call.value("x"), call)
    return context.emit("linear", [x], Float32(), call, attrs={"format": call["format"]}, consts=_float_consts(call))


@rule("bitshift.quantize.default")
def quantize(context: Context, call: Call) -> Item:
    """The rounding to an activation type: the only one in an integer graph."""
    out = FixedPoint(call["bits"], call["frac"], call["signed"])
    rounding = str(call["rounding"])
    if (found := table_of(context, call, out)) is not None:
        source, table = found
        return context.emit("table", [source], out, call, consts={"table": table})
    x = call.value("x")
    kind = context.fixed(x)
    if kind is None:
        return context.emit("quantize", [x], out, call, attrs={"rounding": rounding})
    if kind == out:
        return x
    if rounding == "half_up" or kind.frac <= out.frac:
        return context.emit("requantize", [x], out, call)
    consts = {"shift": np.array([kind.frac - out.frac], np.uint8)}
    return context.emit("rescale", [x], out, call, consts=consts)


@rule("bitshift.avg_pool.default")
def avg_pool(context: Context, call: Call) -> Item:
    """The sum over windows times a number on a finer grid, exact."""
    x, kind, _ = grid_input(context, call)
    shift = int(call["shift"])
    attrs = {
        "kernel": tuple(int(k) for k in call["kernel"]),
        "stride": tuple(int(s) for s in call["stride"]),
        "padding": pairs(call["padding"]),
        "mult": int(call["mult"]),
        "offset": 0,
        "shift": 0,
    }
    return context.emit("avg_pool", [x], Wide.at(kind.frac + shift), call, attrs=attrs)


@rule("bitshift.table.default")
def table(context: Context, call: Call) -> Item:
    """A function of a small value by table."""
    x, kind, extra = grid_input(context, call, call["frac_in"])
    entries = required(call, "table")
    if is_wide(kind) or kind.bits > 8:
        raise call.error(f"a table needs an input of at most 8 bits, found {kind}; quantise it first")
    bits = int(entries.size).bit_length() - 1
    lowest = -(entries.size // 2) if call["signed"] else 0
    # The table's own grid may be wider or finer than the value's: look each possible input up once.
    index = (np.arange(kind.lo, kind.hi + 1, dtype=np.int64) << extra) - lowest
    if index.min() < 0 or index.max() >= entries.size:
        raise call.error(f"its input {kind} does not fit the table of {bits} bits at frac {call['frac_in']}")
    return emit_table(context, call, x, entries[index].astype(np.int64), int(call["frac_out"]))


def emit_table(context: Context, call: Call, x: str, entries: np.ndarray, frac: int) -> str:
    """A ``table`` node whose output is the narrowest type that holds ``entries`` at ``frac``."""
    lo, hi = int(entries.min()), int(entries.max())
    signed = lo < 0
    bits = max(max(hi, -lo - 1).bit_length() + signed, 2)
    out = FixedPoint(bits, frac, signed)
    return context.emit("table", [x], out, call, consts={"table": entries.astype(out.dtype)})
