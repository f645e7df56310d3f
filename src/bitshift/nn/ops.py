"""Custom operators that a frozen network calls: exact integer arithmetic carried by floating-point tensors.

Every ``x`` is a float tensor whose elements lie on a grid ``q * 2**-frac`` with integer ``q``. Sums of products
are accumulated in float32 while ``sum |level| * max |q|`` is below 2**24 and in float64 above, so each
accumulator is the integer that int64 arithmetic gives. The ``exact_*`` functions hold the arithmetic and are what the
training layers call in ``eval``; the registered ``torch.ops.bitshift.*`` are the same functions behind an
opaque name, which survives ``torch.export`` and ``torch.compile``. They have no gradient.
"""
# ruff: noqa: ARG001 - a fake kernel must take its operator's whole signature
# No "from __future__ import annotations": torch.library reads the annotations to write the schema.

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bitshift.core.formats import get_format
from bitshift.nn import native
from bitshift.nn.native import power_of_two
from bitshift.nn.weights import inputs_first

_cpu = torch.library.Library("bitshift", "FRAGMENT")
_EXACT_FLOAT32 = 1 << 24
_EXACT_FLOAT64 = 1 << 53


@contextlib.contextmanager
def _plain_float(x: Tensor) -> Iterator[None]:
    """Inside: no autocast, no NNPACK (its transforms round)."""
    with torch.autocast(x.device.type, enabled=False), torch.backends.nnpack.flags(enabled=False):
        yield


def level_table(format: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The levels of a format by code, shape ``(2**bits,)``."""
    return torch.tensor(get_format(format).levels, dtype=dtype, device=device)


def decode(codes: Tensor, format: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Levels of uint8 ``codes`` in ``dtype``, shape of ``codes``."""
    return level_table(format, codes.device, dtype)[codes.long()]


def exact_dtype(x_int: Tensor, levels: Tensor) -> torch.dtype:
    """The dtype in which the sums of ``levels`` (O, ...) times ``x_int`` are exact.

    float32 is used on the CPU only: cuDNN and TF32 choose algorithms that round intermediate values.

    Raises:
        OverflowError: even float64 cannot hold the sums.
    """
    if x_int.numel() == 0 or levels.numel() == 0:
        return torch.float64
    low, high = x_int.aminmax()
    bound = float(levels.abs().flatten(1).sum(1).max()) * max(-float(low), float(high))
    if bound >= _EXACT_FLOAT64 or bound != bound:
        raise OverflowError(f"accumulator bound {bound:.6g} exceeds 2**53: not an integer network's input")
    ieee = torch.get_float32_matmul_precision() == "highest" and x_int.device.type == "cpu"
    return torch.float32 if bound < _EXACT_FLOAT32 and ieee else torch.float64


def split_padding(padding: list[int]) -> tuple[list[int], list[int]]:
    """``[before, after]`` per spatial axis, flat, as the part a convolution takes and the rest for ``F.pad``."""
    pairs = list(zip(padding[::2], padding[1::2], strict=True))
    if all(before == after for before, after in pairs):
        return [before for before, _ in pairs], []
    return [0] * len(pairs), [side for pair in reversed(pairs) for side in pair]


def convolve(
    x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor:
    """Convolution with 1 to 3 spatial axes (from ``weight``'s shape) and zero padding ``[before, after]`` per axis."""
    inside, outside = split_padding(padding)
    if outside:
        x = F.pad(x, outside)
    function = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
    return function(x, weight, None, stride, inside, dilation, groups)


def convolve_transposed(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Transposed convolution with a ``weight`` ``(O, I/groups, *kernel)`` that crops ``[before, after]`` per axis."""
    inside, outside = split_padding(padding)
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.dim() - 3]
    y = function(x, inputs_first(weight, groups), None, stride, inside, output_padding, groups, dilation)
    return F.pad(y, [-side for side in outside]) if outside else y


def _finish(acc: Tensor, mult: Tensor, offset: Tensor, frac: Tensor, shape: list[int], wide: bool) -> Tensor:
    """``(acc * mult + offset) * 2**-frac`` per channel; ``shape`` broadcasts a channel vector against ``acc``."""
    acc = acc.round_() if acc.dtype == torch.float64 else acc.double()  # a GPU's sums may be off by 2**-20
    step = power_of_two(-frac)
    # Scaling by a power of two commutes with every rounding, so the two factors are one.
    acc.mul_((mult * step).view(shape)).add_((offset * step).view(shape))
    return acc if wide else acc.float()


def _on_integers(x: Tensor, frac_in: int) -> Tensor:
    """``x * 2**frac_in``, exact: in float32 where neither factor can leave its range."""
    fits = x.dtype == torch.float64 or (x.dtype == torch.float32 and abs(frac_in) < 64)
    return (x if fits else x.double()) * 2.0**frac_in


def _exact(
    sums: Callable[[Tensor, Tensor], Tensor], x: Tensor, codes: Tensor, mult: Tensor, offset: Tensor, frac: Tensor,
    format: str, frac_in: int, wide: bool,
) -> Tensor:  # fmt: skip
    """``(acc * mult[c] + offset[c]) * 2**-frac[c]``, ``acc = sums(x * 2**frac_in, levels)`` in exact arithmetic."""
    with _plain_float(x):
        x_int = _on_integers(x, frac_in)
        levels = decode(codes, format, torch.float64)
        dtype = exact_dtype(x_int, levels)
        acc = sums(x_int.to(dtype), levels.to(dtype))
        return _finish(acc, mult, offset, frac, [-1] + [1] * (codes.dim() - 2), wide)


def exact_conv(
    x: Tensor,
    codes: Tensor,
    mult: Tensor,
    offset: Tensor,
    frac: Tensor,
    format: str,
    frac_in: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    wide: bool,
) -> Tensor:
    """``(acc * mult[c] + offset[c]) * 2**-frac[c]``, ``acc`` the integer convolution of ``x * 2**frac_in``.

    ``x`` is ``(N, I, *spatial)`` on the grid ``2**-frac_in``, ``codes`` uint8 ``(O, I/groups, *kernel)``, and
    ``mult``, ``offset``, ``frac`` are int32, int64, int32 of shape ``(O)``. ``padding`` counts zeros ``[before,
    after]`` per spatial axis, flat. The result is float64 if ``wide``, else float32 (the caller knows that it is
    exact there).
    """
    sums = partial(convolve, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return _exact(sums, x, codes, mult, offset, frac, format, frac_in, wide)


def exact_conv_transpose(
    x: Tensor,
    codes: Tensor,
    mult: Tensor,
    offset: Tensor,
    frac: Tensor,
    format: str,
    frac_in: int,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    wide: bool,
) -> Tensor:
    """:func:`exact_conv` for a transposed convolution; ``codes`` are ``(O, I/groups, *kernel)`` here, too."""
    window = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    sums = partial(convolve_transposed, **window, groups=groups)
    return _exact(sums, x, codes, mult, offset, frac, format, frac_in, wide)


def exact_embedding(ids: Tensor, codes: Tensor, mult: Tensor, frac: Tensor, format: str, wide: bool) -> Tensor:
    """Rows ``level * mult[v] * 2**-frac[v]`` of the table ``codes`` ``(V, E)`` for ``ids`` ``v`` of any shape.

    Raises:
        IndexError: an id that names no row; a negative one does not count from the end.
    """
    v = ids.long()
    rows = decode(_rows_of(codes, v), format, torch.float64) * (mult * power_of_two(-frac))[v].unsqueeze(-1)
    return rows if wide else rows.float()


def exact_embedding_float(ids: Tensor, codes: Tensor, scale: Tensor, format: str) -> Tensor:
    """Rows ``level * scale[v]`` of the table ``codes`` ``(V, E)`` in float32; ids as in :func:`exact_embedding`."""
    v = ids.long()
    return decode(_rows_of(codes, v), format) * scale[v].unsqueeze(-1)


def _rows_of(table: Tensor, ids: Tensor) -> Tensor:
    return table.index_select(0, ids.flatten()).view(*ids.shape, -1)


def exact_linear(
    x: Tensor, codes: Tensor, mult: Tensor, offset: Tensor, frac: Tensor, format: str, frac_in: int, wide: bool
) -> Tensor:
    """:func:`exact_conv` for ``x`` ``(..., I)`` and ``codes`` ``(O, I)``; the channel axis is the last."""
    return _exact(F.linear, x, codes, mult, offset, frac, format, frac_in, wide)


def _exact_float(
    sums: Callable[[Tensor, Tensor], Tensor], x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor, format: str
) -> Tensor:
    """``sums(x, levels) * scale[c] + bias[c]`` in float32."""
    with _plain_float(x):
        shape = [-1] + [1] * (codes.dim() - 2)
        return sums(x.float(), decode(codes, format)) * scale.view(shape) + bias.view(shape)


def exact_conv_float(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    bias: Tensor,
    format: str,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """``(sum x * level) * scale[c] + bias[c]`` in float32, whatever the order of the sum."""
    sums = partial(convolve, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return _exact_float(sums, x, codes, scale, bias, format)


def exact_conv_transpose_float(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    bias: Tensor,
    format: str,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """:func:`exact_conv_float` for a transposed convolution."""
    window = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    return _exact_float(partial(convolve_transposed, **window, groups=groups), x, codes, scale, bias, format)


def exact_linear_float(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor, format: str) -> Tensor:
    """:func:`exact_conv_float` for ``x`` ``(..., I)`` and ``codes`` ``(O, I)``."""
    return _exact_float(F.linear, x, codes, scale, bias, format)


def exact_quantize(x: Tensor, bits: int, frac: int, signed: bool, rounding: str) -> Tensor:
    """Grid values ``clamp(floor(x * 2**frac + h)) * 2**-frac``, float32; ``h`` is 0.5 (half_up) or 0 (floor).

    Evaluated in float64. NaN gives 0; infinities saturate. ``bits`` up to 24 are exact in the result's
    float32; above, the result is the nearest float32 (the papers' 32-bit fixed point).
    """
    if rounding not in ("half_up", "floor"):
        raise ValueError(f"rounding {rounding!r}: allowed are 'half_up' and 'floor'")
    lo, hi = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    q = torch.floor(x.double() * 2.0**frac + (0.5 if rounding == "half_up" else 0.0))
    q = torch.nan_to_num(q, nan=0.0, posinf=float(hi), neginf=float(lo)).clamp(lo, hi)
    return (q * 2.0**-frac).float()


def exact_avg_pool(
    x: Tensor, kernel: list[int], stride: list[int], padding: list[int], mult: int, shift: int, wide: bool
) -> Tensor:
    """``sum over the window * mult * 2**-shift``; ``len(kernel)`` spatial axes, 1 to 3; zeros of the padding count."""
    inside, outside = split_padding(padding)
    y = F.pad(x.double(), outside) if outside else x.double()
    if len(kernel) == 1:
        y = F.avg_pool2d(y.unsqueeze(-1), [kernel[0], 1], [stride[0], 1], [inside[0], 0], divisor_override=1)
        y = y.squeeze(-1)
    else:
        pool = F.avg_pool2d if len(kernel) == 2 else F.avg_pool3d
        y = pool(y, kernel, stride, inside, divisor_override=1)
    return (y * (mult * 2.0**-shift)).to(torch.float64 if wide else torch.float32)


def exact_table(x: Tensor, table: Tensor, frac_in: int, signed: bool, frac_out: int) -> Tensor:
    """``table[q - lo] * 2**-frac_out`` as float32; ``q = x * 2**frac_in``; int32 ``table``, lowest ``q`` first."""
    lo = -(table.numel() // 2) if signed else 0
    index = (x.double() * 2.0**frac_in).long() - lo
    return (table[index].double() * 2.0**-frac_out).float()


def _result(x: Tensor, shape: list[int], wide: bool) -> Tensor:
    return x.new_empty(shape, dtype=torch.float64 if wide else torch.float32)


def _window(x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]) -> list[int]:
    """Spatial sizes of a windowed op's output."""
    sizes = x.shape[-len(kernel) :]
    return [
        (n + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (k - 1) - 1) // stride[i] + 1
        for i, (n, k) in enumerate(zip(sizes, kernel, strict=True))
    ]


def _operator(function: Callable[..., Tensor]) -> Any:
    """``function`` as the custom operator of its name.

    On the CPU the dispatcher calls it directly: custom_op's own wrapper takes as long as a small layer does.
    """
    name = function.__name__
    registered = torch.library.custom_op(f"bitshift::{name}", function, mutates_args=())
    _cpu.impl(name, function, "CPU")
    return registered


@_operator
def conv(
    x: Tensor,
    codes: Tensor,
    mult: Tensor,
    offset: Tensor,
    frac: Tensor,
    format: str,
    frac_in: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    wide: bool,
) -> Tensor:
    """:func:`exact_conv` as an operator, on the engine's kernels where they can take the call."""
    call = (x, codes, mult, offset, frac, format, frac_in, stride, padding, dilation, groups, wide)
    y = native.conv(*call)
    return exact_conv(*call) if y is None else y


@conv.register_fake
def _(x, codes, mult, offset, frac, format, frac_in, stride, padding, dilation, groups, wide):
    size = _window(x, list(codes.shape[2:]), stride, padding, dilation)
    return _result(x, [x.shape[0], codes.shape[0], *size], wide)


def _window_transposed(
    x: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
) -> list[int]:
    """Spatial sizes of a transposed convolution's output."""
    return [
        (n - 1) * s + (k - 1) * d + 1 - padding[2 * i] - padding[2 * i + 1] + extra
        for i, (n, k, s, extra, d) in enumerate(
            zip(x.shape[-len(kernel) :], kernel, stride, output_padding, dilation, strict=True)
        )
    ]


@_operator
def conv_transpose(
    x: Tensor,
    codes: Tensor,
    mult: Tensor,
    offset: Tensor,
    frac: Tensor,
    format: str,
    frac_in: int,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    wide: bool,
) -> Tensor:
    """:func:`exact_conv_transpose` as an operator, on the engine's kernels where they can take the call."""
    window = (stride, padding, output_padding, dilation, groups)
    call = (x, codes, mult, offset, frac, format, frac_in, *window, wide)
    y = native.conv_transpose(*call)
    return exact_conv_transpose(*call) if y is None else y


@conv_transpose.register_fake
def _(x, codes, mult, offset, frac, format, frac_in, stride, padding, output_padding, dilation, groups, wide):
    size = _window_transposed(x, list(codes.shape[2:]), stride, padding, output_padding, dilation)
    return _result(x, [x.shape[0], codes.shape[0], *size], wide)


@_operator
def conv_transpose_float(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    bias: Tensor,
    format: str,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """:func:`exact_conv_transpose_float` as an operator."""
    window = (stride, padding, output_padding, dilation, groups)
    return exact_conv_transpose_float(x, codes, scale, bias, format, *window)


@conv_transpose_float.register_fake
def _(x, codes, scale, bias, format, stride, padding, output_padding, dilation, groups):
    size = _window_transposed(x, list(codes.shape[2:]), stride, padding, output_padding, dilation)
    return _result(x, [x.shape[0], codes.shape[0], *size], False)


@_operator
def embedding(ids: Tensor, codes: Tensor, mult: Tensor, frac: Tensor, format: str, wide: bool) -> Tensor:
    """:func:`exact_embedding` as an operator."""
    return exact_embedding(ids, codes, mult, frac, format, wide)


@embedding.register_fake
def _(ids, codes, mult, frac, format, wide):
    return _result(ids, [*ids.shape, codes.shape[1]], wide)


@_operator
def embedding_float(ids: Tensor, codes: Tensor, scale: Tensor, format: str) -> Tensor:
    """:func:`exact_embedding_float` as an operator."""
    return exact_embedding_float(ids, codes, scale, format)


@embedding_float.register_fake
def _(ids, codes, scale, format):
    return _result(ids, [*ids.shape, codes.shape[1]], False)


@_operator
def linear(
    x: Tensor, codes: Tensor, mult: Tensor, offset: Tensor, frac: Tensor, format: str, frac_in: int, wide: bool
) -> Tensor:
    """:func:`exact_linear` as an operator, on the engine's kernels where they can take the call."""
    call = (x, codes, mult, offset, frac, format, frac_in, wide)
    y = native.linear(*call)
    return exact_linear(*call) if y is None else y


@linear.register_fake
def _(x, codes, mult, offset, frac, format, frac_in, wide):
    return _result(x, [*x.shape[:-1], codes.shape[0]], wide)


@_operator
def conv_float(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    bias: Tensor,
    format: str,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """:func:`exact_conv_float` as an operator."""
    return exact_conv_float(x, codes, scale, bias, format, stride, padding, dilation, groups)


@conv_float.register_fake
def _(x, codes, scale, bias, format, stride, padding, dilation, groups):
    size = _window(x, list(codes.shape[2:]), stride, padding, dilation)
    return _result(x, [x.shape[0], codes.shape[0], *size], False)


@_operator
def linear_float(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor, format: str) -> Tensor:
    """:func:`exact_linear_float` as an operator."""
    return exact_linear_float(x, codes, scale, bias, format)


@linear_float.register_fake
def _(x, codes, scale, bias, format):
    return _result(x, [*x.shape[:-1], codes.shape[0]], False)


@_operator
def quantize(x: Tensor, bits: int, frac: int, signed: bool, rounding: str) -> Tensor:
    """:func:`exact_quantize` as an operator, in one pass of the engine where it can take the call."""
    y = native.quantize(x, bits, frac, signed, rounding)
    return exact_quantize(x, bits, frac, signed, rounding) if y is None else y


@quantize.register_fake
def _(x, bits, frac, signed, rounding):
    return _result(x, list(x.shape), False)


@_operator
def avg_pool(
    x: Tensor, kernel: list[int], stride: list[int], padding: list[int], mult: int, shift: int, wide: bool
) -> Tensor:
    """:func:`exact_avg_pool` as an operator."""
    return exact_avg_pool(x, kernel, stride, padding, mult, shift, wide)


@avg_pool.register_fake
def _(x, kernel, stride, padding, mult, shift, wide):
    size = _window(x, kernel, stride, padding, [1] * len(kernel))
    return _result(x, [*x.shape[: -len(kernel)], *size], wide)


@_operator
def table(x: Tensor, table: Tensor, frac_in: int, signed: bool, frac_out: int) -> Tensor:
    """:func:`exact_table` as an operator."""
    return exact_table(x, table, frac_in, signed, frac_out)


@table.register_fake
def _(x, table, frac_in, signed, frac_out):
    return _result(x, list(x.shape), False)
