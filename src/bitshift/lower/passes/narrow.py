"""Wide values that no rounding took in become ``s32`` when their bound allows, or are refused by name."""

from __future__ import annotations

from dataclasses import replace

from bitshift.core.bounds import input_ranges
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node
from bitshift.core.ops import get_op
from bitshift.core.ops.base import Range
from bitshift.core.roles import MAX_MULT, ROLE_DTYPES
from bitshift.lower.errors import LoweringError
from bitshift.lower.passes.edit import Edit, without
from bitshift.lower.wide import is_wide

INT32 = FixedPoint(32, 0)


def narrow(graph: Graph) -> Graph:
    """Give every wide value the type ``s32`` and every constant the dtype of its role.

    Raises:
        LoweringError: a value's bound exceeds int32, or a ``mult`` exceeds 16 bits; names the layer and a remedy.
    """
    ranges = value_ranges(graph)
    edit = Edit(graph)
    edit.nodes = [_narrowed(edit, graph, node, ranges) for node in graph.nodes]
    return edit.finish()


def value_ranges(graph: Graph) -> dict[str, Range]:
    """Smallest and largest integer of every value (None for f32), from the constants and the types of the inputs."""
    ranges = input_ranges(graph)
    for node in graph.nodes:
        ranges[node.output] = get_op(node.op).bound(node, [ranges[i] for i in node.inputs], graph).range
    return ranges


def _narrowed(edit: Edit, graph: Graph, node: Node, ranges: dict[str, Range]) -> Node:
    kind = graph.values[node.output].type
    if is_wide(kind):
        assert isinstance(kind, FixedPoint)
        reach = ranges[node.output]
        assert reach is not None
        if reach[0] < INT32.lo or reach[1] > INT32.hi:
            raise LoweringError(
                f"{node}: its exact value spans {reach[0]:_} to {reach[1]:_} at grid 2**-{kind.frac}, over int32, "
                f"and it is used unrounded by {_readers(graph, node)}. Remedy: put an activation quantiser behind it "
                "(convert(..., activations=8) does), or use multiplier=False, a format with smaller levels or fewer "
                "activation bits"
            )
        if not -64 <= kind.frac <= 64:
            raise LoweringError(
                f"{node}: its grid is 2**-{kind.frac}; allowed are 2**-64 to 2**64: rescale the model's numbers"
            )
        edit.set_type(node.output, FixedPoint(32, kind.frac))
        node = _bounded(node)
    return replace(node, consts={role: _typed(edit, node, role) for role in node.consts})


def _bounded(node: Node) -> Node:
    """Clamps in units of the new type: what is over int32 is open."""
    if "clamp" in node.attrs:
        lo, hi = (int(min(max(b, INT32.lo), INT32.hi)) for b in node.attrs["clamp"])
        return replace(
            node,
            attrs=without(node.attrs, "clamp")
            if (lo, hi) == (INT32.lo, INT32.hi)
            else without(node.attrs, clamp=(lo, hi)),
        )
    if node.op == "clamp":
        bounds = {
            k: None if node.attrs[k] is None else min(max(node.attrs[k], INT32.lo), INT32.hi) for k in ("lo", "hi")
        }
        return replace(node, attrs=bounds)
    return node


def _typed(edit: Edit, node: Node, role: str) -> str:
    """Name of the constant in the dtype of its role."""
    name = node.consts[role]
    array, dtype = edit.constants[name], ROLE_DTYPES.get(role)
    if role == "mult" and int(array.max()) > MAX_MULT:
        c = int(array.argmax())
        raise LoweringError(
            f"{node}: channel {c} needs the multiplier {int(array[c]):_} (over {MAX_MULT}) at grid "
            f"{edit.type(node.output)}, which all channels share. Remedy: put an activation quantiser behind the "
            "layer, calibrate the one it has, or use multiplier=False"
        )
    if dtype is None or array.dtype == dtype:
        return name
    return edit.new_consts(node, {role: array.astype(dtype)})[role]


def _readers(graph: Graph, node: Node) -> str:
    readers = [f"{n.op} {n.output!r}" for n in graph.users(node.output)]
    if node.output in graph.outputs:
        readers.append("the model's output")
    return " and ".join(readers)


__all__ = ["narrow", "value_ranges"]
