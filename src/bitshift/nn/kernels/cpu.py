"""Training kernels of the compiled module on tensors of the CPU.

Callers have asked :func:`bitshift.nn.kernels.on_cpu` about their tensors; layouts are seen to here. As many threads
work as ``torch.get_num_threads()`` says. Nothing here has a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitshift.nn.native import train_kernels

REALS: dict[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1}
"""Element types and the module's codes for them."""

_VERSION = 4  # of the calls below; the module says which it has, so that one built earlier is not called wrongly

native: Any = train_kernels if getattr(train_kernels, "version", 0) == _VERSION else None


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


def grid_forward(x: Tensor, step: Tensor, lo: int, hi: int) -> Tensor:
    """``clamp(floor(x / step + 1/2), lo, hi) * step`` for a dense ``x``; ``step`` is a power of two."""
    y = torch.empty_like(x)
    native.grid_forward(
        REALS[x.dtype], x.data_ptr(), y.data_ptr(), x.numel(), float(step), lo, hi, torch.get_num_threads()
    )  # fmt: skip
    return y


def grid_backward(g: Tensor, x: Tensor, step: Tensor, lo: int, hi: int) -> tuple[Tensor, float]:
    """``g`` where ``lo <= x / step <= hi``, else 0; and the sum of ``g * (y - x inside, y outside)``."""
    g = like(g, x)
    out = torch.empty_like(x)
    total = native.grid_backward(
        REALS[x.dtype],
        g.data_ptr(),
        x.data_ptr(),
        out.data_ptr(),
        x.numel(),
        float(step),
        lo,
        hi,
        torch.get_num_threads(),
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

    ``b`` is dense. With ``centre_a`` both sums have ``a - shift`` in place of ``a``. ``shift`` is ``(C)``.
    """
    a, shift = like(a, b), shift.detach().float().contiguous()
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


# ---- weights; latents are contiguous ----


def rows(latent: Tensor, scale: Tensor) -> tuple[int, int]:
    """``(scales, weights that share one)``."""
    groups = scale.numel()
    return groups, latent.numel() // max(groups, 1)


def gate_forward(
    latents: Tensor, scale: Tensor, values: Tensor, *, negative: bool = False
) -> tuple[Tensor, Tensor, float]:
    """Weight (O, ...) and sign pattern (uint8) of ``latents`` (L, O, ...): ``values[pattern] * scale``.

    ``values`` holds 2^L floats, perhaps as int32 bits. The third result is, if ``negative``, the sum of
    ``min(latents[1], 0)``.
    """
    latents, scale, values = latents.contiguous(), scale.contiguous(), values.contiguous()
    weight = torch.empty(latents.shape[1:])
    pattern = torch.empty(latents.shape[1:], dtype=torch.uint8)
    total = native.gate_forward(
        REALS[latents.dtype], latents.data_ptr(), latents.shape[0], *rows(weight, scale), scale.data_ptr(),
        values.data_ptr(), negative, weight.data_ptr(), pattern.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return weight, pattern, total


def gate_backward(
    grad: Tensor, pattern: Tensor, scale: Tensor, slopes: Tensor, dtype: torch.dtype, *,
    pushed: Tensor | None = None, push: float = 0.0,
) -> Tensor:  # fmt: skip
    """``slopes[j, pattern] * (grad * scale)`` for each of the L latents, (L, O, ...) in ``dtype``.

    ``push`` is added to that of latent 1 where ``pushed[1]``, the latents themselves, is negative.
    """
    grad, scale, slopes = grad.float().contiguous(), scale.contiguous(), slopes.contiguous()
    out = torch.empty((slopes.shape[0], *pattern.shape), dtype=dtype)
    native.gate_backward(
        REALS[dtype], grad.data_ptr(), pattern.data_ptr(), slopes.shape[0], *rows(pattern, scale), scale.data_ptr(),
        slopes.data_ptr(), 0 if pushed is None else pushed.data_ptr(), push, out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out


@dataclass(frozen=True)
class Levels:
    """Rising whole levels and the thresholds between them, float32; ``table`` None: -top .. top by rounding."""

    top: float
    table: Tensor | None = None
    thresholds: Tensor | None = None

    def arguments(self) -> tuple[int, int, int, float]:
        """As the module takes them."""
        if self.table is None or self.thresholds is None:
            return 0, 0, 0, self.top
        return self.table.data_ptr(), self.thresholds.data_ptr(), self.table.numel(), self.top


def level_forward(latent: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    """``level(latent / scale) * scale``; ``scale`` has one entry a channel, or one."""
    latent, scale = latent.contiguous(), scale.contiguous()
    weight = torch.empty(latent.shape)
    native.level_forward(
        REALS[latent.dtype], latent.data_ptr(), *rows(latent, scale), scale.data_ptr(), *levels.arguments(),
        weight.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return weight


def level_backward(
    grad: Tensor, latent: Tensor, scale: Tensor, levels: Levels, *, learned: bool
) -> tuple[Tensor, Tensor | None]:
    """``grad`` where ``|latent / scale| <= top``, else 0, in the dtype of ``latent``.

    With ``learned`` also, for each scale, the sum of ``grad * (level - v)`` inside and ``grad * level`` outside, for
    ``v = latent / scale``; float32.
    """
    grad, latent, scale = grad.float().contiguous(), latent.contiguous(), scale.contiguous()
    out = torch.empty_like(latent)
    sums = torch.empty(scale.numel(), dtype=torch.float64) if learned else None
    native.level_backward(
        REALS[latent.dtype], grad.data_ptr(), latent.data_ptr(), *rows(latent, scale), scale.data_ptr(),
        *levels.arguments(), out.data_ptr(), 0 if sums is None else sums.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out, None if sums is None else sums.float()


def power_forward(latent: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """``+-2 ** round(log2 |latent|)`` within ``low .. high``, powers of two, one a channel."""
    latent, low, high = latent.contiguous(), low.contiguous(), high.contiguous()
    weight = torch.empty(latent.shape)
    native.power_forward(
        REALS[latent.dtype], latent.data_ptr(), *rows(latent, low), low.data_ptr(), high.data_ptr(),
        weight.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return weight


def shift_sign_forward(
    shift: Tensor, sign: Tensor, top: Tensor, low: int, *, squares: bool = False
) -> tuple[Tensor, float]:
    """``sign(round(sign)) * 2 ** (round(shift) within low .. 0, + top)``; ``top`` int32, one a channel.

    The second result is, if ``squares``, the sum of ``(2 ** (shift + top)) ** 2``.
    """
    shift, sign, top = shift.contiguous(), sign.contiguous(), top.contiguous()
    weight = torch.empty(shift.shape)
    total = native.shift_sign_forward(
        REALS[shift.dtype], shift.data_ptr(), sign.data_ptr(), *rows(shift, top), top.data_ptr(), low, squares,
        weight.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return weight, total


def shift_sign_backward(
    grad: Tensor, weight: Tensor, shift: Tensor, scale: Tensor, *, push: float = 0.0
) -> tuple[Tensor, Tensor]:
    """``(grad * weight * ln 2 + push * (2 ** shift * scale) ** 2, grad * scale)`` in the dtype of ``shift``."""
    grad, shift, scale = grad.float().contiguous(), shift.contiguous(), scale.contiguous()
    d_shift, d_sign = torch.empty_like(shift), torch.empty_like(shift)
    native.shift_sign_backward(
        REALS[shift.dtype], grad.data_ptr(), weight.data_ptr(), shift.data_ptr(), *rows(weight, scale),
        scale.data_ptr(), push, d_shift.data_ptr(), d_sign.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return d_shift, d_sign


# ---- SGD on bfloat16 ----


def rounded_sgd(
    grad: Tensor, latent: Tensor, momentum: Tensor | None, *, lr: float, factor: float, decay: float, nesterov: bool,
    key: int,
) -> None:  # fmt: skip
    """One step of SGD on a contiguous bfloat16 ``latent``, in place; see ``nn/latents.py``, whose formula this is."""
    grad = grad.contiguous()
    native.rounded_sgd(
        grad.data_ptr(), latent.data_ptr(), 0 if momentum is None else momentum.data_ptr(), latent.numel(), lr, factor,
        decay, nesterov, key, torch.get_num_threads(),
    )  # fmt: skip
    torch.autograd.graph.increment_version([latent] if momentum is None else [latent, momentum])
