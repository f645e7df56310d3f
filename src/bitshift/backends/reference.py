"""The numpy backend: slow, exact, everywhere; the fall-back where no compiled engine exists."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bitshift.core.bounds import check_bounds
from bitshift.core.check import check
from bitshift.core.cost import MAX_ACTIVATION_BYTES, check_limits
from bitshift.core.graph import Graph
from bitshift.core.ops import OPS
from bitshift.core.reference import check_inputs, run_checked

NAME = "reference"
CHUNK_BYTES = 256 << 20
"""A batch is run in pieces whose activations stay near this size."""


def available() -> str | None:
    """None: numpy is always there."""
    return None


def unsupported(graph: Graph) -> list[str]:
    """One line for each op without a reference; none, unless the graph names an op that does not exist."""
    return sorted({f"unknown op {node.op!r}" for node in graph.nodes if node.op not in OPS})


class Executable:
    """A checked graph; holds no state between runs."""

    def __init__(self, graph: Graph, *, max_activation_bytes: int = MAX_ACTIVATION_BYTES) -> None:
        check(graph)
        check_bounds(graph)
        check_limits(graph, max_activation_bytes=max_activation_bytes)
        self.graph = graph
        sample = max((value.size for value in graph.values.values()), default=1)
        # The reference computes in up to 8 bytes an element, with a few arrays of one size alive at a time.
        self._chunk = max(1, CHUNK_BYTES // (8 * 4 * max(sample, 1)))

    def run_int(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, each (N, *shape) in the dtype of its type.

        Raises:
            ValueError: names the bad input.
        """
        checked = check_inputs(self.graph, inputs)
        batch = len(checked[self.graph.inputs[0]])
        if batch <= self._chunk:
            return run_checked(self.graph, checked)
        parts = [
            run_checked(self.graph, {name: array[i : i + self._chunk] for name, array in checked.items()})
            for i in range(0, batch, self._chunk)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.graph.outputs}


def compile(graph: Graph, *, max_activation_bytes: int = MAX_ACTIVATION_BYTES) -> Executable:
    """Check ``graph`` and its bounds and limits; GraphError names what is refused."""
    return Executable(graph, max_activation_bytes=max_activation_bytes)
