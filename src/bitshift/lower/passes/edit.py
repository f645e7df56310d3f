"""A graph opened for change: the one place where passes rewrite nodes, readers and constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bitshift.core.fixed import ValueType
from bitshift.core.graph import Graph, Node, Value
from bitshift.lower.context import file_name

MOVES = frozenset({"reshape", "transpose", "slice", "max_pool", "upsample"})
"""Ops that commute with every monotone function of single elements, without a constant of their own."""


class Edit:
    """A mutable copy of a graph. State: its nodes in order, values, constants and outputs."""

    def __init__(self, graph: Graph) -> None:
        self.inputs = graph.inputs
        self.outputs = list(graph.outputs)
        self.values = dict(graph.values)
        self.nodes = list(graph.nodes)
        self.constants = dict(graph.constants)
        self.meta = graph.meta

    def producer(self, name: str) -> Node | None:
        """The node that computes ``name``; None for a graph input."""
        return next((n for n in self.nodes if n.output == name), None)

    def users(self, name: str) -> list[Node]:
        """The nodes that read ``name``."""
        return [n for n in self.nodes if name in n.inputs]

    def single_use(self, name: str) -> bool:
        """Whether ``name`` is read exactly once, and not by the caller of the graph."""
        return name not in self.outputs and sum(n.inputs.count(name) for n in self.nodes) == 1

    def type(self, name: str) -> ValueType:
        """Type of value ``name``."""
        return self.values[name].type

    def const(self, node: Node, role: str, default: int, length: int) -> np.ndarray:
        """The constant of ``node`` for ``role`` as int64 of ``length`` elements; ``default`` where it has none."""
        if role not in node.consts:
            return np.full(length, default, np.int64)
        return np.broadcast_to(self.constants[node.consts[role]].astype(np.int64), (length,)).copy()

    def fresh(self, name: str, taken: Iterable[str]) -> str:
        """``name``, or with the first number that makes it new."""
        taken, unique, n = set(taken), name, 1
        while unique in taken:
            n += 1
            unique = f"{name}_{n}"
        return unique

    def new_value(self, name: str, shape: tuple[int, ...], kind: ValueType) -> str:
        """Declare a value under a free name like ``name``."""
        unique = self.fresh(name, self.values)
        self.values[unique] = Value(unique, shape, kind)
        return unique

    def set_type(self, name: str, kind: ValueType) -> None:
        """Give value ``name`` another type."""
        self.values[name] = replace(self.values[name], type=kind)

    def new_consts(self, node: Node, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
        """File ``arrays`` (role to array) under names made from the node's place; returns role to name."""
        named = {}
        for role, array in arrays.items():
            name = self.fresh(file_name(f"{node.source or node.output}.{role}"), self.constants)
            self.constants[name] = array
            named[role] = name
        return named

    def replace(self, old: Node, *new: Node) -> None:
        """Put ``new`` nodes at the place of ``old``."""
        at = next(i for i, n in enumerate(self.nodes) if n is old)
        self.nodes[at : at + 1] = new

    def remove(self, node: Node) -> None:
        """Take ``node`` out."""
        self.replace(node)

    def redirect(self, old: str, new: str) -> None:
        """Every reader of ``old``, and the outputs, read ``new`` instead."""
        self.nodes = [
            replace(n, inputs=tuple(new if i == old else i for i in n.inputs)) if old in n.inputs else n
            for n in self.nodes
        ]
        self.outputs = [new if o == old else o for o in self.outputs]

    def finish(self) -> Graph:
        """The changed graph without dead nodes, values and constants."""
        alive = set(self.outputs)
        nodes: list[Node] = []
        for node in reversed(self.nodes):
            if node.output in alive:
                nodes.append(node)
                alive.update(node.inputs)
        nodes.reverse()
        values = {n: v for n, v in self.values.items() if n in alive or n in self.inputs}
        used = {c for n in nodes for c in n.consts.values()}
        constants = {n: a for n, a in self.constants.items() if n in used}
        return Graph(self.inputs, tuple(self.outputs), values, tuple(nodes), constants, self.meta)


def without(attrs: Mapping[str, Any], *names: str, **new: Any) -> dict[str, Any]:
    """``attrs`` without ``names``, with ``new`` set; a ``new`` value of None is left out."""
    kept = {k: v for k, v in attrs.items() if k not in names}
    return kept | {k: v for k, v in new.items() if v is not None}
