"""The compiled engine: the same integers as the reference, much faster, and no torch.

A graph reaches the engine as the bytes of its model file, so that what runs is what the file says; ``cpp/`` has a
reader of its own, which checks everything again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitshift.core.container import ModelFileError
from bitshift.core.cost import MAX_ACTIVATION_BYTES, MAX_OPERATIONS
from bitshift.core.graph import Graph, GraphError
from bitshift.core.modelfile import dumps
from bitshift.core.ops import OPS
from bitshift.core.reference import check_inputs

_engine: Any
try:
    from bitshift import _engine  # pyright: ignore[reportAttributeAccessIssue]
except ImportError as error:
    _engine = None
    _reason: str | None = (
        f"bitshift._engine cannot be imported ({error}): it was not built; "
        "install a C and C++ compiler, then reinstall bitshift"
    )
else:
    _reason = None

NAME = "engine"


def available() -> str | None:
    """None if the compiled module is there, else why not and what would help."""
    return _reason


def unsupported(graph: Graph) -> list[str]:
    """One line for each op that the engine lacks; none, unless the graph names an op that does not exist."""
    return sorted({f"unknown op {node.op!r}" for node in graph.nodes if node.op not in OPS})


class Executable:
    """A model in the engine's memory. Any number of threads may run it at once; a run holds no Python lock."""

    def __init__(self, graph: Graph, *, max_activation_bytes: int = MAX_ACTIVATION_BYTES) -> None:
        if _engine is None:
            raise GraphError(f"backend {NAME!r} is not available: {_reason}")
        try:
            self._model = _engine.Model(dumps(graph), memory_limit=max_activation_bytes, op_limit=MAX_OPERATIONS)
        except _engine.EngineUsageError as error:
            raise GraphError(f"{error} (max_activation_bytes raises the memory limit)") from None
        except _engine.EngineFileError as error:
            raise ModelFileError(str(error)) from None
        self.graph = graph

    @property
    def arena_bytes(self) -> int:
        """Bytes of activations and scratch memory that one running thread needs."""
        return self._model.arena_bytes

    def run_int(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, each (N, *shape) in the dtype of its type.

        C-contiguous inputs are read where they lie; others are copied first.

        Raises:
            ValueError: names the bad input.
        """
        checked = check_inputs(self.graph, inputs)
        arrays = [np.ascontiguousarray(checked[name]) for name in self._model.inputs]
        values = [self.graph.values[name] for name in self._model.outputs]
        outputs = [np.empty((arrays[0].shape[0], *value.shape), value.type.dtype) for value in values]
        self._model.run(arrays, outputs)
        return dict(zip(self._model.outputs, outputs, strict=True))


def compile(graph: Graph, *, max_activation_bytes: int = MAX_ACTIVATION_BYTES) -> Executable:
    """Check ``graph`` and its bounds and limits in the engine; GraphError or ModelFileError names what is refused."""
    return Executable(graph, max_activation_bytes=max_activation_bytes)
