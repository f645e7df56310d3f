"""Rules for pooling and for means over the spatial axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.fixed import Float32
from bitshift.lower.context import Call, Context, Item
from bitshift.lower.rules.registry import rule
from bitshift.lower.wide import Wide


def spatial(call: Call, argument: Sequence[int] | int | None, axes: int, default: Sequence[int]) -> tuple[int, ...]:
    """A kernel, stride, padding or dilation as one number per spatial axis; an empty one is ``default``."""
    if argument is None or argument == []:
        return tuple(default)
    numbers = [argument] if isinstance(argument, int) else list(argument)
    if not all(type(n) is int for n in numbers):
        raise call.error("its window depends on the input's size")
    return tuple(numbers * axes if len(numbers) == 1 else numbers)


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
)
def max_pool(context: Context, call: Call) -> Item:
    """The maximum over windows."""
    x = call.value("self")
    axes = 1 if "pool1d" in call.op else 2
    kernel = spatial(call, call["kernel_size"], axes, ())
    stride = spatial(call, call["stride"], axes, kernel)
    pad = spatial(call, call["padding"], axes, [0] * axes)
    dilation = spatial(call, call["dilation"], axes, [1] * axes)
    padding = window_padding(context.shape(x)[-axes:], call.shape[-axes:], kernel, stride, pad, dilation)
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    pooled = context.emit("max_pool", [x], context.type(x), call, attrs=attrs)
    return (pooled, None) if "indices" in call.op else pooled


@rule("aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool1d.default")
def adaptive_max_pool(context: Context, call: Call) -> Item:
    """The maximum over windows that split the input evenly."""
    x = call.value("self")
    kernel, axes = _even_windows(context, call, x)
    attrs = {"kernel": kernel, "stride": kernel, "padding": ((0, 0),) * axes, "dilation": (1,) * axes}
    return (context.emit("max_pool", [x], context.type(x), call, attrs=attrs), None)


@rule("aten.avg_pool2d.default", "aten.avg_pool1d.default")
def avg_pool(context: Context, call: Call) -> Item:
    """The mean over windows."""
    x = call.value("self")
    axes = 1 if "pool1d" in call.op else 2
    kernel = spatial(call, call["kernel_size"], axes, ())
    stride = spatial(call, call["stride"], axes, kernel)
    pad = spatial(call, call["padding"], axes, [0] * axes)
    padding = window_padding(context.shape(x)[-axes:], call.shape[-axes:], kernel, stride, pad, [1] * axes)
    if call["ceil_mode"] and any(after > before for before, after in padding):
        raise call.error(
            "ceil_mode with windows that hang over the edge divides by other numbers there; use ceil_mode=False"
        )
    if not call["count_include_pad"] and any(pad):
        raise call.error("count_include_pad=False divides by other numbers at the edge; use count_include_pad=True")
    divisor = call["divisor_override"] if "divisor_override" in call.raw else None
    return emit_avg_pool(context, call, x, kernel, stride, padding, divisor)


@rule("aten.adaptive_avg_pool2d.default", "aten.adaptive_avg_pool1d.default", "aten._adaptive_avg_pool2d.default")
def adaptive_avg_pool(context: Context, call: Call) -> Item:
    """The mean over windows that split the input evenly."""
    x = call.value("self")
    kernel, axes = _even_windows(context, call, x)
    return emit_avg_pool(context, call, x, kernel, kernel, ((0, 0),) * axes)


@rule("aten.mean.dim")
def mean(context: Context, call: Call) -> Item:
    """The mean over all spatial axes."""
    x = call.value("self")
    shape = context.shape(x)
    dims = call["dim"]
    axes = sorted(call.axis(d, len(shape)) for d in (dims or range(-len(shape) - 1, 0)))
    if len(shape) not in (2, 3) or axes != list(range(1, len(shape))):
        raise call.error(
            f"takes the mean over axes {list(dims or [])} of shape {['N', *shape]}; the graph has the mean over all "
            "spatial axes of (N, C, L) or (N, C, H, W)"
        )
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


def _even_windows(context: Context, call: Call, x: str) -> tuple[tuple[int, ...], int]:
    """Kernel of an adaptive pool whose windows are all alike, and the number of spatial axes."""
    axes = 1 if "pool1d" in call.op else 2
    sizes, out = context.shape(x)[-axes:], call.shape[-axes:]
    if any(n % o for n, o in zip(sizes, out, strict=True)):
        raise call.error(
            f"pools {list(sizes)} to {list(out)} with windows of different sizes; choose an output size that divides "
            "the input's"
        )
    return tuple(n // o for n, o in zip(sizes, out, strict=True)), axes
