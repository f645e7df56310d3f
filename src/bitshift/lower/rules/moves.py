"""Rules that move elements without changing them: shapes, slices, padding, concatenation, argmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import fx

from bitshift.core.ops.base import Range
from bitshift.lower.context import Call, Context, Item
from bitshift.lower.rules.pointwise import as_number
from bitshift.lower.rules.registry import rule


@rule(
    "aten.contiguous.default",
    "aten.clone.default",
    "aten.detach.default",
    "aten.detach_.default",
    "aten.alias.default",
    "aten.lift_fresh_copy.default",
)
def same(_context: Context, call: Call) -> Item:
    """Copies change nothing."""
    return call["self"]


@rule("aten.dropout.default", "aten.dropout_.default", "aten.feature_dropout.default", "aten.alpha_dropout.default")
def dropout(_context: Context, call: Call) -> Item:
    """Dropout in eval changes nothing."""
    if call["train"] and call["p"] != 0:
        raise call.error("dropout is in training mode; call model.eval() and pass training=self.training to F.dropout")
    return call["input"]


@rule("aten._to_copy.default", "aten.to.dtype", "aten.to.dtype_layout", "aten.to.device", "aten.to.other")
def cast(context: Context, call: Call) -> Item:
    """Casts between types that hold the values exactly change nothing; beyond 2**24 float32 rounds."""
    x = call.value("self")
    kind = context.fixed(x)
    if call.dtype == torch.float32 and context.reach(x) > 1 << 24:
        return context.as_float(x, call)  # torch rounds here: what follows is float arithmetic
    if call.dtype in (torch.float32, torch.float64):
        return x
    if kind is not None and kind.frac == 0 and (call.has_integers or _holds(call.dtype, context.range(x))):
        return x
    raise call.error(
        f"casts to {call.dtype}; only float32 and float64 stay exact, and of integers int32, int64 and what holds "
        "their range, as behind clamp or argmax: cast outside the model"
    )


def _holds(dtype: torch.dtype, found: Range) -> bool:
    """Whether the integers of ``dtype`` hold the range ``found``."""
    if found is None or dtype not in (torch.uint8, torch.int8, torch.int16):
        return False
    limits = torch.iinfo(dtype)
    return limits.min <= found[0] and found[1] <= limits.max


@rule(
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.reshape.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.unsqueeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.squeeze.default",
    "aten._reshape_alias.default",
    "aten.view_copy.default",
)
def reshape(context: Context, call: Call) -> Item:
    """Any change of shape that keeps the order of the elements."""
    return emit_reshape(context, call, call.value("self"), call.shape)


def emit_reshape(context: Context, call: Call, x: str, shape: Sequence[int], suffix: str = "") -> str:
    """A reshape to the per-sample ``shape``, or ``x`` when it has it."""
    if context.shape(x) == tuple(shape):
        return x
    return context.emit(
        "reshape", [x], context.type(x), call, shape=shape, attrs={"shape": tuple(shape)}, suffix=suffix
    )


@rule("aten.permute.default", "aten.permute_copy.default")
def permute(context: Context, call: Call) -> Item:
    """A permutation of the per-sample axes."""
    x = call.value("self")
    rank = len(context.shape(x)) + 1
    return _emit_transpose(context, call, x, [d % rank for d in call["dims"]])


@rule("aten.transpose.int", "aten.t.default", "aten.numpy_T.default")
def transpose(context: Context, call: Call) -> Item:
    """Two per-sample axes exchanged."""
    x = call.value("self")
    rank = len(context.shape(x)) + 1
    dims = list(range(rank))
    if "dim0" not in call.raw:
        raise call.error("moves the batch axis; the graph runs one sample at a time")
    a, b = call["dim0"] % rank, call["dim1"] % rank
    dims[a], dims[b] = dims[b], dims[a]
    return _emit_transpose(context, call, x, dims)


def _emit_transpose(context: Context, call: Call, x: str, dims: Sequence[int]) -> str:
    if dims[0] != 0:
        raise call.error("moves the batch axis; the graph runs one sample at a time")
    perm = tuple(d - 1 for d in dims[1:])
    if perm == tuple(range(len(perm))):
        return x
    return context.emit("transpose", [x], context.type(x), call, attrs={"perm": perm})


@rule("aten.expand.default", "aten.expand_copy.default")
def expand(context: Context, call: Call) -> Item:
    """An expand to the same shape."""
    x = call.value("self")
    if call.shape != context.shape(x):
        raise call.error(
            f"repeats elements, from shape {list(context.shape(x))} to {list(call.shape)}; the graph has no broadcast"
        )
    return x


@rule("aten.slice.Tensor", "aten.slice_copy.Tensor")
def slice_(context: Context, call: Call) -> Item:
    """A strided part along one axis."""
    x = call.value("self")
    shape = context.shape(x)
    rank = len(shape) + 1
    if call["dim"] % rank == 0:
        end = call.raw["end"]
        whole = isinstance(end, fx.Node) and str(end.meta.get("val")) in context.batch
        if call["start"] in (None, 0) and call["step"] == 1 and (whole or call["end"] in (None, 2**63 - 1)):
            return x
        raise call.error("takes part of the batch; the graph runs one sample at a time")
    axis = call["dim"] % rank - 1
    size = shape[axis]
    start, stop, step = slice(call["start"], call["end"], call["step"]).indices(size)
    return emit_slice(context, call, x, axis, start, stop, step)


def emit_slice(
    context: Context, call: Call, x: str, axis: int, start: int, stop: int, step: int = 1, *, suffix: str = ""
) -> str:
    """``x[start:stop:step]`` along a per-sample axis; ``x`` itself when that is all of it."""
    shape = context.shape(x)
    if (start, step) == (0, 1) and stop >= shape[axis]:
        return x
    count = len(range(start, stop, step))
    if count == 0:
        raise call.error(f"takes {start}:{stop}:{step} of axis {axis + 1} with {shape[axis]} elements: nothing is left")
    starts, stops, steps = [0] * len(shape), list(shape), [1] * len(shape)
    starts[axis], stops[axis], steps[axis] = start, stop, step
    attrs = {"start": tuple(starts), "stop": tuple(stops), "step": tuple(steps)}
    out = (*shape[:axis], count, *shape[axis + 1 :])
    return context.emit("slice", [x], context.type(x), call, shape=out, attrs=attrs, suffix=suffix)


@rule("aten.select.int", "aten.select_copy.int")
def select(context: Context, call: Call) -> Item:
    """One element of an axis."""
    x = call.value("self")
    axis = call.axis(call["dim"], len(context.shape(x)))
    index = call["index"] % context.shape(x)[axis]
    part = emit_slice(context, call, x, axis, index, index + 1, suffix="_part")
    return emit_reshape(context, call, part, call.shape)


@rule("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default", "aten.split.sizes", "aten.unbind.int")
def split(context: Context, call: Call) -> Item:
    """Parts along one axis, a slice each."""
    x = call.value("self")
    axis = call.axis(call["dim"], len(context.shape(x)))
    parts, start = [], 0
    for at, piece in enumerate(call.node.meta["val"]):
        shape = tuple(int(n) for n in piece.shape[1:])
        count = shape[axis] if len(shape) == len(context.shape(x)) else 1
        part = emit_slice(context, call, x, axis, start, start + count, suffix=f"_{at}")
        parts.append(emit_reshape(context, call, part, shape, suffix=f"_{at}"))
        start += count
    return tuple(parts)


@rule("aten.pad.default", "aten.constant_pad_nd.default")
def pad(context: Context, call: Call) -> Item:
    """Constant padding; negative padding crops."""
    x = call.value("self")
    if call.raw.get("mode", "constant") != "constant":
        raise call.error(f"pads with mode {call['mode']!r}; only 'constant' exists in the graph")
    flat = list(call["pad"])
    rank = len(context.shape(x))
    if len(flat) > 2 * rank and any(flat[2 * rank :]):
        raise call.error("pads the batch axis; the graph runs one sample at a time")
    sides = [(flat[2 * i], flat[2 * i + 1]) if 2 * i + 1 < len(flat) else (0, 0) for i in range(rank)][::-1]
    for axis, (before, after) in enumerate(sides):
        size = context.shape(x)[axis]
        x = emit_slice(context, call, x, axis, max(-before, 0), size - max(-after, 0), suffix="_crop")
    padding = tuple((max(b, 0), max(a, 0)) for b, a in sides)
    if not any(b or a for b, a in padding):
        return x
    kind = context.fixed(x)
    number = as_number(call["value"] if call["value"] is not None else 0.0, call) or 0.0
    value = number if kind is None else number * 2.0**kind.frac
    if kind is not None and not (np.isfinite(value) and value == int(value) and kind.lo <= value <= kind.hi):
        raise call.error(f"pads with {number}, which {kind} cannot hold; use 0 or a value of the quantiser's grid")
    attrs = {"padding": padding, "value": value if kind is None else int(value)}
    return context.emit("pad", [x], context.type(x), call, attrs=attrs)


@rule(
    *(
        f"aten.{kind}{axes}d.{form}"
        for kind in ("upsample_nearest", "_upsample_nearest_exact")
        for axes in (1, 2, 3)
        for form in ("default", "vec")
    )
)
def upsample(context: Context, call: Call) -> Item:
    """Enlargement by the nearest neighbour, by whole factors."""
    x = call.value("self" if "self" in call.raw else "input")
    shape = context.shape(x)
    if any(big % n for n, big in zip(shape[1:], call.shape[1:], strict=True)):
        raise call.error(
            f"enlarges {list(shape[1:])} to {list(call.shape[1:])}; the graph has whole factors: choose such a size"
        )
    factor = tuple(big // n for n, big in zip(shape[1:], call.shape[1:], strict=True))
    if not _repeats_equally(call, shape[1:], factor):
        raise call.error(
            f"enlarges {list(shape[1:])} to {list(call.shape[1:])}, but does not repeat every element equally often: "
            "give a whole scale_factor (torch's own rounding slips for some above 40), or size="
        )
    if set(factor) == {1}:
        return x
    return context.emit("upsample", [x], context.type(x), call, attrs={"factor": factor})


def _repeats_equally(call: Call, sizes: Sequence[int], factor: Sequence[int]) -> bool:
    """Whether torch puts element ``p // factor`` at place p: it computes places in floats, by the scale given."""
    options = {name: call[name] for name in call.raw if name not in ("self", "input")}
    for axis, (n, times) in enumerate(zip(sizes, factor, strict=True), start=2):
        view = [-1 if a == axis else 1 for a in range(len(sizes) + 2)]
        places = torch.arange(float(n)).view(view)
        found = call.node.target(places.expand(1, 1, *sizes), **options)  # type: ignore[operator]
        if bool((found != places.repeat_interleave(times, axis)).any()):
            return False
    return True
