"""A float input that is only quantised becomes a fixed point input: the border does the quantising."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph, Node
from bitshift.lower.passes.cleanup import merge_equal
from bitshift.lower.passes.edit import MOVES, Edit


def integer_inputs(graph: Graph) -> Graph:
    """Move quantisers up to the graph's inputs, and give inputs that are only quantised that type.

    ``Model.run`` quantises floats by the same rule (half_up), so that a caller may give either. An input with two
    different quantisers, with the rounding ``floor`` or with arithmetic before the quantiser stays f32.
    """
    edit = Edit(graph)
    while merge_equal(edit) or any(_hoist(edit, n) for n in list(edit.nodes) if n.op == "quantize"):
        pass
    for name in edit.inputs:
        users = edit.users(name)
        if name in edit.outputs or len(users) != 1 or users[0].op != "quantize":
            continue
        if users[0].attrs["rounding"] != "half_up":
            continue
        kind = edit.type(users[0].output)
        assert isinstance(kind, FixedPoint)
        edit.set_type(name, kind)
        if users[0].output in edit.outputs:  # an output is the result of a node, never the input itself
            shape = edit.values[name].shape
            edit.replace(users[0], replace(users[0], op="reshape", attrs={"shape": shape}))
        else:
            edit.remove(users[0])
            edit.redirect(users[0].output, name)
    return edit.finish()


def _hoist(edit: Edit, node: Node) -> bool:
    """Swap a quantiser with the move of elements above it; both orders give the same integers."""
    x = node.inputs[0]
    above = edit.producer(x)
    if above is None or above.op not in (*MOVES, "pad") or not edit.single_use(x) or node not in edit.nodes:
        return False
    source, kind = above.inputs[0], edit.type(node.output)
    if not isinstance(edit.type(source), Float32) or not isinstance(kind, FixedPoint):
        return False
    attrs = dict(above.attrs)
    if above.op == "pad":
        attrs["value"] = quantised(float(attrs["value"]), kind, half_up=node.attrs["rounding"] == "half_up")
    name = edit.new_value(f"{source}_q", edit.values[source].shape, kind)
    first = replace(node, inputs=(source,), output=name)
    edit.remove(above)
    edit.replace(node, first, replace(above, inputs=(name,), output=node.output, attrs=attrs))
    return True


def quantised(value: float, kind: FixedPoint, *, half_up: bool) -> int:
    """The rule of the ``quantize`` op for one number."""
    q = np.floor(np.float64(value) * 2.0**kind.frac + (0.5 if half_up else 0.0))
    return int(np.clip(np.nan_to_num(q), kind.lo, kind.hi))
