"""Convolutions with one to three spatial axes: grouped, depthwise, dilated, asymmetrically padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from bitshift.nn.layers.base import IntegerForm, ShiftLayer
from bitshift.nn.method import Method
from bitshift.nn.ops import convolve, exact_conv, exact_conv_float

Sizes = int | Sequence[int]
Padding = str | int | Sequence[int] | Sequence[Sequence[int]]


def per_axis(value: Sizes, axes: int, name: str, least: int = 1) -> list[int]:
    """``value`` once for each of ``axes`` axes; ValueError for numbers under ``least`` and another count."""
    sizes = [value] * axes if isinstance(value, int) else [int(v) for v in value]
    if len(sizes) != axes or min(sizes) < least:
        raise ValueError(f"{name}={value!r}: needs an integer from {least} on, or {axes} of them")
    return sizes


def pad_pairs(padding: Padding, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """``padding`` as torch spells it, or as pairs ``((before, after), ...)``, as a flat ``[before, after]`` per axis.

    "same" puts the odd zero behind, as torch does, and needs stride 1.
    """
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ValueError(f"padding='same' needs stride 1, found {list(stride)}")
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [side for t in total for side in (t // 2, t - t // 2)]
    if padding == "valid":
        return [0] * (2 * len(kernel))
    if isinstance(padding, str):
        raise ValueError(f"padding={padding!r}: allowed are numbers, pairs, 'same' and 'valid'")
    each = [padding] * len(kernel) if isinstance(padding, int) else list(padding)
    flat = [int(side) for p in each for side in ((p, p) if isinstance(p, int) else p)]
    if len(flat) != 2 * len(kernel) or min(flat, default=0) < 0:
        raise ValueError(
            f"padding={padding!r}: needs one count of zeros, or a pair of them, for each of {len(kernel)} axes"
        )
    return flat


class SpatialLayer(ShiftLayer):
    """What convolutions and transposed ones share: a weight ``(O, I/groups, *kernel)`` over ``axes`` spatial axes."""

    axes: ClassVar[int]

    def __init__(self, method: Method, *, stride: Sizes, dilation: Sizes, groups: int, **common: Any) -> None:
        name = type(self).__name__
        if len(method.shape) != 2 + self.axes:
            raise ValueError(
                f"{name} needs a weight with {2 + self.axes} axes, the method has shape {tuple(method.shape)}"
            )
        if groups < 1 or method.shape[0] % groups:
            raise ValueError(f"{name}: {method.shape[0]} output channels do not divide into groups={groups}")
        super().__init__(method, **common)
        self.stride = per_axis(stride, self.axes, "stride")
        self.dilation = per_axis(dilation, self.axes, "dilation")
        self.groups = groups

    @property
    def in_channels(self) -> int:
        """I."""
        return self.method.shape[1] * self.groups

    @property
    def out_channels(self) -> int:
        """O."""
        return self.method.shape[0]

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Kernel per spatial axis."""
        return tuple(self.method.shape[2:])

    def _per_channel(self, v: Tensor) -> Tensor:
        return v.view(-1, *[1] * self.axes)

    def forward(self, input: Tensor) -> Tensor:
        """``(N, I, *spatial)`` or ``(I, *spatial)``."""
        single = input.dim() == self.axes + 1
        y = super().forward(input.unsqueeze(0) if single else input)
        return y.squeeze(0) if single else y


class _ShiftConv(SpatialLayer):
    """``padding`` counts zeros and is kept as ``[before, after]`` per axis."""

    def __init__(
        self,
        method: Method,
        *,
        stride: Sizes = 1,
        padding: Padding = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        **common: Any,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(
                f"{type(self).__name__}: padding_mode={padding_mode!r} is not supported; use 'zeros' or pad before the "
                "layer"
            )
        super().__init__(method, stride=stride, dilation=dilation, groups=groups, **common)
        self.padding = pad_pairs(padding, method.shape[2:], self.stride, self.dilation)

    @property
    def _window(self) -> tuple[list[int], list[int], list[int], int]:
        return self.stride, self.padding, self.dilation, self.groups

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        return convolve(x, weight, *self._window)

    def _exact(self, x: Tensor, form: IntegerForm) -> Tensor:
        f = form
        return exact_conv(x, f.codes, f.mult, f.offset, f.frac, f.format, f.input.frac, *self._window, wide=True)

    def _exact_float(self, x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return exact_conv_float(x, codes, scale, bias, self.method.format.name, *self._window)

    def extra_repr(self) -> str:
        """The window behind the common part."""
        window = f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        return f"{super().extra_repr()}, {window}"


class ShiftConv1d(_ShiftConv):
    """Convolution over one spatial axis; see :class:`ShiftLayer`."""

    axes = 1


class ShiftConv2d(_ShiftConv):
    """Convolution over two spatial axes; see :class:`ShiftLayer`."""

    axes = 2


class ShiftConv3d(_ShiftConv):
    """Convolution over three spatial axes; see :class:`ShiftLayer`."""

    axes = 3
