"""Frozen layers: integers in buffers and one custom op each. ``lower`` turns them into graph nodes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitshift.core.fixed import FixedPoint
from bitshift.nn.activations import ActQuant, FixedPointQuant
from bitshift.nn.layers.base import IntegerForm, ShiftLayer
from bitshift.nn.layers.conv import ShiftConv1d, ShiftConv2d, ShiftConv3d
from bitshift.nn.layers.embedding import ShiftEmbedding
from bitshift.nn.layers.pointwise import Pointwise
from bitshift.nn.layers.pool import AvgPool, SplitAvgPool, divisor
from bitshift.nn.layers.transposed import (
    ShiftConvTranspose1d,
    ShiftConvTranspose2d,
    ShiftConvTranspose3d,
    check_output_size,
)
from bitshift.nn.ops import decode
from bitshift.nn.wide import HALF

OPS = torch.ops.bitshift


class _Window(nn.Module):
    """What a layer does, and the window of a convolution as the ops take it.

    ``op`` is linear, conv, conv_transpose or embedding; ``channel_axis`` the axis of the output's channels, None for
    the rows of an embedding.
    """

    def __init__(self, layer: ShiftLayer) -> None:
        super().__init__()
        self.op, self.window = "linear", ()
        self.axes = len(layer.method.shape) - 2
        self.channel_axis: int | None = -1
        if isinstance(layer, (ShiftConv1d, ShiftConv2d, ShiftConv3d)):
            self.op, self.channel_axis = "conv", 1
            self.window = (list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups)
        elif isinstance(layer, (ShiftConvTranspose1d, ShiftConvTranspose2d, ShiftConvTranspose3d)):
            self.op, self.channel_axis = "conv_transpose", 1
            sizes = layer.stride, layer.padding, layer.output_padding, layer.dilation
            self.window = (*map(list, sizes), layer.groups)
        elif isinstance(layer, ShiftEmbedding):
            self.op, self.channel_axis = "embedding", None

    def _batched(self, x: Tensor) -> tuple[Tensor, bool]:
        single = bool(self.window) and x.dim() == self.axes + 1
        return (x.unsqueeze(0), True) if single else (x, False)


class FrozenLayer(_Window):
    """An integer layer with weights: ``(acc * mult + offset) * 2**-frac``, exact, float64.

    Buffers ``codes`` uint8, ``mult`` int32, ``offset`` int64, ``frac`` int32. ``input`` is the type of the integers
    it reads; ``acc_bound`` (a tuple of numbers per channel) the largest ``|acc|`` that it and the codes allow.
    """

    codes: Tensor
    mult: Tensor
    offset: Tensor
    frac: Tensor

    def __init__(self, layer: ShiftLayer, form: IntegerForm) -> None:
        super().__init__(layer)
        self.format, self.input = form.format, form.input
        for name in ("codes", "mult", "offset", "frac"):
            self.register_buffer(name, getattr(form, name).detach().clone())

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """``(N, I, ...)`` on the grid of ``input``, or the ids of an embedding."""
        if self.op == "embedding":
            return OPS.embedding(input, self.codes, self.mult, self.frac, self.format, True)
        integers = (self.codes, self.mult, self.offset, self.frac, self.format, self.input.frac)
        if self.op == "linear":
            return OPS.linear(input, *integers, True)
        input, single = self._batched(input)
        y = getattr(OPS, self.op)(input, *integers, *self.window, True)
        check_output_size(y, output_size, self.axes)
        return y.squeeze(0) if single else y

    def extra_repr(self) -> str:
        """Format, shape and input."""
        return f"{self.format}, shape={list(self.codes.shape)}, input={self.input}"


class FrozenFloatLayer(_Window):
    """A layer with weights of float activations: ``(sum x * level) * scale + bias`` in float32.

    Buffers ``codes`` uint8, ``scale`` and ``bias`` float32 ``(O)``.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, layer: ShiftLayer) -> None:
        super().__init__(layer)
        self.format = layer.method.format.name
        self.input_quant = FrozenFixedPoint(layer.input_quant) if layer.input_quant is not None else None
        for name, value in (
            ("codes", layer.codes() if isinstance(layer, ShiftEmbedding) else layer.method.codes()),
            ("scale", layer.method.scale()),
            ("bias", layer.float_bias()),
        ):
            self.register_buffer(name, value.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The effective weight ``(O, ...)``, for a forward that reads it (a tied head as ``F.linear(x, e.weight)``)."""
        return decode(self.codes, self.format) * self.scale.view(-1, *[1] * (self.codes.dim() - 1))

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """``(N, I, ...)``, or the ids of an embedding."""
        if self.op == "embedding":
            return OPS.embedding_float(input, self.codes, self.scale, self.format)
        if self.input_quant is not None:
            input = self.input_quant(input)
        weights = (self.codes, self.scale, self.bias, self.format)
        input, single = self._batched(input)
        y = getattr(OPS, f"{self.op}_float")(input, *weights, *self.window)
        check_output_size(y, output_size, self.axes)
        y = y.to(input.dtype) if input.dtype in HALF else y
        return y.squeeze(0) if single else y

    def extra_repr(self) -> str:
        """Format and shape."""
        return f"{self.format}, shape={list(self.codes.shape)}, float activations"


class FrozenQuant(nn.Module):
    """Rounding to the integers of ``grid``, carried as float32."""

    def __init__(self, quant: ActQuant) -> None:
        super().__init__()
        self.grid: FixedPoint = quant.grid

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return OPS.quantize(input, self.grid.bits, self.grid.frac, self.grid.signed, "half_up")

    def extra_repr(self) -> str:
        """The type."""
        return str(self.grid)


class FrozenFixedPoint(nn.Module):
    """The papers' fixed point."""

    def __init__(self, quant: FixedPointQuant) -> None:
        super().__init__()
        self.bits, self.frac, self.top, self.upper = quant.bits, quant.fraction_bits, quant.top, quant.upper

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        y = OPS.quantize(input, self.bits, self.frac, True, "floor")
        return y.clamp(max=self.top) if self.upper == "deepshift" else y

    def extra_repr(self) -> str:
        """The type."""
        return f"s{self.bits}.{self.frac} floor, upper={self.upper}"


class FrozenAvgPool(nn.Module):
    """``sum * mult * 2**-shift``, exact, float64."""

    def __init__(self, pool: AvgPool) -> None:
        super().__init__()
        self.kernel = None if pool.kernel is None else list(pool.kernel)
        self.stride = list(pool.stride or [])
        self.padding = [p for p in pool.padding for _ in (0, 1)]
        self.power_of_two = pool.power_of_two

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C, *spatial)``."""
        kernel = self.kernel if self.kernel is not None else [int(n) for n in input.shape[2:]]
        stride = self.stride or kernel
        padding = self.padding or [0] * (2 * len(kernel))
        area = 1
        for k in kernel:
            area *= k
        mult, shift = divisor(area, power_of_two=self.power_of_two)
        return OPS.avg_pool(input, kernel, stride, padding, mult, shift, True)


class FrozenSplitAvgPool(FrozenAvgPool):
    """Averages of parts of the input side by side, exact, float64."""

    def __init__(self, pool: SplitAvgPool) -> None:
        super().__init__(pool)
        self._pool = (pool,)  # in a tuple: only its windows are wanted

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C, *spatial)``."""
        return self._pool[0].average(input, self._part)

    def _part(self, x: Tensor, kernel: list[int], stride: list[int], area: int) -> Tensor:
        mult, shift = divisor(area, power_of_two=self.power_of_two)
        return OPS.avg_pool(x, kernel, stride, [0] * (2 * len(kernel)), mult, shift, True)


class FrozenTable(nn.Module):
    """A function and its output quantiser as a table. Buffer ``table`` int32 ``(2**bits)``."""

    table: Tensor

    def __init__(self, function: Pointwise, quant: ActQuant, device: torch.device) -> None:
        super().__init__()
        kind = function.input_type
        assert kind is not None
        self.fn, self.input, self.grid = function.fn, kind, quant.grid
        self.register_buffer("table", function.table(quant).to(device))

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return OPS.table(input, self.table, self.input.frac, self.input.signed, self.grid.frac)

    def extra_repr(self) -> str:
        """Function and types."""
        return f"{self.fn}: {self.input} -> {self.grid}"


__all__ = [
    "FrozenAvgPool",
    "FrozenFixedPoint",
    "FrozenFloatLayer",
    "FrozenLayer",
    "FrozenQuant",
    "FrozenSplitAvgPool",
    "FrozenTable",
]
