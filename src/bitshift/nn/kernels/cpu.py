"""Training kernels of the compiled module on tensors of the CPU.

Callers have asked :func:`bitshift.nn.kernels.on_cpu` about their tensors; layouts are seen to here. As many threads
work as ``torch.get_num_threads()`` says. Nothing here has a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitshift.nn.native import train_kernels

REALS: dict[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1}
"""Element types and the module's codes for them."""

native: Any = train_kernels


def dense(x: Tensor) -> Tensor:
    """``x``, or a copy of it if there are holes in its memory or axes in an unusual order."""
    if x.is_contiguous() or _channels_last(x):
        return x
    return x.contiguous()


def _channels_last(x: Tensor) -> bool:
    return (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)) or (
        x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
    )


def like(g: Tensor, x: Tensor) -> Tensor:
    """``g`` in the type and memory layout of ``x``, which is dense."""
    if g.dtype == x.dtype and g.stride() == x.stride():
        return g
    return torch.empty_like(x).copy_(g)


# ---- activation quantiser ----


def grid_forward(x: Tensor, step: float, lo: int, hi: int) -> Tensor:
    """``clamp(floor(x / step + 1/2), lo, hi) * step`` for a dense ``x``; ``step`` is a power of two."""
    y = torch.empty_like(x)
    native.grid_forward(
        REALS[x.dtype], x.data_ptr(), y.data_ptr(), x.numel(), step, lo, hi, torch.get_num_threads()
    )  # fmt: skip
    return y


def grid_backward(g: Tensor, x: Tensor, step: float, lo: int, hi: int) -> tuple[Tensor, float]:
    """``g`` where ``lo <= x / step <= hi``, else 0; and the sum of ``g * (y - x inside, y outside)``."""
    g = like(g, x)
    out = torch.empty_like(x)
    total = native.grid_backward(
        REALS[x.dtype], g.data_ptr(), x.data_ptr(), out.data_ptr(), x.numel(), step, lo, hi, torch.get_num_threads()
    )
    return out, total


# ---- norm ----


def _channels(x: Tensor) -> tuple[int, int, int]:
    """``(outer, channels, inner)``: where in a dense ``x`` (N, C, ...) the elements of a channel are."""
    rest = x[0, 0].numel() if x.numel() else 0
    if x.is_contiguous():
        return x.shape[0], x.shape[1], rest
    return x.shape[0] * rest, x.shape[1], 1


def channel_sums(a: Tensor, b: Tensor, shift: Tensor, *, centre_a: bool) -> tuple[Tensor, Tensor]:
    """Per channel (axis 1) the sum of ``a`` (less ``shift``) and of ``a * (b - shift)``; float64 ``(C)``.

    ``b`` is dense. With ``centre_a`` both sums have ``a - shift`` in place of ``a``. ``shift`` is float32 ``(C)``.
    """
    a, shift = like(a, b), shift.contiguous()
    sums = torch.empty(2, b.shape[1], dtype=torch.float64)
    native.channel_sums(
        REALS[b.dtype], a.data_ptr(), b.data_ptr(), shift.data_ptr(), centre_a, *_channels(b), sums.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return sums[0], sums[1]


def channel_map(x: Tensor, mean: Tensor, gain: Tensor, beta: Tensor) -> Tensor:
    """``(x - mean) * gain + beta`` per channel of a dense ``x``, in its dtype."""
    y = torch.empty_like(x)
    vectors = [v.detach().float().contiguous() for v in (mean, gain, beta)]
    native.channel_map(
        REALS[x.dtype], x.data_ptr(), y.data_ptr(), *(v.data_ptr() for v in vectors), *_channels(x),
        torch.get_num_threads(),
    )  # fmt: skip
    return y


def channel_map_backward(g: Tensor, x: Tensor, mean: Tensor, a: Tensor, b: Tensor, d: Tensor) -> Tensor:
    """``g * a + (x - mean) * b + d`` per channel of a dense ``x``, in its dtype."""
    g, out = like(g, x), torch.empty_like(x)
    vectors = [v.detach().float().contiguous() for v in (mean, a, b, d)]
    native.channel_map_backward(
        REALS[x.dtype], g.data_ptr(), x.data_ptr(), out.data_ptr(), *(v.data_ptr() for v in vectors), *_channels(x),
        torch.get_num_threads(),
    )  # fmt: skip
    return out
