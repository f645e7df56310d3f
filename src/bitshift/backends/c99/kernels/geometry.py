"""Where a layer's inputs and outputs lie: one description of convolutions over one or two axes and linear layers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from bitshift.backends.c99.layer import Layer
from bitshift.core.windows import extent


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A layer as a 2-d convolution by groups; steps are in elements, pairs are (row, column).

    Args:
        channels, outputs: of one group.
        before: zeros above and left.
        x_step, y_step: from one channel, row, column to the next.
    """

    groups: int
    channels: int
    outputs: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    out: tuple[int, int]
    x_step: tuple[int, int, int]
    y_step: tuple[int, int, int]

    @property
    def inputs(self) -> int:
        """Weights of one output."""
        return self.channels * self.kernel[0] * self.kernel[1]

    @property
    def places(self) -> int:
        """Output pixels."""
        return self.out[0] * self.out[1]

    @property
    def products(self) -> int:
        """Multiply-adds of the layer, zeros of the padding included."""
        return self.groups * self.outputs * self.inputs * self.places

    @property
    def pointwise(self) -> bool:
        """Whether each output reads the pixel at its own place; a stride remains where its last window is padding."""
        same = self.size == self.out and self.stride == (1, 1)
        return same and self.kernel == (1, 1) and self.before == (0, 0)

    @property
    def padded(self) -> bool:
        """Whether some window meets a zero of the padding."""
        return any(
            b > 0 or (n - 1) * s + extent(k, d) - b > size
            for b, n, s, k, d, size in zip(
                self.before, self.out, self.stride, self.kernel, self.dilation, self.size, strict=True
            )
        )


def geometry(layer: Layer) -> Geometry | None:
    """The layer as a 2-d convolution, simplified; None if it has three spatial axes."""
    if layer.kind == "linear":
        rows, inputs, outputs = math.prod(layer.x.shape[:-1]), layer.x.shape[-1], layer.y.shape[-1]
        one = (1, 1)
        return Geometry(
            groups=1, channels=inputs, outputs=outputs, size=(1, rows), kernel=one, stride=one, dilation=one,
            before=(0, 0), out=(1, rows), x_step=(1, rows * inputs, inputs), y_step=(1, rows * outputs, outputs),
        )  # fmt: skip
    if len(layer.x.shape) not in (2, 3):
        return None
    return _simplify(_convolution(layer))


def _convolution(layer: Layer) -> Geometry:
    lead = 3 - len(layer.x.shape)

    def pair(values: tuple[int, ...], missing: int) -> tuple[int, int]:
        both = (missing,) * lead + tuple(values)
        return both[0], both[1]

    size, out = pair(layer.x.shape[1:], 1), pair(layer.y.shape[1:], 1)
    return Geometry(
        groups=layer.groups,
        channels=layer.x.shape[0] // layer.groups,
        outputs=layer.y.shape[0] // layer.groups,
        size=size,
        kernel=pair(layer.codes.shape[2:], 1),
        stride=pair(layer.stride, 1),
        dilation=pair(layer.dilation, 1),
        before=pair(tuple(before for before, _ in layer.padding), 0),
        out=out,
        x_step=(size[0] * size[1], size[1], 1),
        y_step=(out[0] * out[1], out[1], 1),
    )


def _simplify(geo: Geometry) -> Geometry:
    """Axes that a 1-wide kernel only samples keep what it reads; rows that follow each other become one."""
    for axis in (0, 1):
        if geo.kernel[axis] == 1 and geo.before[axis] == 0 and _fits(geo, axis):
            geo = replace(
                geo,
                size=_with(geo.size, axis, geo.out[axis]),
                stride=_with(geo.stride, axis, 1),
                dilation=_with(geo.dilation, axis, 1),
                x_step=_with(geo.x_step, axis + 1, geo.x_step[axis + 1] * geo.stride[axis]),
            )
    if geo.pointwise and all(step[1] == geo.out[1] * step[2] for step in (geo.x_step, geo.y_step)):
        both = (1, geo.out[0] * geo.out[1])
        geo = replace(geo, size=both, out=both)
    return geo


def tall(geo: Geometry) -> Geometry:
    """``geo`` with its pixels below each other, where it is one row of them and each output reads one pixel.

    Strips are cut between rows: so a strip is a few pixels of all channels, not all pixels.
    """
    if geo.groups > 1 or not geo.pointwise or geo.out[0] > 1:
        return geo
    column = (geo.out[1], 1)
    x, y = ((step[0], step[2], step[2]) for step in (geo.x_step, geo.y_step))
    return replace(geo, size=column, out=column, x_step=x, y_step=y)


def _fits(geo: Geometry, axis: int) -> bool:
    return (geo.out[axis] - 1) * geo.stride[axis] < geo.size[axis]


def _with(values: tuple[int, ...], at: int, value: int) -> tuple:
    return (*values[:at], value, *values[at + 1 :])


def rows_of(array: np.ndarray, geo: Geometry) -> np.ndarray:
    """Codes or levels ``(O, I/groups, *kernel)`` as ``(O, inputs)`` in the order row, column, channel of the kernel."""
    shaped = array.reshape(array.shape[0], geo.channels, *geo.kernel)
    return np.ascontiguousarray(shaped.transpose(0, 2, 3, 1)).reshape(array.shape[0], geo.inputs)


__all__ = ["Geometry", "geometry", "rows_of", "tall"]
