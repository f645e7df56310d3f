"""Transposed convolution over one to three spatial axes, grouped, with an optional residual behind the accumulator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, is_float, register, result, source
from bitshift.core.ops.conv import magnitude
from bitshift.core.ops.rules import MAX_STEP, check_groups, check_spatial, fail, integers, padding_pairs
from bitshift.core.ops.weighted import (
    check_result,
    check_weights,
    finish,
    finish_float,
    float_weights,
    levels_of,
    partial_sums,
    rule4_bound,
    signed_sums,
    weighted_cost,
)
from bitshift.core.windows import convolve_transposed, exact_dtype, transposed_length

GEOMETRY = ("stride", "padding", "output_padding", "dilation", "groups")


@register
class ConvTranspose(Op):
    """x (C, *spatial), codes (O, C/groups, *kernel) -> (O, *out): every input adds its multiple of the kernel.

    Output channels come first, other than in torch. ``padding`` crops the output, ``output_padding`` lengthens it.
    """

    name = "conv_transpose"
    since = 2

    def check(self, node: Node, graph: Graph) -> None:
        if not node.inputs:
            fail(node, "the number of inputs", 0, "1 or 2")
        x = source(node, graph)
        axes = check_spatial(node, x)
        shape = check_weights(node, graph, GEOMETRY, axes + 2)
        check_groups(node, x, shape)
        check_result(node, graph, (shape[0], *_lengths(node, x.shape[1:], shape[2:])), shape[0])

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        x = inputs[0]
        geometry = [node.attrs[name] for name in GEOMETRY]
        if is_float(node, graph):
            return finish_float(convolve_transposed(x, float_weights(node, graph), *geometry), node, graph, axis=1)
        levels = levels_of(node, graph)
        dtype = exact_dtype(magnitude(x, levels))
        acc = convolve_transposed(x.astype(dtype), levels.astype(dtype), *geometry).astype(np.int64)
        return finish(acc, node, inputs, graph, axis=1)

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        if ranges[0] is None:
            return Bound(range=None)
        periods = periods_of(node, graph.const(node, "codes").shape[2:])
        key = ("sums", node.consts["codes"], node.attrs["format"], periods)
        above, below = graph.once(key, lambda: phase_sums(levels_of(node, graph), periods))
        lo, hi = partial_sums(above, below, *ranges[0])
        return rule4_bound(node, (lo.min(axis=1).astype(object), hi.max(axis=1).astype(object)), ranges[1:], graph)

    def cost(self, node: Node, graph: Graph) -> Cost:
        shape = graph.const(node, "weight" if "weight" in node.consts else "codes").shape
        products = math.prod(source(node, graph).shape[1:]) * math.prod(shape)
        return weighted_cost(node, graph, result(node, graph).shape[0], products)


def periods_of(node: Node, kernel: Sequence[int]) -> tuple[int, ...]:
    """How many taps further, an axis each, a tap meets the same outputs again; at most the kernel's length."""
    strides = zip(kernel, node.attrs["stride"], node.attrs["dilation"], strict=True)
    return tuple(min(size, stride // math.gcd(stride, dilation)) for size, stride, dilation in strides)


def phase_sums(levels: np.ndarray, periods: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Sums (O, phases) of the positive and of the negative ``levels`` (O, C/groups, *kernel) that may meet one output.

    Outputs whose places leave the same remainders by the strides meet the same taps, and no others do.
    """
    above, below = signed_sums(levels)
    for axis, period in enumerate(periods, start=1):
        above, below = (_by_remainder(sums, axis, period) for sums in (above, below))
    return above.reshape(len(levels), -1), below.reshape(len(levels), -1)


def _by_remainder(array: np.ndarray, axis: int, period: int) -> np.ndarray:
    """Sums of the elements along ``axis`` whose places leave the same remainder by ``period``."""
    array = np.moveaxis(array, axis, -1)
    whole = array.shape[-1] // period * period
    sums = array[..., :whole].reshape(*array.shape[:-1], -1, period).sum(axis=-2)
    sums[..., : array.shape[-1] - whole] += array[..., whole:]
    return np.moveaxis(sums, -1, axis)


def _lengths(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """Output lengths; checks stride, padding, output_padding and dilation."""
    count = len(sizes)
    stride = integers(node, "stride", count, 1, MAX_STEP)
    dilation = integers(node, "dilation", count, 1, MAX_STEP)
    padding = padding_pairs(node, count)
    extra = integers(node, "output_padding", count, 0, MAX_STEP)
    lengths = []
    for axis, (n, k, s, p, e, d) in enumerate(zip(sizes, kernel, stride, padding, extra, dilation, strict=True)):
        if e >= max(s, d):
            fail(node, f"output_padding on spatial axis {axis}", e, f"less than stride {s} or dilation {d}")
        length = transposed_length(n, k, s, p, e, d)
        if length < 1:
            fail(node, f"the output's length on spatial axis {axis}", length, "at least 1; use less padding")
        lengths.append(length)
    return tuple(lengths)
