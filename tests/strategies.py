"""Random graphs for property tests: one op at a time, and whole networks of every op, at extremes and exact ties.

Use ``node_cases("conv")`` and ``graph_cases()`` with hypothesis, or ``random_case(seed)`` without it. Everything drawn
passes ``core.check`` and ``core.bounds``; the bulk of the numbers comes from a numpy generator with a drawn seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from hypothesis import strategies as st

from bitshift.core.bounds import check_bounds, input_ranges
from bitshift.core.check import check
from bitshift.core.fixed import FixedPoint, Float32, ValueType
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, Node, Value
from bitshift.core.ops import OPS
from bitshift.core.ops.base import Range, get_op, type_range
from bitshift.core.ops.unary import FUNCTIONS, WITH_ALPHA
from bitshift.core.windows import output_length

T = TypeVar("T")
F32 = Float32()
INDEX = FixedPoint(32, 0)
LARGEST = 400
"""Elements of the largest value, so that naive loops stay fast."""


class Pick(Protocol):
    """A source of small choices: hypothesis (which shrinks them) or a seeded generator."""

    rng: np.random.Generator

    def int(self, lo: int, hi: int) -> int:
        """An integer from ``lo`` to ``hi``."""
        ...

    def one(self, items: Sequence[T]) -> T:
        """One of ``items``."""
        ...


class Drawn:
    """Choices drawn by hypothesis."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def int(self, lo: int, hi: int) -> int:
        return self._draw(st.integers(lo, hi))

    def one(self, items: Sequence[T]) -> T:
        return items[self._draw(st.integers(0, len(items) - 1))]


class Seeded:
    """Choices that follow from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def int(self, lo: int, hi: int) -> int:
        return int(self.rng.integers(lo, hi, endpoint=True))

    def one(self, items: Sequence[T]) -> T:
        return items[self.int(0, len(items) - 1)]


@dataclass(frozen=True)
class Case:
    """A graph and inputs for it, (N, *shape) by name; N may be 0."""

    graph: Graph
    inputs: dict[str, np.ndarray]

    def __repr__(self) -> str:
        batch = {name: (a.dtype.name, a.shape) for name, a in self.inputs.items()}
        return f"Case({batch}\n{self.graph.pretty()}\n)"


@dataclass
class Builder:
    """A graph under construction; names values and constants, and follows the ranges of its integers."""

    values: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    ranges: dict[str, Range] = field(default_factory=dict)

    def input(self, shape: Sequence[int], type: ValueType) -> str:
        """A new graph input."""
        name = self._value(shape, type)
        self.inputs.append(name)
        self.ranges[name] = type_range(type)
        return name

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        shape: Sequence[int],
        type: ValueType,
        attrs: Mapping[str, Any] | None = None,
        consts: Mapping[str, np.ndarray] | None = None,
        source: str = "",
    ) -> str:
        """Append a node; a 32-bit output that the bounds would refuse becomes one of 31 bits, which saturates."""
        name = self._value(shape, type)
        names = {}
        for role, array in (consts or {}).items():
            names[role] = f"{name}.{role}"
            self.constants[names[role]] = array
        node = Node(op, tuple(inputs), name, attrs or {}, names, source)
        bound = get_op(op).bound(node, [self.ranges[n] for n in inputs], self._partial())
        if type == FixedPoint(32, getattr(type, "frac", 0)) and not _fits(bound.raw, type):
            narrow = FixedPoint(31, type.frac)
            self.values[name] = Value(name, tuple(shape), narrow)
            if "clamp" in node.attrs:
                clamp = [min(max(v, narrow.lo), narrow.hi) for v in node.attrs["clamp"]]
                node = Node(op, tuple(inputs), name, {**node.attrs, "clamp": clamp}, names, source)
            bound = get_op(op).bound(node, [self.ranges[n] for n in inputs], self._partial())
        self.ranges[name] = bound.range
        self.nodes.append(node)
        return name

    def graph(self, outputs: Sequence[str], meta: Mapping[str, Any] | None = None) -> Graph:
        """The checked graph."""
        graph = Graph(
            tuple(self.inputs), tuple(outputs), self.values, tuple(self.nodes), self.constants, dict(meta or {})
        )
        check(graph)
        check_bounds(graph)
        return graph

    def _value(self, shape: Sequence[int], type: ValueType) -> str:
        name = f"v{len(self.values)}"
        self.values[name] = Value(name, tuple(shape), type)
        return name

    def _partial(self) -> Graph:
        """What an op's bound looks at: values and constants, without the check of a whole graph."""
        view = object.__new__(Graph)
        object.__setattr__(view, "values", self.values)
        object.__setattr__(view, "constants", self.constants)
        return view


def _fits(raw: Range, type: FixedPoint) -> bool:
    return raw is None or type.lo <= raw[0] <= raw[1] <= type.hi


def small_type(pick: Pick, most: int = 8) -> FixedPoint:
    """A fixed-point type of at most ``most`` bits, signed or not."""
    signed = bool(pick.int(0, 1))
    return FixedPoint(pick.int(2 if signed else 1, most), pick.int(-2, 9), signed)


def any_type(pick: Pick) -> FixedPoint:
    """Any width, the storage limits more often."""
    signed = bool(pick.int(0, 1))
    bits = pick.one([2, 3, 4, 7, 8, 8, 9, 15, 16, 17, 24, 31, 32] if signed else [1, 2, 4, 7, 8, 8, 9, 15, 16, 31])
    return FixedPoint(bits, pick.int(-3, 12), signed)


def numbers(pick: Pick, type: ValueType, shape: Sequence[int]) -> np.ndarray:
    """Values of ``type``: anything, or only the extremes and their neighbours, or small numbers (where ties are)."""
    rng, shape = pick.rng, tuple(shape)
    mode = pick.int(0, 3)
    if isinstance(type, Float32):
        if mode == 0:
            return rng.choice(np.array([0.0, -0.0, 0.5, -0.5, 1.5, 1.0, -1.0, 3.0, 100.0], np.float32), shape)
        return (rng.standard_normal(shape) * rng.choice([0.1, 1.0, 8.0])).astype(np.float32)
    if mode == 0:
        return rng.choice(
            np.array([type.lo, type.lo + 1, 0, type.hi - 1, type.hi]).clip(type.lo, type.hi), shape
        ).astype(type.dtype)
    lo, hi = (max(type.lo, -4), min(type.hi, 4)) if mode == 1 else (type.lo, type.hi)
    return rng.integers(lo, hi, shape, endpoint=True).astype(type.dtype)


def _kind(b: Builder, x: str) -> bool:
    """Whether ``x`` is f32."""
    return isinstance(b.values[x].type, Float32)


def _maybe(pick: Pick, consts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each of the constants or not: what is absent has its default."""
    return {role: array for role, array in consts.items() if pick.int(0, 3)}


def _clamp(pick: Pick, type: FixedPoint) -> dict[str, Any]:
    if pick.int(0, 2):
        return {}
    lo, hi = sorted(int(v) for v in pick.rng.integers(type.lo, type.hi, 2, endpoint=True))
    return {"clamp": pick.one([[0, type.hi], [lo, hi], [lo, type.hi], [hi, hi]])}


def _codes(pick: Pick, name: str, shape: Sequence[int]) -> np.ndarray:
    form = FORMATS[name]
    allowed = [c for c in range(len(form.levels)) if c not in form.reserved]
    if pick.int(0, 4) == 0:  # one level everywhere, often the largest: the accumulator's extreme
        return np.full(shape, int(form.encode(np.array(pick.one([form.max_level, -form.max_level])))), np.uint8)
    return pick.rng.choice(np.array(allowed, dtype=np.uint8), tuple(shape))


def _fitting_format(pick: Pick, terms: int, range_: Range) -> str | None:
    """A format whose accumulator fits int32 for ``terms`` products with values in ``range_``."""
    assert range_ is not None
    largest = max(abs(range_[0]), abs(range_[1]))
    fits = [f.name for f in FORMATS.values() if not f.float_only and f.max_level * terms * largest < 1 << 31]
    return pick.one(fits) if fits else None


def _rule4(pick: Pick, count: int, residual: bool) -> dict[str, np.ndarray]:
    """mult, offset, shift and res_shift for ``count`` channels: ties (small shifts), powers of two, large numbers."""
    rng = pick.rng
    shift = rng.integers(0, pick.one([2, 8, 20, 40]), count).astype(np.uint8)
    mult = pick.one(
        [rng.integers(1, 65535, count, endpoint=True), 1 << rng.integers(0, 16, count), np.full(count, 65535)]
    ).astype(np.int32)
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift.astype(np.int64) - 1, 0), 0)
    large = rng.integers(-(1 << 40), 1 << 40, count)
    offset = pick.one([half, half + rng.integers(-300, 300, count), large]).astype(np.int64)
    consts = {"mult": mult, "offset": offset, "shift": shift}
    if residual:
        consts["res_shift"] = rng.integers(0, pick.one([2, 24]), count).astype(np.uint8)
    return _maybe(pick, consts)


def _float_consts(pick: Pick, count: int) -> dict[str, np.ndarray]:
    scale = (pick.rng.random(count) + 0.1).astype(np.float32)
    return _maybe(pick, {"scale": scale, "bias": pick.rng.standard_normal(count).astype(np.float32)})


def _source(pick: Pick) -> str:
    return pick.one(["", "stage1.0.conv1", "fc"])


def _windows(
    pick: Pick, sizes: Sequence[int], *, dilated: bool, full: bool
) -> tuple[list[int], dict[str, Any], list[int]] | None:
    """Kernel, attributes and output lengths for spatial ``sizes``; ``full``: no window of padding only."""
    kernel, lengths = [], []
    attrs: dict[str, list[Any]] = {"stride": [], "padding": [], "dilation": []}
    for size in sizes:
        k, d = pick.int(1, 4), pick.int(1, 2) if dilated else 1
        room = (k - 1) * d
        most = (1 if d == 1 else 0) if full else 3
        before, after = (min(pick.int(0, most), k // 2 if full else 3) for _ in range(2))
        if size + before + after < room + 1 or (full and size <= room):
            k, room, before, after = 1, 0, 0, 0
        stride = pick.int(1, 5)  # larger than the kernel, too
        length = output_length(size, k, stride, (before, after), d)
        kernel.append(k)
        lengths.append(length)
        attrs["stride"].append(stride)
        attrs["padding"].append([before, after])
        attrs["dilation"].append(d)
    if not dilated:
        del attrs["dilation"]
    return kernel, attrs, lengths


def grow_conv(pick: Pick, b: Builder, x: str) -> str | None:
    """A convolution: grouped, depthwise or plain, with or without a residual."""
    shape = b.values[x].shape
    if len(shape) not in (2, 3, 4):
        return None
    channels = shape[0]
    groups = pick.one([g for g in range(1, channels + 1) if channels % g == 0])
    out = groups * pick.int(1, max(1, 6 // groups))
    found = _windows(pick, shape[1:], dilated=True, full=False)
    assert found is not None
    kernel, attrs, lengths = found
    outs, weight = (out, *lengths), (out, channels // groups, *kernel)
    if math.prod(outs) > LARGEST:
        return None
    return _weighted(pick, b, "conv", x, outs, weight, {**attrs, "groups": groups})


def grow_conv_transpose(pick: Pick, b: Builder, x: str) -> str | None:
    """A transposed convolution: grouped or plain, with overlaps, gaps and crops, with or without a residual."""
    shape = b.values[x].shape
    if len(shape) not in (2, 3, 4):
        return None
    channels = shape[0]
    groups = pick.one([g for g in range(1, channels + 1) if channels % g == 0])
    out = groups * pick.int(1, max(1, 4 // groups))
    kernel, lengths = [], []
    attrs: dict[str, list[Any]] = {"stride": [], "padding": [], "output_padding": [], "dilation": []}
    for n in shape[1:]:
        k, s, d = pick.int(1, 4), pick.int(1, 4), pick.one([1, 1, 2, 3])
        extra = pick.int(0, max(s, d) - 1)
        full = (n - 1) * s + (k - 1) * d + 1 + extra
        before = pick.int(0, min(4, full - 1))
        after = pick.int(0, min(4, full - 1 - before))
        kernel.append(k)
        lengths.append(full - before - after)
        for name, value in zip(attrs, (s, [before, after], extra, d), strict=True):
            attrs[name].append(value)
    if math.prod(lengths) * out > 2 * LARGEST:
        return None
    outs, weight = (out, *lengths), (out, channels // groups, *kernel)
    return _weighted(pick, b, "conv_transpose", x, outs, weight, {**attrs, "groups": groups})


def grow_embedding(pick: Pick, b: Builder, x: str, *, floats: bool = False) -> str | None:
    """Rows of a table, as ``floats`` or integers; ``x`` are integers that cannot name a row that is not there."""
    value = b.values[x]
    if not isinstance(value.type, FixedPoint) or value.type.frac != 0 or len(value.shape) > 5:
        return None
    rows, width = pick.int(1, 40), pick.int(1, 6)
    range_ = b.ranges[x]
    assert range_ is not None
    if x in b.inputs and value.type.hi > 0:
        b.ranges[x] = (max(range_[0], 0), min(range_[1], rows - 1))
    elif range_[0] < 0 or range_[1] > 60:
        return None
    else:
        rows = range_[1] + 1
    if value.size * width > LARGEST:
        return None
    shape = (*value.shape, width)
    if floats and pick.int(0, 1):
        return b.node(
            "embedding", [x], shape, F32, {}, {"weight": pick.rng.standard_normal((rows, width)).astype(np.float32)}
        )
    if floats:
        name = pick.one([f.name for f in FORMATS.values()])
        consts = {"codes": _codes(pick, name, (rows, width)), **_float_consts(pick, rows)}
        return b.node("embedding", [x], shape, F32, {"format": name}, consts, _source(pick))
    name = pick.one([f.name for f in FORMATS.values() if not f.float_only])
    type = pick.one([small_type(pick), any_type(pick), FixedPoint(32, pick.int(0, 20))])
    consts = {"codes": _codes(pick, name, (rows, width)), **_rule4(pick, rows, residual=False)}
    return b.node("embedding", [x], shape, type, {"format": name, **_clamp(pick, type)}, consts, _source(pick))


def grow_linear(pick: Pick, b: Builder, x: str) -> str | None:
    """A matrix product along the last axis."""
    shape = b.values[x].shape
    if not shape:
        return None
    out = pick.int(1, 6)
    if math.prod(shape[:-1]) * out > LARGEST:
        return None
    return _weighted(pick, b, "linear", x, (*shape[:-1], out), (out, shape[-1]), {})


def _weighted(
    pick: Pick, b: Builder, op: str, x: str, shape: Sequence[int], weight: Sequence[int], attrs: dict[str, Any]
) -> str | None:
    count = weight[0]
    if _kind(b, x):
        if pick.int(0, 1):
            consts = {"weight": pick.rng.standard_normal(weight).astype(np.float32)}
            bias = _maybe(pick, {"bias": pick.rng.standard_normal(count).astype(np.float32)})
            return b.node(op, [x], shape, F32, attrs, consts | bias, _source(pick))
        name = pick.one([f.name for f in FORMATS.values()])
        consts = {"codes": _codes(pick, name, weight), **_float_consts(pick, count)}
        return b.node(op, [x], shape, F32, {**attrs, "format": name}, consts, _source(pick))
    name = _fitting_format(pick, math.prod(weight[1:]), b.ranges[x])
    if name is None:
        return None
    inputs = [x]
    if pick.int(0, 2) == 0:
        inputs.append(_partner(pick, b, shape, is_float=False))
    type = pick.one([small_type(pick), any_type(pick), FixedPoint(32, pick.int(0, 20))])
    consts = {"codes": _codes(pick, name, weight), **_rule4(pick, count, len(inputs) == 2)}
    return b.node(op, inputs, shape, type, {**attrs, "format": name, **_clamp(pick, type)}, consts, _source(pick))


def _partner(pick: Pick, b: Builder, shape: Sequence[int], *, is_float: bool) -> str:
    """A value of ``shape``: an existing one, or a new graph input."""
    same = [n for n, v in b.values.items() if v.shape == tuple(shape) and _kind(b, n) == is_float and n in b.ranges]
    if same and pick.int(0, 1):
        return pick.one(same)
    return b.input(shape, F32 if is_float else any_type(pick))


def grow_add(pick: Pick, b: Builder, x: str) -> str | None:
    """A sum with another value, or with itself."""
    value = b.values[x]
    other = _partner(pick, b, value.shape, is_float=_kind(b, x))
    inputs = [x, other] if pick.int(0, 1) else [other, x]
    if _kind(b, x):
        return b.node("add", inputs, value.shape, F32)
    type = any_type(pick)
    return b.node("add", inputs, value.shape, type, _clamp(pick, type))


def grow_requantize(pick: Pick, b: Builder, x: str) -> str | None:
    """Another fixed-point type."""
    if _kind(b, x):
        return None
    type = any_type(pick)
    return b.node("requantize", [x], b.values[x].shape, type, _clamp(pick, type))


def grow_rescale(pick: Pick, b: Builder, x: str) -> str | None:
    """A norm of integers."""
    shape = b.values[x].shape
    if _kind(b, x):
        return None
    count = pick.one([1, *shape[:1]])
    type = any_type(pick)
    return b.node("rescale", [x], shape, type, _clamp(pick, type), _rule4(pick, count, False))


def grow_affine(pick: Pick, b: Builder, x: str) -> str | None:
    """A norm of floats."""
    shape = b.values[x].shape
    if not _kind(b, x):
        return None
    return b.node("affine", [x], shape, F32, {}, _float_consts(pick, pick.one([1, *shape[:1]])))


def grow_concat(pick: Pick, b: Builder, x: str) -> str | None:
    """One to three values along one axis."""
    shape = b.values[x].shape
    if not shape:
        return None
    axis, is_float = pick.int(0, len(shape) - 1), _kind(b, x)
    names = [x]
    for _ in range(pick.int(0, 2)):
        other = [*shape]
        other[axis] = pick.int(1, 3)
        names.insert(pick.int(0, len(names)), _partner(pick, b, other, is_float=is_float))
    joined = [*shape]
    joined[axis] = sum(b.values[n].shape[axis] for n in names)
    if math.prod(joined) > LARGEST:
        return None
    return b.node("concat", names, joined, F32 if is_float else any_type(pick), {"axis": axis})


def grow_pad(pick: Pick, b: Builder, x: str) -> str | None:
    """A constant around a value, asymmetric."""
    value = b.values[x]
    padding = [[pick.int(0, 2), pick.int(0, 2)] if len(value.shape) <= 3 else [0, 1] for _ in value.shape]
    shape = [n + p + q for n, (p, q) in zip(value.shape, padding, strict=True)]
    if math.prod(shape) > LARGEST:
        return None
    fill = numbers(pick, value.type, (1,))[0].item()
    return b.node("pad", [x], shape, value.type, {"padding": padding, "value": fill})


def grow_slice(pick: Pick, b: Builder, x: str) -> str | None:
    """A strided crop."""
    value = b.values[x]
    start = [pick.int(0, n - 1) for n in value.shape]
    stop = [pick.int(s + 1, n) for s, n in zip(start, value.shape, strict=True)]
    step = [pick.int(1, 3) for _ in value.shape]
    shape = [len(range(*bounds)) for bounds in zip(start, stop, step, strict=True)]
    return b.node("slice", [x], shape, value.type, {"start": start, "stop": stop, "step": step})


def grow_max_pool(pick: Pick, b: Builder, x: str) -> str | None:
    """The largest of each window."""
    value = b.values[x]
    if len(value.shape) not in (2, 3, 4):
        return None
    found = _windows(pick, value.shape[1:], dilated=True, full=True)
    assert found is not None
    kernel, attrs, lengths = found
    if math.prod(lengths) * value.shape[0] > LARGEST:
        return None
    return b.node("max_pool", [x], (value.shape[0], *lengths), value.type, {**attrs, "kernel": kernel})


def grow_avg_pool(pick: Pick, b: Builder, x: str) -> str | None:
    """The sum of each window, or of everything (a global pool)."""
    value = b.values[x]
    if len(value.shape) not in (2, 3, 4):
        return None
    found = _windows(pick, value.shape[1:], dilated=False, full=False)
    assert found is not None
    kernel, attrs, lengths = found
    if pick.int(0, 3) == 0:
        kernel, lengths = [*value.shape[1:]], [1] * len(kernel)
        attrs = {"stride": [1] * len(kernel), "padding": [[0, 0]] * len(kernel)}
    shape = (value.shape[0], *lengths)
    if math.prod(shape) > LARGEST:
        return None
    if _kind(b, x):
        scale = float(np.float32(1 / math.prod(kernel)))
        return b.node("avg_pool", [x], shape, F32, {**attrs, "kernel": kernel, "scale": scale})
    range_ = b.ranges[x]
    assert range_ is not None
    if max(abs(range_[0]), abs(range_[1])) * math.prod(kernel) >= 1 << 31:
        return None
    shift = pick.int(0, 20)
    type = any_type(pick)
    numbers_ = {
        "mult": pick.one([1, 2, 64, 65535, pick.int(1, 65535)]),
        "offset": pick.one([0, (1 << shift) >> 1, pick.int(-(1 << 40), 1 << 40)]),
        "shift": shift,
    }
    return b.node("avg_pool", [x], shape, type, {**attrs, **numbers_, "kernel": kernel, **_clamp(pick, type)})


def grow_clamp(pick: Pick, b: Builder, x: str) -> str | None:
    """relu, relu6 and other limits."""
    value = b.values[x]
    lo, hi = sorted(numbers(pick, value.type, (2,)).tolist())
    limits = pick.one([(lo, hi), (None, hi), (lo, None), (0, None), (None, None)])
    return b.node("clamp", [x], value.shape, value.type, {"lo": limits[0], "hi": limits[1]})


def grow_table(pick: Pick, b: Builder, x: str) -> str | None:
    """Any function of at most 8 bits."""
    value = b.values[x]
    if not isinstance(value.type, FixedPoint) or value.type.bits > 8:
        return None
    type = any_type(pick)
    table = numbers(pick, type, (1 << value.type.bits,))
    return b.node("table", [x], value.shape, type, {}, {"table": table})


def grow_unary(pick: Pick, b: Builder, x: str) -> str | None:
    """A non-linear function of floats."""
    if not _kind(b, x):
        return None
    fn = pick.one(sorted(FUNCTIONS))
    alpha = {"alpha": pick.one([0.01, 1.0, 0.5])} if fn in WITH_ALPHA else {}
    return b.node("unary", [x], b.values[x].shape, F32, {"fn": fn, **alpha})


def grow_reshape(pick: Pick, b: Builder, x: str) -> str | None:
    """Flatten, an extra axis, or a split of the last axis."""
    value = b.values[x]
    shapes = [(value.size,), (*value.shape, 1), (1, *value.shape)]
    if value.size % 2 == 0:
        shapes.append((2, value.size // 2))
    if value.size == 1:
        shapes.append(())
    shape = pick.one([s for s in shapes if len(s) <= 6])
    return b.node("reshape", [x], shape, value.type, {"shape": list(shape)})


def grow_upsample(pick: Pick, b: Builder, x: str) -> str | None:
    """Every element several times."""
    value = b.values[x]
    if len(value.shape) not in (2, 3, 4):
        return None
    factor = [pick.int(1, 3) for _ in value.shape[1:]]
    if value.size * math.prod(factor) > 2 * LARGEST:
        return None
    shape = (value.shape[0], *(n * f for n, f in zip(value.shape[1:], factor, strict=True)))
    return b.node("upsample", [x], shape, value.type, {"factor": factor})


def grow_transpose(pick: Pick, b: Builder, x: str) -> str | None:
    """Axes in a random order."""
    value = b.values[x]
    perm = [int(i) for i in pick.rng.permutation(len(value.shape))]
    return b.node("transpose", [x], [value.shape[i] for i in perm], value.type, {"perm": perm})


def grow_quantize(pick: Pick, b: Builder, x: str) -> str | None:
    """Floats to integers."""
    if not _kind(b, x):
        return None
    return b.node("quantize", [x], b.values[x].shape, any_type(pick), {"rounding": pick.one(["half_up", "floor"])})


def grow_dequantize(pick: Pick, b: Builder, x: str) -> str | None:
    """Integers to floats."""
    return None if _kind(b, x) else b.node("dequantize", [x], b.values[x].shape, F32)


def grow_argmax(pick: Pick, b: Builder, x: str) -> str | None:
    """The index of the largest."""
    shape = b.values[x].shape
    return b.node("argmax", [x], shape[:-1], INDEX) if shape else None


GROWERS: dict[str, Callable[[Pick, Builder, str], str | None]] = {
    name.removeprefix("grow_"): function for name, function in list(globals().items()) if name.startswith("grow_")
}
assert set(GROWERS) == set(OPS), "every op needs a grower here"

FLOAT_ONLY = frozenset({"affine", "unary", "quantize"})
INT_ONLY = frozenset({"requantize", "rescale", "table", "dequantize"})
INEXACT = frozenset({"affine", "unary"})
"""Float ops whose result may differ between machines in the last bits; conv, linear, add and avg_pool of floats too."""


def _first_value(pick: Pick, b: Builder, op: str, *, floats: bool) -> str:
    spatial = op in ("conv", "conv_transpose", "max_pool", "avg_pool", "upsample")
    rank = pick.one([2, 3, 3, 4]) if spatial else pick.int(op in ("linear", "concat", "argmax"), 4)
    most = 6 if rank < 4 or not spatial else 4
    shape = tuple(pick.int(1, most if i else 4) for i in range(rank))
    if op == "embedding":
        signed = bool(pick.int(0, 1))
        return b.input(shape, FixedPoint(pick.one([2, 4, 8, 16, 31]) + signed, 0, signed))
    if floats:
        return b.input(shape, F32)
    narrow = op in ("conv", "conv_transpose", "linear", "table", "avg_pool")
    return b.input(shape, small_type(pick) if narrow else any_type(pick))


def _inputs(pick: Pick, graph: Graph) -> dict[str, np.ndarray]:
    batch = pick.int(0, 3)
    inputs = {n: numbers(pick, graph.values[n].type, (batch, *graph.values[n].shape)) for n in graph.inputs}
    for name, allowed in input_ranges(graph).items():
        if allowed is not None:  # ids of an embedding: an end of the table stands for what lies beyond it
            inputs[name] = np.clip(inputs[name], *allowed).astype(inputs[name].dtype)
    return inputs


def one_op(pick: Pick, op: str, *, floats: bool = False) -> Case:
    """A graph of one node ``op``; ``floats`` asks for its f32 form."""
    while True:
        b = Builder()
        x = _first_value(pick, b, op, floats=floats)
        out = grow_embedding(pick, b, x, floats=floats) if op == "embedding" else GROWERS[op](pick, b, x)
        if out is not None:
            graph = b.graph([out])
            return Case(graph, _inputs(pick, graph))


def network(pick: Pick, *, floats: bool = False) -> Case:
    """A graph of 1 to 10 nodes with branches and one to three outputs.

    Without ``floats`` every number in it is exact on every backend: floats occur before a quantize and behind a
    dequantize only, and only in ops that do not round.
    """
    b = Builder()
    rank = pick.one([1, 2, 3, 3, 3, 4])
    shape = tuple(pick.int(1, (6 if rank < 4 else 4) if i else 4) for i in range(rank))
    live = [b.input(shape, F32 if floats and pick.int(0, 1) else small_type(pick))]
    if pick.int(0, 7) == 0:  # tokens first
        ids = b.input(shape[:3], pick.one([FixedPoint(32, 0), FixedPoint(5, 0, signed=False)]))
        found = grow_embedding(pick, b, ids)
        live = [ids if found is None else found]
    if not floats and pick.int(0, 3) == 0:
        live = [b.node("quantize", [b.input(shape, F32)], shape, small_type(pick), {"rounding": "half_up"})]
    for _ in range(pick.int(1, 10)):
        x = live[-1] if pick.int(0, 3) else pick.one(live)
        op = pick.one(sorted(GROWERS))
        rounds = op in INEXACT or op in ("conv", "conv_transpose", "linear", "add", "avg_pool")
        if _kind(b, x) and rounds and not floats:
            continue
        out = GROWERS[op](pick, b, x)
        if out is not None:
            live.append(out)
    if not b.nodes:
        live.append(b.node("reshape", [live[-1]], b.values[live[-1]].shape, b.values[live[-1]].type, {"shape": shape}))
    used = {name for node in b.nodes for name in node.inputs}
    ends = [node.output for node in b.nodes if node.output not in used]
    outputs = dict.fromkeys([*ends, pick.one([node.output for node in b.nodes])])
    graph = b.graph(list(outputs), {"name": "random"} if pick.int(0, 1) else {"labels": ["a", "b"]})
    return Case(graph, _inputs(pick, graph))


@st.composite
def node_cases(draw: st.DrawFn, op: str, *, floats: bool = False) -> Case:
    """Cases of one node."""
    return one_op(Drawn(draw), op, floats=floats)


@st.composite
def graph_cases(draw: st.DrawFn, *, floats: bool = False) -> Case:
    """Cases of whole graphs."""
    return network(Drawn(draw), floats=floats)


def random_case(seed: int, *, floats: bool = False) -> Case:
    """The whole graph that follows from ``seed``."""
    return network(Seeded(seed), floats=floats)
