"""A rounding as a value, and how it moves up through ops that commute with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bitshift.core.arith import Clamp, half, limits
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Node
from bitshift.lower.passes.edit import MOVES, Edit
from bitshift.lower.wide import is_wide


@dataclass(frozen=True)
class Rounding:
    """From an integer at a finer or coarser grid to type ``out`` within ``clamp``; ties up, or floor."""

    out: FixedPoint
    clamp: Clamp
    half_up: bool

    def step(self, frac: int) -> int:
        """Right shift from grid ``2**-frac``; negative for a left shift."""
        return frac - self.out.frac

    def half(self, shift: int) -> int:
        """What is added before the shift."""
        return half(shift) if self.half_up else 0

    def apply(self, q: int, frac: int) -> int:
        """The result for one integer ``q`` at grid ``2**-frac``."""
        shift = self.step(frac)
        rounded = (q + self.half(shift)) >> shift if shift > 0 else q << -shift
        lo, hi = limits(self.out, self.clamp)
        return min(max(rounded, lo), hi)

    def within(self, lo: int | None, hi: int | None, frac: int) -> Rounding:
        """This rounding of a value that was clamped to ``[lo, hi]`` (units of ``2**-frac``): both are monotone."""
        own_lo, own_hi = limits(self.out, self.clamp)
        new_lo = own_lo if lo is None else self.apply(lo, frac)
        new_hi = own_hi if hi is None else self.apply(hi, frac)
        full = (new_lo, new_hi) == (self.out.lo, self.out.hi)
        return replace(self, clamp=None if full else (new_lo, new_hi))


def rounding_of(edit: Edit, node: Node) -> Rounding | None:
    """The rounding that ``node`` is: a ``requantize``, or the ``rescale`` that a floor quantiser became."""
    out = edit.type(node.output)
    if not isinstance(out, FixedPoint) or is_wide(out):
        return None
    if node.op == "requantize":
        return Rounding(out, node.attrs.get("clamp"), half_up=True)
    if node.op == "rescale" and set(node.consts) == {"shift"}:
        source, shift = edit.type(node.inputs[0]), edit.constants[node.consts["shift"]]
        if isinstance(source, FixedPoint) and shift.size == 1 and int(shift[0]) == source.frac - out.frac:
            return Rounding(out, node.attrs.get("clamp"), half_up=False)
    return None


def rounding_node(edit: Edit, rounding: Rounding, x: str, output: str, source: str) -> Node:
    """The node ``output = rounding(x)``."""
    kind = edit.type(x)
    assert isinstance(kind, FixedPoint)
    attrs = {} if rounding.clamp is None else {"clamp": rounding.clamp}
    node = Node("requantize", (x,), output, attrs, {}, source)
    shift = rounding.step(kind.frac)
    if rounding.half_up or shift <= 0:
        return node
    return replace(node, op="rescale", consts=edit.new_consts(node, {"shift": np.array([shift], np.uint8)}))


def hoist(edit: Edit, node: Node, rounding: Rounding) -> bool:
    """Move the rounding ``node`` above the op that it reads, when both orders give the same integers."""
    x = node.inputs[0]
    above = edit.producer(x)
    if above is None or not edit.single_use(x):
        return False
    kind = edit.type(above.inputs[0])
    if not isinstance(kind, FixedPoint):
        return False
    if above.op == "clamp":
        tighter = rounding.within(above.attrs["lo"], above.attrs["hi"], kind.frac)
        edit.replace(node, rounding_node(edit, tighter, above.inputs[0], node.output, node.source))
        edit.remove(above)
        return True
    if above.op == "requantize" and is_wide(edit.type(x)) and "clamp" not in above.attrs:
        # Only ever a refinement of the grid for a clamp: nothing is lost by rounding from the coarser one.
        wide = edit.type(x)
        assert isinstance(wide, FixedPoint)
        if wide.frac >= kind.frac:
            edit.replace(node, rounding_node(edit, rounding, above.inputs[0], node.output, node.source))
            edit.remove(above)
            return True
        return False
    if above.op in MOVES or above.op == "pad":
        return _swap(edit, node, above, rounding, kind)
    if above.op == "concat":
        return _into_concat(edit, node, above, rounding)
    return False


def _swap(edit: Edit, node: Node, above: Node, rounding: Rounding, kind: FixedPoint) -> bool:
    attrs = dict(above.attrs)
    if above.op == "pad":
        attrs["value"] = rounding.apply(int(attrs["value"]), kind.frac)
    source = above.inputs[0]
    rounded = edit.new_value(f"{source}_q", edit.values[source].shape, rounding.out)
    first = rounding_node(edit, rounding, source, rounded, node.source)
    edit.remove(above)
    edit.replace(node, first, replace(above, inputs=(rounded,), output=node.output, attrs=attrs))
    return True


def _into_concat(edit: Edit, node: Node, above: Node, rounding: Rounding) -> bool:
    """Each wide input is rounded by itself; narrow ones are brought to the output's grid by the concat."""
    free = rounding.clamp is None
    new, names = [], []
    for name in above.inputs:
        kind = edit.type(name)
        if free and (kind == rounding.out or (rounding.half_up and not is_wide(kind))):
            names.append(name)
            continue
        rounded = edit.new_value(f"{name}_q", edit.values[name].shape, rounding.out)
        new.append(rounding_node(edit, rounding, name, rounded, node.source))
        names.append(rounded)
    edit.remove(above)
    edit.replace(node, *new, replace(above, inputs=tuple(names), output=node.output))
    return True
