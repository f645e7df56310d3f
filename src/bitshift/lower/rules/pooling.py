"""Rules for pooling and for means over axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from bitshift.core.fixed import Float32
from bitshift.lower.context import Call, Context, Item
from bitshift.lower.rules.joins import emit_concat
from bitshift.lower.rules.moves import emit_reshape, emit_slice
from bitshift.lower.rules.registry import rule
from bitshift.lower.wide import Wide
from bitshift.nn.layers.runs import Run, adaptive_windows, assemble, pool_windows, runs


def spatial(call: Call, argument: Sequence[int] | int | None, axes: int, default: Sequence[int]) -> tuple[int, ...]:
    """A kernel, stride, padding or dilation as one number per spatial axis; an empty one is ``default``."""
    if argument is None or argument == []:
        return tuple(default)
    numbers = [argument] if isinstance(argument, int) else list(argument)
    if not all(type(n) is int for n in numbers):
        raise call.error("its window depends on the input's size")
    return tuple(numbers * axes if len(numbers) == 1 else numbers)


def axes_of(call: Call) -> int:
    """The spatial axes of a pool, from the op's name."""
    return next(n for n in (1, 2, 3) if f"pool{n}d" in call.op)


def window_padding(
    sizes: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """Padding (before, after) per axis that gives ``out`` windows; more after than before for ceil_mode."""
    ends = [
        (o - 1) * s + d * (k - 1) + 1 - n - p
        for n, o, k, s, p, d in zip(sizes, out, kernel, stride, pad, dilation, strict=True)
    ]
    return tuple((p, max(end, p)) if end > p else (p, p) for p, end in zip(pad, ends, strict=True))


@rule(
    "aten.max_pool2d.default",
    "aten.max_pool1d.default",
    "aten.max_pool2d_with_indices.default",
    "aten.max_pool1d_with_indices.default",
    "aten.max_pool3d.default",
    "aten.max_pool3d_with_indices.default",
)
def max_pool(context: Context, call: Call) -> Item:
    """The maximum over windows."""
    x = call.value("self")
    axes = axes_of(call)
    kernel = spatial(call, call["kernel_size"], axes, ())
    stride = spatial(call, call["stride"], axes, kernel)
    pad = spatial(call, call["padding"], axes, [0] * axes)
    dilation = spatial(call, call["dilation"], axes, [1] * axes)
    padding = window_padding(context.shape(x)[-axes:], call.shape[-axes:], kernel, stride, pad, dilation)
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    pooled = context.emit("max_pool", [x], context.type(x), call, attrs=attrs)
    return (pooled, None) if "indices" in call.op else pooled


@rule("aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool3d.default")
def adaptive_max_pool(context: Context, call: Call) -> Item:
    """The maximum over windows that split the input."""
    x = call.value("self")

    def pool(part: str, kernel: tuple[int, ...], stride: tuple[int, ...], _: int, shape: tuple[int, ...]) -> str:
        plain = ((0, 0),) * len(kernel)
        attrs = {"kernel": kernel, "stride": stride, "padding": plain, "dilation": (1,) * len(kernel)}
        return context.emit("max_pool", [part], context.type(part), call, attrs=attrs, shape=shape)

    return (_split_pool(context, call, x, _adaptive_runs(context, call, x), pool), None)


@rule("aten.avg_pool2d.default", "aten.avg_pool1d.default", "aten.avg_pool3d.default")
def avg_pool(context: Context, call: Call) -> Item:
    """The mean over windows."""
    x = call.value("self")
    axes = axes_of(call)
    kernel = spatial(call, call["kernel_size"], axes, ())
    stride = spatial(call, call["stride"], axes, kernel)
    pad = spatial(call, call["padding"], axes, [0] * axes)
    override = call["divisor_override"] if "divisor_override" in call.raw else None
    padding = window_padding(context.shape(x)[-axes:], call.shape[-axes:], kernel, stride, pad, [1] * axes)
    hangs_over = any(after > before for before, after in padding)
    if override is not None or (not hangs_over and (call["count_include_pad"] or not any(pad))):
        return emit_avg_pool(context, call, x, kernel, stride, padding, override)
    flags = {"ceil_mode": bool(call["ceil_mode"]), "count_padding": bool(call["count_include_pad"])}
    sizes = zip(context.shape(x)[-axes:], kernel, stride, pad, strict=True)
    plan = [runs(pool_windows(n, k, s, p, **flags)) for n, k, s, p in sizes]
    return _split_average(context, call, x, plan)


@rule(
    "aten.adaptive_avg_pool2d.default",
    "aten.adaptive_avg_pool1d.default",
    "aten._adaptive_avg_pool2d.default",
    "aten.adaptive_avg_pool3d.default",
    "aten._adaptive_avg_pool3d.default",
)
def adaptive_avg_pool(context: Context, call: Call) -> Item:
    """The mean over windows that split the input."""
    x = call.value("self")
    return _split_average(context, call, x, _adaptive_runs(context, call, x))


@rule("aten.mean.dim")
def mean(context: Context, call: Call) -> Item:
    """The mean over per-sample axes: a pool over all spatial ones, to which any others are brought first."""
    x = call.value("self")
    shape = context.shape(x)
    axes = sorted(call.axis(d, len(shape)) for d in (call["dim"] or range(-len(shape) - 1, 0)))
    if len(shape) not in (2, 3, 4) or axes != list(range(1, len(shape))):
        kept = [a for a in range(len(shape)) if a not in axes]
        order = (*kept, *axes)
        if order != tuple(range(len(shape))):
            turned = [shape[a] for a in order]
            x = context.emit(
                "transpose", [x], context.type(x), call, shape=turned, attrs={"perm": order}, suffix="_last"
            )
        flat = math.prod(shape[a] for a in kept), math.prod(shape[a] for a in axes)
        x = emit_reshape(context, call, x, flat, suffix="_rows")
        shape = flat
    kernel = shape[1:]
    pooled = emit_avg_pool(
        context, call, x, kernel, kernel, ((0, 0),) * len(kernel), shape=(shape[0], *(1 for _ in kernel))
    )
    if context.shape(pooled) == call.shape:
        return pooled
    return context.emit("reshape", [pooled], context.type(pooled), call, attrs={"shape": call.shape}, suffix="_flat")


def emit_avg_pool(
    context: Context,
    call: Call,
    x: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    divisor: int | None = None,
    *,
    shape: Sequence[int] | None = None,
) -> str:
    """A mean over windows: exact for fixed point when it divides by a power of two, else a float mean."""
    area = int(np.prod(kernel, dtype=np.int64)) if divisor is None else int(divisor)
    if area <= 0:
        raise call.error(f"divides by {area}; use a positive divisor")
    attrs = {"kernel": tuple(kernel), "stride": tuple(stride), "padding": tuple(padding)}
    kind = context.fixed(x)
    if kind is not None and area & (area - 1) == 0:
        out = Wide.at(kind.frac + area.bit_length() - 1)
        attrs |= {"mult": 1, "offset": 0, "shift": 0}
        return context.emit("avg_pool", [x], out, call, attrs=attrs, shape=shape)
    x = context.as_float(x, call)
    attrs["scale"] = float(np.float32(1.0 / area))
    return context.emit("avg_pool", [x], Float32(), call, attrs=attrs, shape=shape)


def _adaptive_runs(context: Context, call: Call, x: str) -> list[list[Run]]:
    """The windows of an adaptive pool, an axis each."""
    axes = axes_of(call)
    sizes = zip(context.shape(x)[-axes:], call.shape[-axes:], strict=True)
    return [runs(adaptive_windows(n, out)) for n, out in sizes]


def _split_average(context: Context, call: Call, x: str, plan: list[list[Run]]) -> str:
    def pool(part: str, kernel: tuple[int, ...], stride: tuple[int, ...], area: int, shape: tuple[int, ...]) -> str:
        return emit_avg_pool(context, call, part, kernel, stride, ((0, 0),) * len(kernel), area, shape=shape)

    if context.fixed(x) is not None and any(math.prod(r.divisor for r in c).bit_count() > 1 for c in product(*plan)):
        x = context.as_float(x, call)  # one mean in float makes all of them so, with one dequantize
    return _split_pool(context, call, x, plan, pool)


def _split_pool(
    context: Context,
    call: Call,
    x: str,
    plan: list[list[Run]],
    pool: Callable[[str, tuple[int, ...], tuple[int, ...], int, tuple[int, ...]], str],
) -> str:
    """A pool of ``x`` from pools of its parts, side by side."""
    first = len(context.shape(x)) - len(plan)

    def part(chosen: Sequence[Run]) -> str:
        piece = x
        for axis, run in enumerate(chosen, start=first):
            piece = emit_slice(context, call, piece, axis, run.start, run.stop, suffix="_part")
        kernel, stride = tuple(r.kernel for r in chosen), tuple(r.stride for r in chosen)
        shape = (*context.shape(x)[:first], *(r.count for r in chosen))
        return pool(piece, kernel, stride, math.prod(r.divisor for r in chosen), shape)

    def join(parts: list[str], axis: int) -> str:
        return emit_concat(context, call, parts, first + axis, whole=False)

    return assemble(plan, part, join)
