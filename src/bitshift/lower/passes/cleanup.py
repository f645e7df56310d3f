"""Remove what does nothing, merge what is computed twice, shorten chains of moves, share equal constants."""

from __future__ import annotations

from dataclasses import replace

from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node
from bitshift.lower.passes.edit import Edit


def cleanup(graph: Graph) -> Graph:
    """The same graph without identities, duplicates, dead nodes and equal constants."""
    edit = Edit(graph)
    _share_constants(edit)
    while _drop_identity(edit) or _shorten(edit) or merge_equal(edit):
        pass
    return edit.finish()


def merge_equal(edit: Edit) -> bool:
    """Nodes that compute the same from the same become one; returns whether there were any."""
    seen: dict[tuple, Node] = {}
    for node in edit.nodes:
        key = (
            node.op,
            node.inputs,
            edit.values[node.output].type,
            edit.values[node.output].shape,
            tuple(sorted(node.attrs.items())),
            tuple(sorted(_content(edit, node).items())),
        )
        if key in seen and _may_merge(edit, node.output, seen[key].output):
            edit.remove(node)
            edit.redirect(node.output, seen[key].output)
            return True
        seen[key] = node
    return False


def _may_merge(edit: Edit, gone: str, kept: str) -> bool:
    """Whether readers of ``gone`` may read ``kept``: the graph's outputs are different values, computed by nodes."""
    return gone not in edit.outputs or (kept not in edit.outputs and kept not in edit.inputs)


def _content(edit: Edit, node: Node) -> dict[str, object]:
    """What a node's constants hold: large ones by name, small ones by value."""
    content: dict[str, object] = {}
    for role, name in node.consts.items():
        array = edit.constants[name]
        content[role] = name if array.size > 64 else (str(array.dtype), array.shape, array.tobytes())
    return content


def _share_constants(edit: Edit) -> None:
    """Equal arrays get one name. A constant has one role, and codes one format, wherever it is used."""
    first: dict[tuple, str] = {}
    shared = []
    for node in edit.nodes:
        consts = {}
        for role, name in node.consts.items():
            array = edit.constants[name]
            key = (role, node.attrs.get("format"), str(array.dtype), array.shape, array.tobytes())
            consts[role] = first.setdefault(key, name)
        shared.append(replace(node, consts=consts))
    edit.nodes = shared


def _drop_identity(edit: Edit) -> bool:
    for node in edit.nodes:
        if _is_identity(edit, node) and _may_merge(edit, node.output, node.inputs[0]):
            edit.remove(node)
            edit.redirect(node.output, node.inputs[0])
            return True
    return False


def _is_identity(edit: Edit, node: Node) -> bool:
    if len(node.inputs) != 1:
        return False
    x, y = edit.values[node.inputs[0]], edit.values[node.output]
    if (x.shape, x.type) != (y.shape, y.type):
        return False
    if node.op in ("reshape", "requantize", "concat", "rescale", "affine"):
        return not node.consts and "clamp" not in node.attrs
    if node.op == "slice":
        return True  # the same shape: all of it
    if node.op == "transpose":
        return tuple(node.attrs["perm"]) == tuple(range(len(x.shape)))
    if node.op == "pad":
        return not any(b or a for b, a in node.attrs["padding"])
    if node.op == "clamp":
        return _is_open(node, x.type)
    return False


def _is_open(node: Node, kind: object) -> bool:
    lo, hi = node.attrs["lo"], node.attrs["hi"]
    if isinstance(kind, FixedPoint):
        return (lo is None or lo <= kind.lo) and (hi is None or hi >= kind.hi)
    return lo is None and hi is None


def _shorten(edit: Edit) -> bool:
    """Two reshapes, transposes or slices in a row become one."""
    for node in edit.nodes:
        if node.op not in ("reshape", "transpose", "slice"):
            continue
        above = edit.producer(node.inputs[0])
        if above is None or above.op != node.op or not edit.single_use(above.output):
            continue
        attrs = dict(node.attrs)
        if node.op == "transpose":
            attrs["perm"] = tuple(above.attrs["perm"][p] for p in node.attrs["perm"])
        elif node.op == "slice":
            attrs = _compose(above, node)
        edit.remove(above)
        edit.replace(node, replace(node, inputs=above.inputs, attrs=attrs))
        return True
    return False


def _compose(first: Node, second: Node) -> dict[str, tuple[int, ...]]:
    """Attributes of ``x[first][second]`` per axis."""
    start, stop, step = [], [], []
    parts = zip(*(n.attrs[k] for n in (first, second) for k in ("start", "stop", "step")), strict=True)
    for a0, a1, a2, b0, b1, b2 in parts:
        taken = range(a0, a1, a2)[b0:b1:b2]
        start.append(taken.start)
        stop.append(min(taken.stop, a1))
        step.append(taken.step)
    return {"start": tuple(start), "stop": tuple(stop), "step": tuple(step)}


__all__ = ["cleanup", "merge_equal"]
