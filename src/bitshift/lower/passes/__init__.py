"""Graph -> Graph functions that never change an integer; :data:`PASSES` is their order."""

from __future__ import annotations

from collections.abc import Callable

from bitshift.core.graph import Graph
from bitshift.lower.passes.affine import fold_affine
from bitshift.lower.passes.clamps import fold_clamps
from bitshift.lower.passes.cleanup import cleanup
from bitshift.lower.passes.fuse import fuse
from bitshift.lower.passes.inputs import integer_inputs
from bitshift.lower.passes.narrow import narrow
from bitshift.lower.passes.padding import fold_padding

PASSES: tuple[Callable[[Graph], Graph], ...] = (
    cleanup,
    integer_inputs,
    fuse,
    fold_clamps,
    fold_affine,
    fold_padding,
    narrow,
    cleanup,
)
"""All passes in the order in which ``lower`` applies them."""


def optimise(graph: Graph) -> Graph:
    """The fused graph of a literal one: all passes in order."""
    for change in PASSES:
        graph = change(graph)
    return graph


__all__ = [
    "PASSES",
    "cleanup",
    "fold_affine",
    "fold_clamps",
    "fold_padding",
    "fuse",
    "integer_inputs",
    "narrow",
    "optimise",
]
