"""Inputs and outputs by the reference, in the integers of the C network's borders."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bitshift.backends.c99.program import Program
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph
from bitshift.core.ops.dequantize import dequantize
from bitshift.core.ops.quantize import quantize
from bitshift.core.reference import run_checked

SEED = 20261121


def inputs(program: Program, count: int, *, seed: int = SEED) -> dict[str, np.ndarray]:
    """``count`` samples (count, *shape) by input: one of the range's ends only, the rest from all of it."""
    rng = np.random.default_rng(seed)
    found = {}
    for border in program.inputs:
        port = border.port
        samples = [rng.choice(np.array([port.lo, port.hi], dtype=np.int64), size=port.shape)]
        samples += [rng.integers(port.lo, port.hi, endpoint=True, size=port.shape) for _ in range(count - 1)]
        integers = np.stack(samples).astype(port.type.dtype)
        if not isinstance(program.graph.values[border.name].type, FixedPoint):  # what a float32 can say
            integers = quantize(dequantize(integers, port.type), port.type, border.rounding)
        found[border.name] = integers
    return found


def outputs(program: Program, integers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the reference gives for ``integers`` (N, *shape) by input, as integers by output."""
    graph = program.graph
    given = {}
    for border in program.inputs:
        real = not isinstance(graph.values[border.name].type, FixedPoint)
        array = integers[border.name]
        given[border.name] = dequantize(array, border.port.type) if real else array
    values = run_checked(graph, given, keep=True)
    return {border.name: values[_integer_value(graph, border.name)] for border in program.outputs}


def _integer_value(graph: Graph, name: str) -> str:
    """The integer value behind the output ``name``, which a dequantize may have made float."""
    for node in graph.nodes:
        if node.output == name and node.op == "dequantize":
            return node.inputs[0]
    return name


__all__ = ["inputs", "outputs"]
