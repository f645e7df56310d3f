"""Packed codes, decoded once for several pixels: two to a word, up to four words a look-up.

A tile of cells (:mod:`.image`) meets the weights in blocks. For a block, every product that a code may mean is made
once (:mod:`~bitshift.backends.c99.symbols`); then each output's codes pick theirs. With more than one block, the sums
of the tile wait in memory, in lanes as long as these provably hold them, else in 32 bits.
"""

from __future__ import annotations

from bitshift.backends.c99 import cost
from bitshift.backends.c99.kernels import packed_text
from bitshift.backends.c99.kernels.packed_plan import Plan, plan_packed
from bitshift.backends.c99.kernels.planned import Planned
from bitshift.backends.c99.layer import Code, Estimate, Layer
from bitshift.backends.c99.targets import Target


class Packed(Planned[Plan]):
    """The kernel with ``pairs`` cells a look-up: more are faster and need more memory."""

    def __init__(self, pairs: int) -> None:
        self.pairs = pairs
        self.name = "packed" if pairs == 4 else f"packed-{pairs}"

    def make(self, layer: Layer, target: Target) -> Plan | str:
        """The plan; refuses wide formats, three spatial axes, depthwise layers, and tiles larger than the output."""
        return plan_packed(layer, target, self.pairs)

    def estimate(self, layer: Layer, target: Target) -> Estimate:
        """Cost on ``target``."""
        return cost.packed(layer, self.plan(layer, target), target)

    def emit(self, layer: Layer, target: Target) -> Code:
        """The C text."""
        return packed_text.write(layer, self.plan(layer, target))


__all__ = ["Packed"]
