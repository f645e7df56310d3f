"""Training kernels in Triton for CUDA tensors: the functions of ``cpu.py``, by the same names.

Written for the same results: divisions are rounded correctly, sums are taken in a fixed order. Held to the formulas by
Triton's interpreter on the CPU, and compiled for a GPU without one (tests/nn/test_triton_kernels.py); they have not run
on a GPU, and their speed is unknown. The norm and the fused penalties have no kernel here: PyTorch computes them.
"""
# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false, reportIndexIssue=false
# pyright: reportMissingImports=false
# A kernel's arguments are pointers and symbols of Triton's language, which has no type stubs.

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitshift.nn.kernels.cpu import Levels, dense, like, rows

BLOCK = 1024
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _where_it_lies(launch: Callable[Concatenate[Tensor, _P], _R]) -> Callable[Concatenate[Tensor, _P], _R]:
    """``launch`` with its first tensor's device as the current one: Triton launches there, wherever tensors lie."""

    @wraps(launch)
    def guarded(first: Tensor, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with torch.cuda.device_of(first):
            return launch(first, *args, **kwargs)

    return guarded


def _blocks(count: int) -> tuple[int]:
    return (max(1, triton.cdiv(count, BLOCK)),)


@triton.jit
def _as(v, kind: tl.constexpr):
    """``v`` in the type ``kind``; spelt out for bfloat16, which Triton's interpreter cuts off instead of rounding."""
    if kind == tl.bfloat16:
        bits = v.to(tl.uint32, bitcast=True)
        raw = tl.where(v == v, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FC0)
        out = raw.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        out = v
    return out


@triton.jit
def _on_grid(x, step, lo, hi):
    v = tl.floor(x * (1.0 / step) + 0.5)  # 1 / step is exact, the product too
    v = tl.where(v < lo, lo, v)
    v = tl.where(v > hi, hi, v)
    return v * step


@triton.jit
def _grid_forward(x, y, step, lo, hi, size, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    value = tl.load(x + i, inside, other=0.0).to(tl.float32)
    tl.store(y + i, _as(_on_grid(value, tl.load(step), lo, hi), y.dtype.element_ty), inside)


@triton.jit
def _grid_backward(g, x, dx, sums, step, lo, hi, size, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    s = tl.load(step)
    value = tl.load(x + i, inside, other=0.0).to(tl.float32)
    slope = tl.load(g + i, inside, other=0.0).to(tl.float32)
    outside = (value < lo * s) | (value > hi * s)
    tl.store(dx + i, _as(tl.where(outside, 0.0, slope), dx.dtype.element_ty), inside)
    part = slope * (_on_grid(value, s, lo, hi) - tl.where(outside, 0.0, value))
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(inside, part, 0.0), 0))


@_where_it_lies
def grid_forward(x: Tensor, step: Tensor, lo: int, hi: int) -> Tensor:
    """See ``cpu.grid_forward``; ``step`` stays on the device."""
    y = torch.empty_like(x)
    _grid_forward[_blocks(x.numel())](x, y, step, float(lo), float(hi), x.numel(), BLOCK=BLOCK)
    return y


@_where_it_lies
def grid_backward(g: Tensor, x: Tensor, step: Tensor, lo: int, hi: int) -> tuple[Tensor, Tensor]:
    """See ``cpu.grid_backward``; the sum is a tensor."""
    g, out = like(g, x), torch.empty_like(x)
    sums = torch.empty(_blocks(x.numel())[0], dtype=torch.float32, device=x.device)
    _grid_backward[_blocks(x.numel())](g, x, out, sums, step, float(lo), float(hi), x.numel(), BLOCK=BLOCK)
    return out, sums.double().sum()


@triton.jit
def _gate_forward(x, values, scale, w, pattern, size, inner, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    index = (tl.load(x + i, inside, other=0.0).to(tl.float32) >= 0).to(tl.int32)
    for j in tl.static_range(1, COUNT):
        index += (tl.load(x + j * size + i, inside, other=0.0).to(tl.float32) > 0).to(tl.int32) << j
    s = tl.load(scale + i // inner, inside, other=1.0)
    tl.store(w + i, tl.load(values + index, inside, other=0.0) * s, inside)
    tl.store(pattern + i, index.to(tl.uint8), inside)


@triton.jit
def _gate_backward(g, pattern, slopes, scale, out, size, inner, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    index = tl.load(pattern + i, inside, other=0).to(tl.int32)
    scaled = tl.load(g + i, inside, other=0.0) * tl.load(scale + i // inner, inside, other=1.0)
    for j in tl.static_range(COUNT):
        slope = tl.load(slopes + j * (1 << COUNT) + index, inside, other=0.0)
        tl.store(out + j * size + i, _as(slope * scaled, out.dtype.element_ty), inside)


@_where_it_lies
def gate_forward(latents: Tensor, scale: Tensor, values: Tensor) -> tuple[Tensor, Tensor, float]:
    """See ``cpu.gate_forward``, which also has the sum for a penalty; here it is 0."""
    latents, values = latents.contiguous(), values.contiguous().view(torch.float32)
    weight = torch.empty(latents.shape[1:], device=latents.device)
    pattern = torch.empty(latents.shape[1:], dtype=torch.uint8, device=latents.device)
    _gate_forward[_blocks(weight.numel())](
        latents, values, scale.contiguous(), weight, pattern, weight.numel(), rows(weight, scale)[1],
        COUNT=latents.shape[0], BLOCK=BLOCK,
    )  # fmt: skip
    return weight, pattern, 0.0


@_where_it_lies
def gate_backward(grad: Tensor, pattern: Tensor, scale: Tensor, slopes: Tensor, dtype: torch.dtype) -> Tensor:
    """See ``cpu.gate_backward``."""
    out = torch.empty((slopes.shape[0], *pattern.shape), dtype=dtype, device=grad.device)
    _gate_backward[_blocks(pattern.numel())](
        grad.float().contiguous(), pattern, slopes.contiguous().view(torch.float32), scale.contiguous(), out,
        pattern.numel(), rows(pattern, scale)[1], COUNT=slopes.shape[0], BLOCK=BLOCK,
    )  # fmt: skip
    return out


@triton.jit
def _level(v, levels, thresholds, top, COUNT: tl.constexpr):
    if COUNT == 0:
        level = tl.floor(v + 0.5)
        level = tl.where(level < -top, -top, level)
        level = tl.where(level > top, top, level)
    else:
        level = tl.zeros_like(v) + tl.load(levels)
        for j in tl.static_range(1, COUNT):
            step = tl.load(levels + j) - tl.load(levels + j - 1)
            level += tl.where(tl.load(thresholds + j - 1) > v, 0.0, step)
    return level


@triton.jit
def _level_forward(x, scale, levels, thresholds, w, size, inner, top, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    s = tl.load(scale + i // inner, inside, other=1.0)
    v = tl.div_rn(tl.load(x + i, inside, other=0.0).to(tl.float32), s)
    tl.store(w + i, _level(v, levels, thresholds, top, COUNT) * s, inside)


@triton.jit
def _level_backward(
    g, x, scale, levels, thresholds, dx, sums, inner, blocks, top, COUNT: tl.constexpr, LEARNED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # a program has one of the blocks of one channel, so that the sums of a channel are added in one order; one axis of
    # programs, because CUDA's second one ends at 65,535, which a scale for a whole tensor of 64 Mi weights is beyond
    program = tl.program_id(0).to(tl.int64)
    group = program // blocks
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside, i = at < inner, group * inner + at
    v = tl.div_rn(tl.load(x + i, inside, other=0.0).to(tl.float32), tl.load(scale + group))
    slope = tl.load(g + i, inside, other=0.0)
    within = tl.abs(v) <= top
    tl.store(dx + i, _as(slope * within.to(tl.float32), dx.dtype.element_ty), inside)
    if LEARNED:
        part = slope * (_level(v, levels, thresholds, top, COUNT) - tl.where(within, v, 0.0))
        tl.store(sums + program, tl.sum(tl.where(inside, part, 0.0), 0))


def _tables(levels: Levels, device: torch.device) -> tuple[Tensor, Tensor, int]:
    if levels.table is None or levels.thresholds is None:
        empty = torch.zeros(1, device=device)
        return empty, empty, 0
    return levels.table.to(device), levels.thresholds.to(device), levels.table.numel()


@_where_it_lies
def level_forward(latent: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    """See ``cpu.level_forward``."""
    latent, scale = latent.contiguous(), scale.contiguous()
    table, thresholds, count = _tables(levels, latent.device)
    weight = torch.empty(latent.shape, device=latent.device)
    _level_forward[_blocks(latent.numel())](
        latent, scale, table, thresholds, weight, latent.numel(), rows(latent, scale)[1], float(levels.top),
        COUNT=count, BLOCK=BLOCK,
    )  # fmt: skip
    return weight


@_where_it_lies
def level_backward(
    grad: Tensor, latent: Tensor, scale: Tensor, levels: Levels, *, learned: bool
) -> tuple[Tensor, Tensor | None]:
    """See ``cpu.level_backward``."""
    latent, scale = latent.contiguous(), scale.contiguous()
    table, thresholds, count = _tables(levels, latent.device)
    groups, inner = rows(latent, scale)
    shape = (groups, triton.cdiv(inner, BLOCK))
    out, sums = torch.empty_like(latent), torch.empty(shape, device=latent.device)
    _level_backward[(shape[0] * shape[1],)](
        grad.float().contiguous(), latent, scale, table, thresholds, out, sums, inner, shape[1], float(levels.top),
        COUNT=count, LEARNED=learned, BLOCK=BLOCK,
    )  # fmt: skip
    return out, sums.double().sum(1).float() if learned else None


@triton.jit
def _power_forward(x, low, high, w, size, inner, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    value = tl.load(x + i, inside, other=1.0).to(tl.float32)
    least, most = tl.load(low + i // inner, inside, other=1.0), tl.load(high + i // inner, inside, other=1.0)
    magnitude = tl.abs(value)
    magnitude = tl.where(magnitude < least, least, magnitude)
    magnitude = tl.where(magnitude > most, most, magnitude)
    # added to the bits, the number carries into the exponent exactly if the mantissa is above sqrt(2)
    bits = (magnitude.to(tl.int32, bitcast=True) + (0x800000 - 0x3504F4)) & 0x7F800000
    signed = bits | (value.to(tl.int32, bitcast=True) & -0x80000000)
    tl.store(w + i, signed.to(tl.float32, bitcast=True), inside)


@_where_it_lies
def power_forward(latent: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """See ``cpu.power_forward``."""
    latent = latent.contiguous()
    weight = torch.empty(latent.shape, device=latent.device)
    _power_forward[_blocks(latent.numel())](
        latent, low.contiguous(), high.contiguous(), weight, latent.numel(), rows(latent, low)[1], BLOCK=BLOCK
    )
    return weight


@triton.jit
def _shift_sign_forward(shift, sign, top, w, low, size, inner, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    p = tl.load(shift + i, inside, other=0.0).to(tl.float32)
    p = tl.where(p < low - 1.0, low - 1.0, p)
    p = tl.where(p > 1.0, 1.0, p)
    p = (p + 12582912.0) - 12582912.0  # rounds to whole numbers, halves to even
    p = tl.where(p < low, low, p)
    p = tl.where(p > 0.0, 0.0, p)
    exponent = p.to(tl.int32) + tl.load(top + i // inner, inside, other=0) + 127
    s = tl.load(sign + i, inside, other=0.0).to(tl.float32)
    trit = (s > 0.5).to(tl.float32) - (s < -0.5).to(tl.float32)
    tl.store(w + i, (exponent << 23).to(tl.float32, bitcast=True) * trit, inside)


@triton.jit
def _shift_sign_backward(g, w, scale, d_shift, d_sign, size, inner, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    slope = tl.load(g + i, inside, other=0.0)
    of_shift = slope * tl.load(w + i, inside, other=0.0) * 0.6931471805599453
    of_sign = slope * tl.load(scale + i // inner, inside, other=1.0)
    tl.store(d_shift + i, _as(of_shift, d_shift.dtype.element_ty), inside)
    tl.store(d_sign + i, _as(of_sign, d_sign.dtype.element_ty), inside)


@_where_it_lies
def shift_sign_forward(shift: Tensor, sign: Tensor, top: Tensor, low: int) -> tuple[Tensor, float]:
    """See ``cpu.shift_sign_forward``, which also has the sum for a penalty; here it is 0."""
    shift, sign = shift.contiguous(), sign.contiguous()
    weight = torch.empty(shift.shape, device=shift.device)
    _shift_sign_forward[_blocks(shift.numel())](
        shift, sign, top.contiguous(), weight, float(low), shift.numel(), rows(shift, top)[1], BLOCK=BLOCK
    )
    return weight, 0.0


@_where_it_lies
def shift_sign_backward(grad: Tensor, weight: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """See ``cpu.shift_sign_backward``."""
    d_shift = torch.empty(weight.shape, dtype=shift.dtype, device=shift.device)
    d_sign = torch.empty_like(d_shift)
    _shift_sign_backward[_blocks(weight.numel())](
        grad.float().contiguous(), weight, scale.contiguous(), d_shift, d_sign, weight.numel(), rows(weight, scale)[1],
        BLOCK=BLOCK,
    )  # fmt: skip
    return d_shift, d_sign


@triton.jit
def _mixed(x):
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _rounded(v, bits):
    raw = (v.to(tl.uint32, bitcast=True) + bits) >> 16
    return tl.where(v == v, raw, 0x7FC0).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _rounded_sgd(
    g, p, m, lr, factor, decay, key, size, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, BLOCK: tl.constexpr
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    noise = _mixed((i.to(tl.uint32) * 0x9E3779B1) ^ key.to(tl.uint32))
    latent = tl.load(p + i, inside, other=0.0).to(tl.float32)
    step = tl.load(g + i, inside, other=0.0).to(tl.float32) + latent * decay
    if MOMENTUM:
        moved = tl.load(m + i, inside, other=0.0).to(tl.float32) * factor + step
        tl.store(m + i, _rounded(moved, noise >> 16), inside)
        step = step + moved * factor if NESTEROV else moved
    tl.store(p + i, _rounded(latent - step * lr, noise & 0xFFFF), inside)


@_where_it_lies
def rounded_sgd(
    grad: Tensor, latent: Tensor, momentum: Tensor | None, *, lr: float, factor: float, decay: float, nesterov: bool,
    key: int,
) -> None:  # fmt: skip
    """See ``nn/latents.py``; products are rounded before they are added, as there."""
    _rounded_sgd[_blocks(latent.numel())](
        grad.contiguous(), latent, latent if momentum is None else momentum, lr, factor, decay, key, latent.numel(),
        MOMENTUM=momentum is not None, NESTEROV=nesterov, BLOCK=BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
    torch.autograd.graph.increment_version([latent] if momentum is None else [latent, momentum])


__all__ = [
    "dense",
    "gate_backward",
    "gate_forward",
    "grid_backward",
    "grid_forward",
    "level_backward",
    "level_forward",
    "power_forward",
    "rounded_sgd",
    "shift_sign_backward",
    "shift_sign_forward",
]
