"""The immutable integer graph that every backend executes.

Shapes are per sample: every value carries an implicit leading batch axis that no op touches. Passes are
functions ``Graph -> Graph``. See ARCHITECTURE.md, "The graph", for the meaning of each op.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from bitshift.core.fixed import ValueType

T = TypeVar("T")


class GraphError(ValueError):
    """A graph, node or value that breaks a rule; the message names the node."""


@dataclass(frozen=True)
class Value:
    """A tensor that flows through the graph: ``shape`` is per sample, without the batch axis."""

    name: str
    shape: tuple[int, ...]
    type: ValueType

    @property
    def size(self) -> int:
        """Elements per sample."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def size_bytes(self) -> int:
        """Bytes per sample."""
        return self.size * self.type.dtype.itemsize


def _frozen(attr: Any) -> Any:
    """An attribute as plain Python: tuples for lists, int and float for numpy scalars."""
    if isinstance(attr, list | tuple):
        return tuple(_frozen(x) for x in attr)
    return attr.item() if isinstance(attr, np.generic) else attr


@dataclass(frozen=True)
class Node:
    """One op: ``inputs`` and ``output`` name values, ``consts`` maps a role (``codes``, ``offset``) to a constant."""

    op: str
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    consts: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    """Module path in the user's model, for messages."""

    def __post_init__(self) -> None:
        attrs = {key: _frozen(value) for key, value in self.attrs.items()}
        object.__setattr__(self, "attrs", MappingProxyType(attrs))
        object.__setattr__(self, "consts", MappingProxyType(dict(self.consts)))

    def __str__(self) -> str:
        where = f" (module {self.source!r})" if self.source else ""
        return f"node {self.output!r} [{self.op}]{where}"


@dataclass(frozen=True)
class Graph:
    """Values, nodes in execution order, and read-only constants; ``meta`` holds labels and input preprocessing."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, Value]
    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        constants = {}
        for name, array in self.constants.items():
            frozen = np.ascontiguousarray(array) if array.ndim else np.array(array)
            if frozen.flags.writeable:
                frozen = frozen.copy()
                frozen.setflags(write=False)
            constants[name] = frozen
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))
        object.__setattr__(self, "constants", MappingProxyType(constants))
        object.__setattr__(self, "meta", MappingProxyType(dict(self.meta)))
        self._check_structure()

    def _check_structure(self) -> None:
        """Every name is defined once and before its use; ops check their own shapes and types in ``core.check``."""
        known = set(self.inputs)
        if len(known) != len(self.inputs):
            raise GraphError("an input is listed twice")
        for name, value in self.values.items():
            if name != value.name:
                raise GraphError(f"value {name!r} is filed under another name than its own, {value.name!r}")
        for node in self.nodes:
            for name in node.inputs:
                if name not in known:
                    raise GraphError(f"{node}: input {name!r} is not computed before it")
            if node.output in known:
                raise GraphError(f"{node}: value {node.output!r} is written twice")
            for role, name in node.consts.items():
                if name not in self.constants:
                    raise GraphError(f"{node}: constant {name!r} ({role}) is missing")
            known.add(node.output)
        for name in (*known, *self.outputs, *self.values):
            if name not in self.values or name not in known:
                raise GraphError(f"value {name!r} has no description or is never computed")
        if not self.inputs or not self.outputs:
            raise GraphError("a graph needs at least one input and one output")
        if len(set(self.outputs)) != len(self.outputs):
            raise GraphError("an output is listed twice")

    def const(self, node: Node, role: str) -> np.ndarray:
        """The constant of ``node`` for ``role``; GraphError if the node has none."""
        if role not in node.consts:
            raise GraphError(f"{node}: needs the constant {role!r}")
        return self.constants[node.consts[role]]

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """``compute()`` of the constants alone, done once a ``key``: a file may let many nodes read one of them."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    @cached_property
    def _known(self) -> dict[Hashable, Any]:
        return {}

    def users(self, name: str) -> tuple[Node, ...]:
        """The nodes that read value ``name``."""
        return tuple(n for n in self.nodes if name in n.inputs)

    def pretty(self) -> str:
        """A line a node: output, shape, type, op, inputs, attributes, module."""
        lines = [f"input  {v.name}: {list(v.shape)} {v.type}" for v in map(self.values.__getitem__, self.inputs)]
        for n in self.nodes:
            v = self.values[n.output]
            attrs = " ".join(f"{k}={val}" for k, val in n.attrs.items())
            source = f"  # {n.source}" if n.source else ""
            lines.append(
                f"{v.name}: {list(v.shape)} {v.type} = {n.op}({', '.join(n.inputs)}) {attrs}".rstrip() + source
            )
        return "\n".join([*lines, f"output {', '.join(self.outputs)}"])
