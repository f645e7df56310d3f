"""The literal graph while it is being written: what each torch value became, and how rules add nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from bitshift.core.fixed import FixedPoint, Float32, ValueType
from bitshift.core.graph import Graph, Node, Value
from bitshift.core.ops.base import Range, get_op, type_range
from bitshift.lower.capture import Captured, describe, module_path
from bitshift.lower.errors import LoweringError

_IDS = (torch.int64, torch.int32)
"""Dtypes of inputs that are integers from the start: token ids."""


@dataclass(frozen=True)
class Deferred:
    """A pointwise result that the graph has no op for; it may still vanish into a 256-entry table."""

    reason: str


Item = str | Tensor | Deferred | tuple[Any, ...] | int | float | bool | None
"""What a torch value became: the name of a graph value, a constant tensor, several of them, or a number."""


class Call:
    """One aten or bitshift call with its arguments bound to the names of the op's schema."""

    def __init__(self, node: fx.Node, context: Context) -> None:
        self.node = node
        self.op = str(node.target)
        self.path = module_path(node)
        self._context = context
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        bound = {a.name: a.default_value for a in schema if a.has_default_value()}
        bound.update({a.name: value for a, value in zip(schema, node.args, strict=False)})
        bound.update(node.kwargs)
        self.raw: dict[str, Any] = bound

    def __getitem__(self, name: str) -> Any:
        """The argument called ``name``: an ``Item`` for a tensor, else the number, list or string itself."""
        found = self.raw[name]
        for part in found if isinstance(found, (list, tuple)) else (found,):
            if isinstance(part, fx.Node) and not isinstance(part.meta.get("val"), (Tensor, tuple, list)):
                raise self.error(f"{name} depends on the size of the batch; the graph runs one sample at a time")
        return self._context.resolve(found)

    def value(self, name: str) -> str:
        """The graph value that the tensor argument ``name`` became; LoweringError when it is a constant."""
        item = self[name]
        if isinstance(item, Deferred):
            raise LoweringError(item.reason)
        if not isinstance(item, str):
            raise self.error(f"{name} must depend on the model's input, but it is a constant")
        return item

    def array(self, name: str) -> np.ndarray | None:
        """The constant tensor argument ``name`` as numpy, or None when it is not given."""
        item = self[name]
        if item is None:
            return None
        if not isinstance(item, Tensor):
            raise self.error(f"{name} must be a constant of the model, but it depends on the input")
        item = item.detach().cpu()
        return (item.float() if item.dtype == torch.bfloat16 else item).numpy()  # numpy has no bfloat16

    @property
    def shape(self) -> tuple[int, ...]:
        """Per-sample shape of the (first) result."""
        return self._context.sample_shape(self.node)

    @property
    def dtype(self) -> torch.dtype:
        """Torch's dtype of the (first) result."""
        return dtype_of(self.node)

    @property
    def has_integers(self) -> bool:
        """Whether torch computes the result in an integer dtype that the graph has too."""
        return self.dtype in _IDS

    def error(self, message: str) -> LoweringError:
        """A LoweringError that starts with this call's place."""
        return LoweringError(f"{describe(self.node)}: {message}")

    def axis(self, dim: int, rank: int) -> int:
        """Per-sample axis of torch's ``dim`` in a tensor whose per-sample rank is ``rank``."""
        axis = dim if dim >= 0 else dim + rank + 1
        if axis == 0:
            raise self.error("works along the batch axis; the graph runs one sample at a time")
        return axis - 1


def file_name(text: str) -> str:
    """``text`` as a name for the model file: printable ASCII, a long one without its middle; a number still fits."""
    plain = "".join(c if " " <= c <= "~" else c.encode("ascii", "backslashreplace").decode() for c in text)
    return plain if len(plain) <= 180 else f"{plain[:50]}...{plain[-127:]}"


def _first(node: fx.Node) -> Tensor:
    value = node.meta.get("val")
    return value[0] if isinstance(value, (tuple, list)) else value  # type: ignore[return-value]


def dtype_of(node: fx.Node) -> torch.dtype:
    """Torch's dtype of the (first) result of ``node``."""
    return _first(node).dtype


class Context:
    """Values, nodes and constants of the graph so far. State: exactly those, plus what each fx node became."""

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.items: dict[fx.Node, Item] = dict(captured.tensors)
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        # Inputs that never meet have a name each for the size of the one batch.
        self.batch = tuple(dict.fromkeys(str(n.meta["val"].shape[0]) for n in captured.inputs))
        self._floats: dict[str, str] = {}
        self._ranges: dict[str, Range] = {}
        self._ranged = 0
        for node in captured.inputs:
            kind = FixedPoint(32, 0) if dtype_of(node) in _IDS else Float32()
            self.items[node] = self.add_value(node.name, self.sample_shape(node), kind)

    def resolve(self, argument: Any) -> Any:
        """``argument`` with every fx node replaced by what it became."""
        if isinstance(argument, fx.Node):
            return self.items[argument]
        if isinstance(argument, (list, tuple)):
            return [self.resolve(a) for a in argument]
        return argument

    def sample_shape(self, node: fx.Node, value: Tensor | None = None) -> tuple[int, ...]:
        """Shape of ``node``'s (first) result, or of its part ``value``, without the batch axis.

        Raises:
            LoweringError: the result mixes samples.
        """
        shape = tuple((_first(node) if value is None else value).shape)
        if not shape or str(shape[0]) not in self.batch or not all(type(n) is int for n in shape[1:]):
            raise LoweringError(
                f"{describe(node)}: the result has shape {[str(n) for n in shape]}, where {' or '.join(self.batch)} is "
                "the batch; "
                "its first axis must be the batch and the others constant: the graph runs one sample at a time"
            )
        return tuple(int(n) for n in shape[1:])

    def type(self, name: str) -> ValueType:
        """Type of graph value ``name``."""
        return self.values[name].type

    def fixed(self, name: str) -> FixedPoint | None:
        """Its fixed point type, or None for a float value."""
        kind = self.values[name].type
        return kind if isinstance(kind, FixedPoint) else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Per-sample shape of graph value ``name``."""
        return self.values[name].shape

    def range(self, name: str) -> Range:
        """Smallest and largest integer that graph value ``name`` can hold, by the ops before it; None for a float."""
        for node in self.nodes[self._ranged :]:
            names = (*node.inputs, node.output)
            constants = {c: self.constants[c] for c in node.consts.values()}
            alone = Graph(
                tuple(dict.fromkeys(node.inputs)), names[-1:], {n: self.values[n] for n in names}, (node,), constants
            )
            ranges = [self._ranges.get(n, type_range(self.values[n].type)) for n in node.inputs]
            if node.op == "embedding":  # which rows its ids can name is asked of the finished graph
                ranges = [(0, 0)]
            self._ranges[node.output] = get_op(node.op).bound(node, ranges, alone).range
        self._ranged = len(self.nodes)
        return self._ranges.get(name, type_range(self.values[name].type))

    def reach(self, name: str) -> int:
        """The largest magnitude in :meth:`range`; 0 for a float."""
        lo, hi = self.range(name) or (0, 0)
        return max(-lo, hi)

    def add_value(self, name: str, shape: Sequence[int], kind: ValueType) -> str:
        """Declare a value; a name that no file can hold is shortened, a taken one gets a number."""
        name = file_name(name)
        unique, n = name, 1
        while unique in self.values:
            n += 1
            unique = f"{name}_{n}"
        self.values[unique] = Value(unique, tuple(shape), kind)
        return unique

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        kind: ValueType,
        call: Call,
        *,
        shape: Sequence[int] | None = None,
        attrs: Mapping[str, Any] | None = None,
        consts: Mapping[str, np.ndarray] | None = None,
        suffix: str = "",
    ) -> str:
        """Append a node; returns the name of its output. ``shape`` defaults to that of the call's result."""
        output = self.add_value(call.node.name + suffix, call.shape if shape is None else shape, kind)
        place = call.path or call.node.name
        named = {role: self._constant(file_name(f"{place}.{role}"), a) for role, a in (consts or {}).items()}
        self.nodes.append(Node(op, tuple(inputs), output, attrs or {}, named, call.path))
        return output

    def _constant(self, name: str, array: np.ndarray) -> str:
        unique, n = name, 1
        while unique in self.constants:
            known = self.constants[unique]
            if known.dtype == array.dtype and known.shape == array.shape and np.array_equal(known, array):
                return unique
            n += 1
            unique = f"{name}.{n}"
        self.constants[unique] = array
        return unique

    def as_float(self, name: str, call: Call) -> str:
        """``name`` as an f32 value: itself, or behind a dequantize that is made once."""
        if self.fixed(name) is None:
            return name
        if name not in self._floats:
            self._floats[name] = self.emit(
                "dequantize", [name], Float32(), call, shape=self.shape(name), suffix="_float"
            )
        return self._floats[name]

    def graph(self) -> Graph:
        """The finished literal graph."""
        inputs = tuple(str(self.items[n]) for n in self.captured.inputs)
        outputs: list[str] = []
        for node in self.captured.outputs:
            item = self.items[node]
            if isinstance(item, Deferred):
                raise LoweringError(item.reason)
            if not isinstance(item, str):
                raise LoweringError(f"output {node.name!r} does not depend on the input; return tensors that do")
            if item in outputs or item in inputs:  # each output of a graph is the result of a node of its own
                copy = self.add_value(f"{item}_copy", self.shape(item), self.type(item))
                self.nodes.append(Node("reshape", (item,), copy, {"shape": self.shape(item)}))
                item = copy
            outputs.append(item)
        return Graph(inputs, tuple(outputs), self.values, tuple(self.nodes), self.constants)
