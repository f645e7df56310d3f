"""Any function of a value of at most 8 bits, by table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import Bound, Cost, Op, Range, fixed, register, result, source
from bitshift.core.ops.rules import check_fixed, check_parts, check_shape, fail
from bitshift.core.ops.weighted import memory


@register
class Table(Op):
    """``table[q - x.lo]`` with one entry for each of the ``2**bits`` integers of x's type."""

    name = "table"

    def check(self, node: Node, graph: Graph) -> None:
        check_parts(node, inputs=(1, 1), consts=("table",))
        x, out = source(node, graph), check_fixed(node, result(node, graph))
        bits = check_fixed(node, x, max_bits=8).bits
        check_shape(node, graph, x.shape)
        table = graph.const(node, "table")
        if table.dtype != out.dtype or table.shape != (1 << bits,):
            fail(node, "table", f"{table.dtype} of shape {list(table.shape)}", f"{out.dtype} of shape [{1 << bits}]")
        if not out.lo <= int(table.min()) <= int(table.max()) <= out.hi:
            fail(node, "the table's range", f"{table.min()} to {table.max()}", f"{out.lo} to {out.hi}")

    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        return graph.const(node, "table")[inputs[0].astype(np.int64) - fixed(source(node, graph)).lo]

    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        base = fixed(source(node, graph)).lo
        lo, hi = ranges[0] or (base, fixed(source(node, graph)).hi)
        reachable = graph.const(node, "table")[lo - base : hi - base + 1]
        return Bound(range=(int(reachable.min()), int(reachable.max())))

    def cost(self, node: Node, graph: Graph) -> Cost:
        return memory(node, graph) + Cost(lookups=result(node, graph).size)
