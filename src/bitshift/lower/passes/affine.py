"""A float scale and shift behind a float layer (a batch norm in eval) goes into the layer's own constants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitshift.core.fixed import Float32
from bitshift.core.graph import Graph, Node
from bitshift.lower.passes.edit import Edit


def fold_affine(graph: Graph) -> Graph:
    """Fold ``affine`` into the layer with weights before it. Float results may change in the last bits."""
    edit = Edit(graph)
    while any(_fold(edit, n) for n in edit.nodes if n.op == "affine"):
        pass
    return edit.finish()


def _fold(edit: Edit, node: Node) -> bool:
    x = node.inputs[0]
    layer = edit.producer(x)
    if layer is None or layer.op not in ("conv", "conv_transpose", "linear") or not edit.single_use(x):
        return False
    if not isinstance(edit.type(x), Float32):
        return False
    if layer.op == "linear" and len(edit.values[x].shape) != 1 and _length(edit, node) != 1:
        return False  # linear's channels are the last axis, affine's the first
    role = "codes" if "codes" in layer.consts else "weight"
    weight = edit.constants[layer.consts[role]]
    channels = weight.shape[0]
    scale, shift = _vector(edit, node, "scale", 1.0, channels), _vector(edit, node, "bias", 0.0, channels)
    new = {"bias": _vector(edit, layer, "bias", 0.0, channels) * scale + shift}
    kept = {role: layer.consts[role]}
    if role == "codes":
        new["scale"] = _vector(edit, layer, "scale", 1.0, channels) * scale
    else:
        new["weight"] = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        kept = {}
    arrays = {r: a.astype(np.float32) for r, a in new.items() if r != "bias" or a.any()}
    if not all(np.isfinite(a).all() for a in arrays.values()):
        return False
    edit.remove(layer)
    edit.replace(node, replace(layer, output=node.output, consts={**kept, **edit.new_consts(layer, arrays)}))
    return True


def _vector(edit: Edit, node: Node, role: str, default: float, length: int) -> np.ndarray:
    if role not in node.consts:
        return np.full(length, default)
    return np.broadcast_to(edit.constants[node.consts[role]].astype(np.float64), (length,))


def _length(edit: Edit, node: Node) -> int:
    return max(edit.constants[c].size for c in node.consts.values())
