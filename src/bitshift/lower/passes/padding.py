"""Zero padding in front of a convolution or an average pool becomes the window's own padding."""

from __future__ import annotations

from dataclasses import replace

from bitshift.core.graph import Graph, Node
from bitshift.core.ops.rules import MAX_STEP
from bitshift.lower.passes.edit import Edit

WINDOWED = ("conv", "avg_pool")
"""Ops whose padding counts as zeros (a max pool's padding never wins instead)."""


def fold_padding(graph: Graph) -> Graph:
    """Let windows read the unpadded value: one copy of it less."""
    edit = Edit(graph)
    while any(_fold(edit, n) for n in edit.nodes if n.op in WINDOWED):
        pass
    return edit.finish()


def _fold(edit: Edit, node: Node) -> bool:
    above = edit.producer(node.inputs[0])
    if above is None or above.op != "pad" or above.attrs["value"] != 0 or above.attrs["padding"][0] != (0, 0):
        return False
    outer, inner = above.attrs["padding"][1:], node.attrs["padding"]
    padding = tuple((a + c, b + d) for (a, b), (c, d) in zip(outer, inner, strict=True))
    if any(side > MAX_STEP for pair in padding for side in pair):
        return False
    attrs = {**node.attrs, "padding": padding}
    edit.replace(node, replace(node, inputs=(above.inputs[0], *node.inputs[1:]), attrs=attrs))
    return True
