"""A clamp behind an integer node that can clamp by itself goes into that node."""

from __future__ import annotations

from dataclasses import replace

from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node
from bitshift.lower.passes.edit import MOVES, Edit, without

CLAMPING = frozenset({"conv", "conv_transpose", "linear", "embedding", "add", "requantize", "rescale", "avg_pool"})
"""Integer ops with the attribute ``clamp``."""


def fold_clamps(graph: Graph) -> Graph:
    """Fold integer clamps upwards: through moves of elements, then into the node that computes the value."""
    edit = Edit(graph)
    while any(_fold(edit, n) for n in edit.nodes if n.op == "clamp"):
        pass
    return edit.finish()


def _fold(edit: Edit, node: Node) -> bool:
    x = node.inputs[0]
    above, kind = edit.producer(x), edit.type(x)
    if above is None or not isinstance(kind, FixedPoint) or not edit.single_use(x):
        return False
    if above.op in MOVES:
        source = above.inputs[0]
        clamped = edit.new_value(f"{source}_clamped", edit.values[source].shape, kind)
        edit.remove(above)
        edit.replace(
            node, replace(node, inputs=(source,), output=clamped), replace(above, inputs=(clamped,), output=node.output)
        )
        return True
    if above.op not in CLAMPING:
        return False
    own_lo, own_hi = above.attrs.get("clamp", (kind.lo, kind.hi))
    lo, hi = (_bounded(node.attrs[k], own_lo, own_hi, default) for k, default in (("lo", own_lo), ("hi", own_hi)))
    edit.remove(above)
    edit.replace(node, replace(above, output=node.output, attrs=without(above.attrs, clamp=(lo, hi))))
    return True


def _bounded(bound: int | None, lo: int, hi: int, default: int) -> int:
    """clamp(clamp(x, own), new) == clamp(x, own bounds clamped to the new ones)."""
    return default if bound is None else min(max(bound, lo), hi)
