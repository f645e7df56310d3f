"""What an op is: a shape and type rule, a reference, a bound and a cost."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from bitshift.core.fixed import FixedPoint, Float32, ValueType
from bitshift.core.graph import Graph, GraphError, Node, Value

Range = tuple[int, int] | None
"""Smallest and largest integer a value can hold; None for f32."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What an integer node can compute, from its constants and the ranges of its inputs.

    ``range`` is the output's range. ``raw`` is the range before saturation and clamp. ``acc`` is the largest magnitude
    that any partial sum of the accumulator can have, in any order of summation, and ``channel`` where. ``total`` is the
    same for the evaluation of rule 4, ``acc * mult + offset + (residual << res_shift)``.
    """

    range: Range
    raw: Range = None
    acc: int = 0
    channel: int = 0
    total: int = 0

    @property
    def fits32(self) -> bool:
        """Whether rule 4 may be evaluated in 32 bits."""
        return max(self.acc, self.total) < 1 << 31


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Operations of one node for one sample, and its memory.

    A product with a sum of t powers of two counts t shifts and t additions, whatever the weight (zeros too); a ``mult``
    that is a power of two other than 1 counts as a shift. ``narrow_*`` are the part of the operations with operands of
    at most 16 (shifts) and 8 (multiplications) bits. ``float_shifts`` are products of a float and a power of two, an
    addition to the exponent. Borders (quantize, dequantize) count as float operations.

    ``products`` and ``requantisations`` name operators that the counts above already hold: multiply-accumulates, of
    whatever they are made, and values brought to a grid with rounding or saturation.
    """

    shifts: int = 0
    adds: int = 0
    multiplications: int = 0
    comparisons: int = 0
    lookups: int = 0
    float_shifts: int = 0
    float_adds: int = 0
    float_multiplications: int = 0
    float_functions: int = 0
    narrow_shifts: int = 0
    narrow_multiplications: int = 0
    products: int = 0
    requantisations: int = 0
    weight_bits: int = 0
    constant_bytes: int = 0
    activation_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def operations(self) -> int:
        """All operations, for resource limits."""
        return (
            self.shifts + self.adds + self.multiplications + self.comparisons + self.lookups
            + self.float_shifts + self.float_adds + self.float_multiplications + self.float_functions
        )  # fmt: skip


class Op(ABC):
    """One operation; a stateless object, one class a file, filed by :func:`register` under ``name``."""

    name: ClassVar[str]
    since: ClassVar[int] = 1
    """Version of the model file that brought the op."""

    @abstractmethod
    def check(self, node: Node, graph: Graph) -> None:
        """Refuse (GraphError) wrong inputs, attributes, constants, types and shapes of ``node``.

        A node that passes can be executed without reading or writing outside of its arrays.
        """

    @abstractmethod
    def reference(self, node: Node, inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
        """The output (N, *shape) for ``inputs`` (N, *shape) in the dtypes of their types; exact in integers."""

    @abstractmethod
    def bound(self, node: Node, ranges: Sequence[Range], graph: Graph) -> Bound:
        """What the node can compute when its inputs lie in ``ranges``."""

    @abstractmethod
    def cost(self, node: Node, graph: Graph) -> Cost:
        """Operations and memory for one sample."""


OPS: dict[str, Op] = {}


def register(cls: type[Op]) -> type[Op]:
    """Class decorator: files an op under its name."""
    if cls.name in OPS:
        raise ValueError(f"op {cls.name!r} is registered twice")
    OPS[cls.name] = cls()
    return cls


def get_op(name: str) -> Op:
    """The op called ``name``; ValueError lists the near misses and what exists."""
    if name not in OPS:
        near = difflib.get_close_matches(name, OPS, n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"unknown op {name[:80]!r}{hint} Known ops: {', '.join(sorted(OPS))}")
    return OPS[name]


def source(node: Node, graph: Graph, index: int = 0) -> Value:
    """The value that ``node`` reads as input ``index``."""
    return graph.values[node.inputs[index]]


def result(node: Node, graph: Graph) -> Value:
    """The value that ``node`` writes."""
    return graph.values[node.output]


def is_float(node: Node, graph: Graph) -> bool:
    """Whether the node's first input is f32, which makes it a float node."""
    return isinstance(source(node, graph).type, Float32)


def fixed(value: Value) -> FixedPoint:
    """The fixed-point type of ``value``; GraphError if it is f32."""
    if not isinstance(value.type, FixedPoint):
        raise GraphError(f"value {value.name!r} is {value.type}, fixed point is needed")
    return value.type


def type_range(type: ValueType) -> Range:
    """The full range of a type."""
    return (type.lo, type.hi) if isinstance(type, FixedPoint) else None
