"""Transposed convolutions with one to three spatial axes, as decoders use them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import gcd
from typing import Any

import torch
from torch import Tensor

from bitshift.nn.layers.base import IntegerForm
from bitshift.nn.layers.conv import Sizes, SpatialLayer, per_axis
from bitshift.nn.method import Method
from bitshift.nn.ops import convolve_transposed, decode, exact_conv_transpose, exact_conv_transpose_float


def check_output_size(y: Tensor, output_size: Sequence[int] | None, axes: int) -> None:
    """ValueError for an ``output_size`` in forward that the layer's own output_padding does not give."""
    if output_size is not None and list(output_size)[-axes:] != list(y.shape[-axes:]):
        raise ValueError(
            f"output_size={list(output_size)} asked of a layer that gives {list(y.shape[-axes:])}: an exported network "
            "has one size; give the constructor output_padding instead"
        )


class _ShiftConvTranspose(SpatialLayer):
    """A weight ``(O, I/groups, *kernel)``, other than torch's ``(I, O/groups, *kernel)``: scales go with the outputs.

    ``padding`` crops the output and is kept as ``[before, after]`` per axis; it counts alike on both sides.
    """

    def __init__(
        self,
        method: Method,
        *,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        **common: Any,
    ) -> None:
        name = type(self).__name__
        if padding_mode != "zeros":
            raise ValueError(f"{name}: padding_mode={padding_mode!r} does not exist; allowed is 'zeros'")
        super().__init__(method, stride=stride, dilation=dilation, groups=groups, **common)
        self.padding = [side for p in per_axis(padding, self.axes, "padding", 0) for side in (p, p)]
        self.output_padding = per_axis(output_padding, self.axes, "output_padding", 0)
        for extra, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if extra >= max(s, d):
                raise ValueError(f"{name}: output_padding={extra} must be less than stride {s} or dilation {d}")

    @property
    def _window(self) -> tuple[list[int], list[int], list[int], list[int], int]:
        return self.stride, self.padding, self.output_padding, self.dilation, self.groups

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        return convolve_transposed(x, weight, *self._window)

    def _sums(self, codes: Tensor) -> Tensor:
        """Outputs whose places leave the same remainders by the strides add the same taps, and no others."""
        levels = (
            decode(codes, self.method.format.name, torch.float64)
            .abs()
            .flatten(2)
            .sum(1)
            .view(len(codes), *self.kernel_size)
        )
        periods = [s // gcd(s, d) for s, d in zip(self.stride, self.dilation, strict=True)]
        starts = itertools.product(*(range(min(p, k)) for p, k in zip(periods, self.kernel_size, strict=True)))
        parts = [
            levels[(slice(None), *(slice(a, None, p) for a, p in zip(start, periods, strict=True)))] for start in starts
        ]
        return torch.stack([part.flatten(1).sum(1) for part in parts]).amax(0)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """``(N, I, *spatial)`` or ``(I, *spatial)``; ``output_size`` must be the size that the layer gives."""
        y = super().forward(input)
        check_output_size(y, output_size, self.axes)
        return y

    def _exact(self, x: Tensor, form: IntegerForm) -> Tensor:
        f = form
        integers = (f.codes, f.mult, f.offset, f.frac, f.format, f.input.frac)
        return exact_conv_transpose(x, *integers, *self._window, wide=True)

    def _exact_float(self, x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return exact_conv_transpose_float(x, codes, scale, bias, self.method.format.name, *self._window)

    def extra_repr(self) -> str:
        """The window behind the common part."""
        return (
            f"{super().extra_repr()}, stride={self.stride}, padding={self.padding}, "
            f"output_padding={self.output_padding}, dilation={self.dilation}, groups={self.groups}"
        )


class ShiftConvTranspose1d(_ShiftConvTranspose):
    """Transposed convolution over one spatial axis; see :class:`ShiftLayer`."""

    axes = 1


class ShiftConvTranspose2d(_ShiftConvTranspose):
    """Transposed convolution over two spatial axes; see :class:`ShiftLayer`."""

    axes = 2


class ShiftConvTranspose3d(_ShiftConvTranspose):
    """Transposed convolution over three spatial axes; see :class:`ShiftLayer`."""

    axes = 3


__all__ = ["ShiftConvTranspose1d", "ShiftConvTranspose2d", "ShiftConvTranspose3d", "check_output_size"]
