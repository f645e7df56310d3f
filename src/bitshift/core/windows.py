"""Sliding windows over the spatial axes: geometry, views and exact products for convolutions and pools."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Padding = Sequence[tuple[int, int]]


def extent(kernel: int, dilation: int) -> int:
    """Elements that a dilated kernel spans."""
    return (kernel - 1) * dilation + 1


def output_length(size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int) -> int:
    """Windows along one axis; 0 or less if none fits."""
    return (size + padding[0] + padding[1] - extent(kernel, dilation)) // stride + 1


def transposed_length(size: int, kernel: int, stride: int, padding: tuple[int, int], extra: int, dilation: int) -> int:
    """Outputs of a transposed convolution along one axis, ``extra`` by output_padding; 0 or less if none is left."""
    return (size - 1) * stride + extent(kernel, dilation) - sum(padding) + extra


def pad_spatial(x: np.ndarray, padding: Padding, value: float) -> np.ndarray:
    """``x`` (N, C, *spatial) with ``value`` around its spatial axes."""
    if not any(b or a for b, a in padding):
        return x
    return np.pad(x, [(0, 0), (0, 0), *padding], constant_values=value)


def windows(x: np.ndarray, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> np.ndarray:
    """View (N, C, *out, *kernel) of the already padded ``x`` (N, C, *spatial)."""
    axes = tuple(range(2, x.ndim))
    view = sliding_window_view(x, [extent(k, d) for k, d in zip(kernel, dilation, strict=True)], axis=axes)
    steps = [
        slice(None),
        slice(None),
        *(slice(None, None, s) for s in stride),
        *(slice(None, None, d) for d in dilation),
    ]
    return view[tuple(steps)]


def offsets(
    kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], lengths: Sequence[int]
) -> Iterator[tuple[slice, ...]]:
    """For every element of the kernel, the slices of the padded x (N, C, *spatial) that it meets in all windows."""
    for place in itertools.product(*map(range, kernel)):
        spatial = (
            slice(k * d, k * d + (n - 1) * s + 1, s)
            for k, d, s, n in zip(place, dilation, stride, lengths, strict=True)
        )
        yield (slice(None), slice(None), *spatial)


def exact_dtype(magnitude: int) -> type[np.number]:
    """The fastest dtype in which a sum of integer products is exact whatever the order of summation.

    ``magnitude`` bounds the sum of the products' magnitudes. Under 2**24 (2**53) every partial sum is an integer
    that float32 (float64) holds, so that the matrix product of the BLAS library is exact; else int64 it is.

    Raises:
        OverflowError: not even int64 holds the sums.
    """
    if magnitude >= 1 << 63:
        raise OverflowError(f"sums up to {magnitude} do not fit int64; check the graph with core.bounds first")
    if magnitude < 1 << 24:
        return np.float32
    return np.float64 if magnitude < 1 << 53 else np.int64


def convolve(
    x: np.ndarray, weight: np.ndarray, stride: Sequence[int], padding: Padding, dilation: Sequence[int], groups: int
) -> np.ndarray:
    """Grouped cross-correlation (N, O, *out) of x (N, C, *spatial) and weight (O, C/groups, *kernel), of one dtype.

    The windows are copied to columns (N, groups, C/groups * taps, positions) for one matrix product, a few samples at a
    time so that the columns stay near 32 MiB.
    """
    out, kernel = weight.shape[0], weight.shape[2:]
    taps = weight[0].size
    rows = weight.reshape(groups, out // groups, taps)
    padded = pad_spatial(x, padding, 0)
    view = windows(padded, kernel, stride, dilation)
    lengths = view.shape[2 : 2 + len(kernel)]
    positions = math.prod(lengths)
    # (N, C, *out, *kernel) -> (N, C, *kernel, *out): the order of a weight's row, then the positions.
    axes = len(kernel)
    view = view.transpose(0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes))
    step = max(1, (1 << 25) // max(1, x.dtype.itemsize * groups * taps * positions))
    result = np.empty((x.shape[0], groups, out // groups, positions), dtype=x.dtype)
    for first in range(0, x.shape[0], step):
        chunk = view[first : first + step]
        columns = chunk.reshape(chunk.shape[0], groups, taps, positions)
        np.matmul(rows, columns, out=result[first : first + step])
    return result.reshape(x.shape[0], out, *lengths)


def convolve_transposed(
    x: np.ndarray,
    weight: np.ndarray,
    stride: Sequence[int],
    padding: Padding,
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> np.ndarray:
    """Grouped transposed convolution (N, O, *out) of x (N, C, *spatial) and weight (O, C/groups, *kernel).

    The convolution of x, with ``stride - 1`` zeros between its elements, and the weight turned around.
    """
    sizes = x.shape[2:]
    spread = np.zeros((*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(sizes, stride, strict=True))), dtype=x.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = x
    ends, crop = [], [slice(None), slice(None)]
    for k, d, (before, after), extra in zip(weight.shape[2:], dilation, padding, output_padding, strict=True):
        sides = extent(k, d) - 1 - before, extent(k, d) - 1 - after + extra
        ends.append((max(sides[0], 0), max(sides[1], 0)))
        crop.append(slice(max(-sides[0], 0), -max(-sides[1], 0) or None))
    around = pad_spatial(spread, ends, 0)[tuple(crop)]
    turned = weight[(slice(None), slice(None), *(slice(None, None, -1) for _ in sizes))]
    return convolve(around, turned, (1,) * len(sizes), ((0, 0),) * len(sizes), dilation, groups)
