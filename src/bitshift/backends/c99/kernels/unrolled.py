"""Weights as straight-line code: a weight is one addition of a register, its address and level are in the instruction.

Where the processor shifts an operand for nothing, every output adds shifted cells (:mod:`.image`). Elsewhere a loaded
cell is shifted from plane to plane of the levels' binary digits while several outputs, as many as registers hold, take
it (a chain); or every output has a sum for each plane, joined by Horner's rule. The proof says how many planes may
share lanes.
"""

from __future__ import annotations

from bitshift.backends.c99 import cost
from bitshift.backends.c99.kernels import unrolled_text
from bitshift.backends.c99.kernels.planned import Planned
from bitshift.backends.c99.kernels.unrolled_plan import Plan, plan_unrolled
from bitshift.backends.c99.layer import Code, Estimate, Layer
from bitshift.backends.c99.targets import Target


class Unrolled(Planned[Plan]):
    """The kernel: the fastest, for several bytes of flash a weight."""

    name = "unrolled"

    def make(self, layer: Layer, target: Target) -> Plan | str:
        """The plan; refuses three spatial axes, levels beyond the lanes, and more code than is sensible."""
        return plan_unrolled(layer, target)

    def estimate(self, layer: Layer, target: Target) -> Estimate:
        """Cost on ``target``."""
        plan = self.plan(layer, target)
        found = cost.unrolled(plan, target)
        return cost.widened(found, layer, target, lanes=len(plan.rows) * plan.image.lanes, straight=True)

    def emit(self, layer: Layer, target: Target) -> Code:
        """The C text."""
        return unrolled_text.write(layer, self.plan(layer, target), target)


__all__ = ["Unrolled"]
