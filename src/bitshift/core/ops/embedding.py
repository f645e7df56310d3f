"""Rows of a table by number: the embedding of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.arith import saturate
from bitshift.core.fixed import Float32, is_power_of_two
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, GraphError, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, fixed, register, result, source
from bitshift.core.ops.rules import (
    check_codes,
    check_fixed,
    check_parts,
    check_shape,
    check_vectors,
    check_weight,
    clamp_of,
    clamp_pair,
    fail,
    weights_format,
)
from bitshift.core.ops.weighted import is_kept, memory, rule4_bound, vector


@register
class Embedding(Op):
    """ids (S), codes (V, E) -> (S, E); the constants of rule 4 have one element a row of the table."""

    name = "embedding"
    since = 2

    def check(self, node: Node, graph: Graph) -> None:
        real = isinstance(result(node, graph).type, Float32)
        if is_kept(node):
            check_parts(node, inputs=(1, 1), consts=("weight",))
            if not real:
                fail(node, "the output's type", result(node, graph).type, "f32 for float weights")
            shape = check_weight(node, graph, 2).shape
        else:
            consts = ("codes", "scale", "bias") if real else ("codes", "offset", "mult", "shift")
            optional = () if real else ("clamp",)
            check_parts(node, inputs=(1, 1), attrs=("format",), optional=optional, consts=consts)
            if not real:
                clamp_pair(node, fixed(result(node, graph)))
            shape = check_codes(node, graph, weights_format(node, graph, real=real), 2).shape
        ids = source(node, graph)
        if check_fixed(node, ids).frac != 0:
            fail(node, f"the type of {ids.name!r}", ids.type, "integers with frac 0, the numbers of rows")
        check_shape(node, graph, (*ids.shape, shape[1]))
        check_vectors(node, graph, (shape[0],))

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        ids = inputs[0].astype(np.int64)
        if is_kept(node):
            return graph.const(node, "weight")[ids]
        codes = graph.const(node, "codes")
        levels = FORMATS[node.attrs["format"]].table[codes[ids]]

        def row(role: str) -> np.ndarray:
            return vector(node, graph, role, len(codes))[ids][..., None]

        if isinstance(result(node, graph).type, Float32):
            return levels.astype(np.float32) * row("scale") + row("bias")
        scaled = levels * row("mult").astype(np.int64) + row("offset").astype(np.int64)
        return saturate(scaled >> row("shift").astype(np.int64), fixed(result(node, graph)), clamp_of(node))

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        rows = graph.const(node, "weight" if is_kept(node) else "codes").shape[0]
        lo, hi = ranges[0] or (0, 0)
        if lo < 0 or hi >= rows:
            raise GraphError(
                f"layer {node.source or node.output!r}: its ids {node.inputs[0]!r} can be {lo} to {hi}, the table has "
                f"the rows 0 to {rows - 1}; read them from an input of the graph, or clamp them"
            )
        if isinstance(result(node, graph).type, Float32):
            return Bound(range=None)
        return rule4_bound(node, _extremes(node, graph), (), graph)

    def cost(self, node: Node, graph: Graph) -> Cost:
        out = result(node, graph)
        own = memory(node, graph) + Cost(lookups=out.size)
        if isinstance(out.type, Float32):
            count = out.size
            return own + Cost(
                float_multiplications=count if "scale" in node.consts else 0,
                float_adds=count if "bias" in node.consts else 0,
            )
        rows = graph.const(node, "codes").shape[0]
        mult, offset, shift = (vector(node, graph, role, rows) for role in ("mult", "offset", "shift"))
        powers = is_power_of_two(mult)
        # As if every row were as dear as the dearest: which rows are read is not known.
        return own + Cost(
            shifts=out.size * (int((powers & (mult != 1)).any()) + int(shift.any())),
            adds=out.size * int(offset.any()),
            multiplications=out.size * int((~powers).any()),
            comparisons=2 * out.size,
            requantisations=out.size,
        )


def _extremes(node: Node, graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest level of each row, as Python integers."""
    table, codes = FORMATS[node.attrs["format"]].table, graph.const(node, "codes")
    key = ("extremes", node.consts["codes"], node.attrs["format"])
    lo, hi = graph.once(key, lambda: _row_extremes(table, codes))
    return lo.astype(object), hi.astype(object)


def _row_extremes(table: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some rows at a time, because tables of embeddings are large."""
    parts = [table[codes[first : first + 4096]] for first in range(0, len(codes), 4096)]
    lo, hi = (np.concatenate([f(part, axis=1) for part in parts]) for f in (np.min, np.max))
    return lo, hi
