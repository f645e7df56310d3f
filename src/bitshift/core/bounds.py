"""Ranges of every value, and the promise that no accumulator, sum or wide value overflows."""

from __future__ import annotations

from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, GraphError, Node
from bitshift.core.ops.base import Bound, Range, get_op, type_range

INT32_MAX = (1 << 31) - 1
INT64_MAX = (1 << 63) - 1


def input_ranges(graph: Graph) -> dict[str, Range]:
    """The range of every graph input: that of its type, cut to the rows of the embeddings that read it.

    An embedding reads an input directly or through ops that only order its elements anew.
    """
    ranges: dict[str, Range] = {name: type_range(graph.values[name].type) for name in graph.inputs}
    origin = {name: name for name in graph.inputs}
    for node in graph.nodes:
        name = origin.get(node.inputs[0]) if node.inputs else None
        if name is None:
            continue
        if node.op in ("reshape", "transpose"):
            origin[node.output] = name
        elif node.op == "embedding":
            lo, hi = ranges[name] or (0, 0)
            rows = graph.const(node, "weight" if "weight" in node.consts else "codes").shape[0]
            ranges[name] = max(lo, 0), min(hi, rows - 1)
    return ranges


def check_bounds(graph: Graph) -> dict[str, Bound]:
    """The bound of every node of a checked ``graph``, by the name of its output.

    Ranges flow from the inputs (:func:`input_ranges`) through the graph, so that a clamp narrows what comes
    behind it. Accumulators use the actual codes and the asymmetric range of the input.

    Raises:
        GraphError: an accumulator or a wide (32-bit) value exceeds int32, or rule 4 exceeds int64; names the layer, the
            channel, the bound and what would fit.
    """
    ranges = input_ranges(graph)
    bounds: dict[str, Bound] = {}
    for node in graph.nodes:
        bound = get_op(node.op).bound(node, [ranges[name] for name in node.inputs], graph)
        _refuse(node, bound, graph, ranges)
        bounds[node.output] = bound
        ranges[node.output] = bound.range
    return bounds


def _refuse(node: Node, bound: Bound, graph: Graph, ranges: dict[str, Range]) -> None:
    where = f"layer {node.source or node.output!r}"
    if bound.acc > INT32_MAX:
        channel = f" for channel {bound.channel}" if "codes" in node.consts else ""
        raise GraphError(
            f"{where}: accumulator bound {bound.acc:_}{channel} exceeds int32; {_advice(node, bound, ranges)}"
        )
    type = graph.values[node.output].type
    if bound.raw is not None and isinstance(type, FixedPoint) and type.bits == 32:
        lo, hi = bound.raw
        if lo < type.lo or hi > type.hi:
            raise GraphError(
                f"{where}: the wide value {node.output!r} can reach {lo if lo < type.lo else hi:_}, "
                "which exceeds int32; use a coarser grid (a smaller frac) for it, or quantise its inputs to fewer bits"
            )
    if bound.total > INT64_MAX:
        raise GraphError(
            f"{where}: the sum before the shift can reach {bound.total:_}, which exceeds int64; "
            "use smaller mult, offset, res_shift or fewer bits"
        )


def _advice(node: Node, bound: Bound, ranges: dict[str, Range]) -> str:
    """The largest levels, or the fewest bits of activation, that would fit."""
    lo, hi = ranges[node.inputs[0]] or (0, 0)
    largest = max(abs(lo), abs(hi), 1)
    bits = max(1, (largest * INT32_MAX // bound.acc).bit_length() - 1 + (lo < 0))
    if "codes" not in node.consts:
        return f"use activations with <= {bits} bits or a smaller kernel"
    level = FORMATS[node.attrs["format"]].max_level * INT32_MAX // bound.acc
    advice = f"activations with <= {bits} bits"
    return f"use a format with max_level <= {level} or {advice}" if level >= 1 else f"use {advice}"
