"""What the ops with weights share: rule 4 behind the accumulator, its bound, its cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.arith import along, limits, saturate
from bitshift.core.fixed import is_power_of_two
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Range, fixed, is_float, result, source
from bitshift.core.ops.rules import (
    check_codes,
    check_fixed,
    check_kinds,
    check_parts,
    check_shape,
    check_vectors,
    check_weight,
    clamp_of,
    clamp_pair,
    fail,
    weights_format,
)
from bitshift.core.roles import DEFAULTS, ROLE_DTYPES, stored

INT_CONSTS = ("codes", "offset", "mult", "shift", "res_shift")
FLOAT_CONSTS = ("codes", "scale", "bias")


def is_kept(node: Node) -> bool:
    """Whether the layer was kept float: plain float32 weights, no codes."""
    return "weight" in node.consts


def check_weights(node: Node, graph: Graph, attrs: tuple[str, ...], rank: int) -> tuple[int, ...]:
    """The shape (O, ...) of codes or weight, once all but the shapes of ``node`` is checked."""
    if is_kept(node):
        check_parts(node, inputs=(1, 1), attrs=attrs, consts=("weight", "bias"))
        check_kinds(node, graph)
        if not is_float(node, graph):
            fail(node, "the input's type", source(node, graph).type, "f32 for float weights")
        return check_weight(node, graph, rank).shape
    _check_coded_parts(node, graph, ("format", *attrs))
    return check_codes(node, graph, weights_format(node, graph), rank).shape


def _check_coded_parts(node: Node, graph: Graph, attrs: tuple[str, ...]) -> None:
    if is_float(node, graph):
        check_parts(node, inputs=(1, 1), attrs=attrs, consts=FLOAT_CONSTS)
        check_kinds(node, graph)
        return
    has_residual = len(node.inputs) == 2
    consts = INT_CONSTS if has_residual else INT_CONSTS[:-1]
    check_parts(node, inputs=(1, 2), attrs=attrs, optional=("clamp",), consts=consts)
    check_kinds(node, graph)
    clamp_pair(node, check_fixed(node, result(node, graph)))


def check_result(node: Node, graph: Graph, shape: tuple[int, ...], channels: int) -> None:
    """Output and residual have ``shape``; the vectors have one element a channel."""
    check_shape(node, graph, shape)
    if len(node.inputs) == 2 and source(node, graph, 1).shape != shape:
        fail(node, "the residual's shape", list(source(node, graph, 1).shape), list(shape))
    check_vectors(node, graph, (channels,))


def float_weights(node: Node, graph: Graph) -> np.ndarray:
    """Weights of an f32 node as float32: the levels, or the weights of a layer kept float."""
    return graph.const(node, "weight") if is_kept(node) else levels_of(node, graph).astype(np.float32)


def levels_of(node: Node, graph: Graph) -> np.ndarray:
    """Integer levels (int64) of the node's codes."""
    return FORMATS[node.attrs["format"]].table[graph.const(node, "codes")]


def vector(node: Node, graph: Graph, role: str, length: int) -> np.ndarray:
    """The constant ``role``, or its default, one element a channel."""
    if role in node.consts:
        return np.broadcast_to(graph.const(node, role), (length,))
    return np.full(length, DEFAULTS[role], dtype=ROLE_DTYPES[role])


def finish(acc: np.ndarray, node: Node, inputs: Sequence[np.ndarray], graph: Graph, axis: int) -> np.ndarray:
    """Rule 4 for accumulators (int64) whose channels lie along ``axis``."""
    count = acc.shape[axis]

    def channel(role: str) -> np.ndarray:
        return along(vector(node, graph, role, count).astype(np.int64), axis, acc.ndim)

    total = acc * channel("mult") + channel("offset")
    if len(inputs) == 2:
        total += inputs[1].astype(np.int64) << channel("res_shift")
    return saturate(total >> channel("shift"), fixed(result(node, graph)), clamp_of(node))


def finish_float(acc: np.ndarray, node: Node, graph: Graph, axis: int) -> np.ndarray:
    """``acc * scale + bias`` in float32."""
    count = acc.shape[axis]
    scale, bias = (along(vector(node, graph, role, count), axis, acc.ndim) for role in ("scale", "bias"))
    return acc.astype(np.float32) * scale + bias


def accumulator_range(levels: np.ndarray, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of any partial sum of ``level * x``, x in lo..hi, for each row of ``levels`` (O, ...).

    Zero is taken into the range: padding adds zeros, and a sum begins without most of its terms. Exact Python integers
    (arrays of dtype object), because a bound may exceed every machine integer.
    """
    least, largest = partial_sums(*signed_sums(levels.reshape(levels.shape[0], -1)), lo, hi)
    return least.astype(object), largest.astype(object)


def signed_sums(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (O, ...) of the positive and of the negative ``levels`` (O, n, ...)."""
    return np.maximum(levels, 0).sum(axis=1), np.minimum(levels, 0).sum(axis=1)


def partial_sums(above: np.ndarray, below: np.ndarray, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray]:
    """The ranges of :func:`accumulator_range` from its :func:`signed_sums`, as int64 where that holds them."""
    lo, hi = min(lo, 0), max(hi, 0)
    if max(int(above.max()), -int(below.min())) * (hi - lo) >= 1 << 63:
        above, below = above.astype(object), below.astype(object)
    return above * lo + below * hi, above * hi + below * lo


def weighted_bound(node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
    """Bounds of accumulator, rule 4 and output."""
    if ranges[0] is None:
        return Bound(range=None)
    key = ("sums", node.consts["codes"], node.attrs["format"])
    above, below = graph.once(
        key, lambda: signed_sums(levels_of(node, graph).reshape(len(graph.const(node, "codes")), -1))
    )
    lo, hi = partial_sums(above, below, *ranges[0])
    return rule4_bound(node, (lo.astype(object), hi.astype(object)), ranges[1:], graph)


def rule4_bound(
    node: Node, accumulator: tuple[np.ndarray, np.ndarray], residuals: Sequence[Range], graph: Graph
) -> Bound:
    """Bound of rule 4 from the least and largest accumulator of each channel (Python integers) and the residual."""
    acc_lo, acc_hi = accumulator
    acc = np.maximum(-acc_lo, acc_hi)
    count = len(acc)
    mult, offset, shift, res_shift = (
        vector(node, graph, role, count).astype(object) for role in ("mult", "offset", "shift", "res_shift")
    )
    residual = next((r for r in residuals if r is not None), (0, 0))
    scale = 1 << res_shift
    total = acc * mult + abs(offset) + max(-residual[0], residual[1]) * scale
    raw = (
        int(min((acc_lo * mult + offset + residual[0] * scale) >> shift)),
        int(max((acc_hi * mult + offset + residual[1] * scale) >> shift)),
    )
    lo, hi = limits(fixed(result(node, graph)), clamp_of(node))
    return Bound(
        range=(min(max(raw[0], lo), hi), max(min(raw[1], hi), lo)),
        raw=raw,
        acc=int(acc.max()),
        channel=int(acc.argmax()),
        total=int(total.max()),
    )


def rule4_cost(node: Node, graph: Graph, per_channel: int, channels: int) -> Cost:
    """Cost of rule 4 for ``per_channel`` outputs of each of ``channels`` channels: constants as they are."""
    mult, offset, shift, res_shift = (
        vector(node, graph, role, channels) for role in ("mult", "offset", "shift", "res_shift")
    )
    powers = is_power_of_two(mult)
    residual = len(node.inputs) == 2 and "codes" in node.consts
    shifts = int((powers & (mult != 1)).sum()) + int((shift != 0).sum())
    adds = int((offset != 0).sum())
    if residual:
        shifts += int((res_shift != 0).sum())
        adds += channels
    return Cost(
        shifts=shifts * per_channel,
        adds=adds * per_channel,
        multiplications=int((~powers).sum()) * per_channel,
        comparisons=2 * channels * per_channel,
        requantisations=channels * per_channel,
    )


def memory(node: Node, graph: Graph) -> Cost:
    """Bytes of output and constants, bits of weights."""
    bits = constants = 0
    for role, name in node.consts.items():
        array = graph.constants[name]
        if role == "codes":
            bits += array.size * FORMATS[node.attrs["format"]].bits
        elif role == "weight":
            bits += array.size * 32
        else:
            constants += stored(role, array).nbytes
    return Cost(weight_bits=bits, constant_bytes=constants, activation_bytes=result(node, graph).size_bytes)


def weighted_cost(node: Node, graph: Graph, channels: int, products: int | None = None) -> Cost:
    """Products and sums of every output, then rule 4 (or scale and bias); one product a weight of an output if None."""
    outputs = result(node, graph).size
    if is_kept(node):
        if products is None:
            products = outputs * (graph.const(node, "weight").size // channels)
        adds = products + outputs * ("bias" in node.consts)
        return memory(node, graph) + Cost(float_multiplications=products, float_adds=adds, products=products)
    codes = graph.const(node, "codes")
    if products is None:
        products = outputs * (codes.size // channels)
    form = FORMATS[node.attrs["format"]]
    if is_float(node, graph):
        return memory(node, graph) + Cost(
            float_shifts=products * form.terms,
            float_adds=products * max(1, form.terms) + outputs * ("bias" in node.consts),
            float_multiplications=(0 if form.terms else products) + outputs * ("scale" in node.consts),
            products=products,
        )
    bits = fixed(source(node, graph)).bits
    shifts = products * form.terms
    multiplications = 0 if form.terms else products
    own = Cost(
        shifts=shifts,
        narrow_shifts=shifts if bits + form.max_level.bit_length() - 1 <= 16 else 0,
        adds=products * max(1, form.terms),
        multiplications=multiplications,
        narrow_multiplications=multiplications if bits <= 8 else 0,
        products=products,
    )
    return memory(node, graph) + own + rule4_cost(node, graph, outputs // channels, channels)
