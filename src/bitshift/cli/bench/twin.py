"""What a graph computes in real numbers: the float network that a peer runs beside it.

Every fixed-point value ``q * 2**-frac`` becomes the real number it stands for, every layer its decoded weights and
bias. Rounding disappears; saturation at zero becomes a relu, a clamp its two ends. ``grids`` keeps the 8-bit grid of
every value that has one, so that an int8 twin needs no calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, Node
from bitshift.core.ops.base import fixed, is_float, result, source
from bitshift.core.ops.weighted import is_kept, levels_of, vector


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where 8-bit values of a peer lie: ``real = (q - zero) * scale`` with q of 0..255."""

    scale: float
    zero: int


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One float operation.

    ``op`` is conv, conv_transpose, embedding, upsample, linear, add, clip, affine, max_pool, avg_pool, concat, pad,
    slice, reshape, transpose, unary, table, argmax or identity. ``levels`` and ``level_scale`` of conv and linear are
    the weight again: ``level * scale[c]``.
    The weight of conv_transpose has its output channels first, as in the graph.
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Twin:
    """Float layers in order; ``shapes`` are per sample."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    grids: Mapping[str, Grid]
    layers: tuple[Layer, ...]

    @property
    def integer(self) -> bool:
        """Whether every layer with weights reads a value on an 8-bit grid, so that an int8 twin exists."""
        weighted = [layer for layer in self.layers if layer.op in ("conv", "linear")]
        return bool(weighted) and all("levels" in x.arrays and x.inputs[0] in self.grids for x in weighted)


def make_twin(graph: Graph) -> Twin:
    """The float network of ``graph``."""
    builder = _Builder(graph)
    for node in graph.nodes:
        _RULES[node.op](builder, node)
    return Twin(
        inputs=graph.inputs, outputs=graph.outputs, shapes=builder.shapes, grids=builder.grids,
        layers=tuple(builder.layers),
    )  # fmt: skip


def grid_of(type: FixedPoint, top: float | None = None) -> Grid:
    """The 8-bit grid that covers ``type``'s range, or 0..``top`` where the values are clipped there."""
    if type.signed:
        return Grid(scale=2.0 ** (type.bits - 8 - type.frac), zero=128)
    return Grid(scale=(type.hi * 2.0**-type.frac if top is None else top) / 255, zero=0)


class _Builder:
    """State: the layers so far, and shape and grid of every value."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.layers: list[Layer] = []
        self.shapes = {name: graph.values[name].shape for name in graph.inputs}
        self.grids: dict[str, Grid] = {}
        for name in graph.inputs:
            self.put_grid(name)

    def put_grid(self, name: str, top: float | None = None) -> None:
        type = self.graph.values[name].type
        if isinstance(type, FixedPoint) and type.bits <= 8:
            self.grids[name] = grid_of(type, top)

    def layer(
        self, op: str, inputs: tuple[str, ...], output: str, shape: tuple[int, ...],
        attrs: Mapping[str, Any] | None = None, **arrays: np.ndarray,
    ) -> str:  # fmt: skip
        self.layers.append(Layer(op=op, inputs=inputs, output=output, attrs=attrs or {}, arrays=arrays))
        self.shapes[output] = shape
        return output

    def finish(self, name: str, node: Node, *, saturates: bool = True) -> None:
        """``name`` becomes the node's output, through the clip that its clamp and its type's lower end ask for."""
        out = result(node, self.graph)
        ends = (None, None)
        if saturates and isinstance(out.type, FixedPoint):
            ends = clip_ends(node.attrs.get("clamp"), out.type)
        if ends != (None, None):
            self.layer("clip", (name,), node.output, out.shape, {"lo": ends[0], "hi": ends[1]})
        elif name.startswith(f"{node.output}/"):  # our own last layer: it computes the output already
            self.layers[-1] = replace(self.layers[-1], output=node.output)
            self.shapes[node.output] = self.shapes.pop(name)
        else:
            self.layer("identity", (name,), node.output, out.shape)
        self.put_grid(node.output, ends[1] if ends[0] == 0 else None)


def clip_ends(clamp: tuple[int, int] | None, type: FixedPoint) -> tuple[float | None, float | None]:
    """The ends at which values are cut on purpose, as real numbers.

    An unsigned type cuts at zero: that is a relu. The other ends of a type are where its bits end, and mean nothing.
    """
    lo, hi = clamp if clamp is not None else (type.lo, type.hi)
    unit = 2.0**-type.frac
    return (
        lo * unit if lo > type.lo or (lo == 0 and not type.signed) else None,
        hi * unit if hi < type.hi else None,
    )


def _half_step(shift: np.ndarray) -> np.ndarray:
    """What rule 4 adds so that its shift rounds: no part of the real bias."""
    return np.where(shift > 0, 0.5, 0.0)


def _factors(node: Node, graph: Graph, channels: int, frac_in: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rule 4 in real numbers, per channel: gain of the sum, bias, gain of a residual's integers."""
    mult, offset, shift, res_shift = (
        vector(node, graph, role, channels).astype(np.float64) for role in ("mult", "offset", "shift", "res_shift")
    )
    unit = 2.0 ** -fixed(result(node, graph)).frac
    down = 2.0**-shift
    gain = mult * down * unit * 2.0**frac_in
    return gain, (offset * down - _half_step(shift)) * unit, 2.0**res_shift * down * unit


def _weighted(builder: _Builder, node: Node) -> None:
    graph, x, out = builder.graph, source(node, builder.graph), result(node, builder.graph)
    names = ("stride", "padding", "output_padding", "dilation", "groups") if node.op != "linear" else ()
    attrs = {name: node.attrs[name] for name in names if name in node.attrs}
    channels = out.shape[0] if node.op != "linear" else out.shape[-1]
    if is_kept(node):
        weight, bias = graph.const(node, "weight"), vector(node, graph, "bias", channels)
        builder.layer(node.op, (x.name,), node.output, out.shape, attrs, weight=weight, bias=bias)
        return
    levels = levels_of(node, graph)
    rows = (-1,) + (1,) * (levels.ndim - 1)
    if is_float(node, graph):
        gain, bias, res_gain = (vector(node, graph, r, channels).astype(np.float64) for r in ("scale", "bias", "mult"))
    else:
        gain, bias, res_gain = _factors(node, graph, channels, fixed(x).frac)
    arrays: dict[str, Any] = {
        "weight": (levels * gain.reshape(rows)).astype(np.float32),
        "bias": bias.astype(np.float32),
    }
    if not is_float(node, graph) and node.op != "conv_transpose":  # peers have no integer kernel for that one
        # The levels of most formats are int8 already; wider ones are rounded to it, as an int8 runtime would have them.
        fit = max(1.0, FORMATS[node.attrs["format"]].max_level / 127)
        arrays["levels"] = np.rint(levels / fit).astype(np.int8)
        arrays["level_scale"] = (gain * fit).astype(np.float32)
    if len(node.inputs) == 1:
        if is_float(node, graph):
            builder.layer(node.op, (x.name,), node.output, out.shape, attrs, **arrays)
        else:
            builder.finish(builder.layer(node.op, (x.name,), f"{node.output}/sum", out.shape, attrs, **arrays), node)
        return
    own = builder.layer(node.op, (x.name,), f"{node.output}/own", out.shape, attrs, **arrays)
    # The residual comes in before the relu: the branch is signed and as wide as the output.
    type = fixed(out)
    if type.bits <= 8:
        builder.grids[own] = Grid(scale=2.0 ** (type.bits - 8 - type.frac + (not type.signed)), zero=128)
    residual = _scaled(builder, node.inputs[1], res_gain * 2.0 ** fixed(source(node, graph, 1)).frac, node)
    builder.finish(builder.layer("add", (own, residual), f"{node.output}/sum", out.shape), node)


def _scaled(builder: _Builder, name: str, gain: np.ndarray, node: Node) -> str:
    """``name`` times a factor per channel, or itself where all factors are 1."""
    if (gain == 1).all():
        return name
    shape = builder.shapes[name]
    axis = 0 if node.op != "linear" else len(shape) - 1
    zeros = np.zeros(len(gain), np.float32)
    attrs = {"axis": axis}
    return builder.layer(
        "affine", (name,), f"{node.output}/residual", shape, attrs, scale=gain.astype(np.float32), bias=zeros
    )


def _embedding(builder: _Builder, node: Node) -> None:
    graph, out = builder.graph, result(node, builder.graph)
    if is_kept(node):
        builder.layer(node.op, node.inputs, node.output, out.shape, weight=graph.const(node, "weight"))
        return
    levels = levels_of(node, graph).astype(np.float64)
    if isinstance(out.type, FixedPoint):
        gain, bias, _ = _factors(node, graph, len(levels), 0)
    else:
        gain, bias = (vector(node, graph, role, len(levels)).astype(np.float64) for role in ("scale", "bias"))
    weight = (levels * gain[:, None] + bias[:, None]).astype(np.float32)
    builder.finish(builder.layer(node.op, node.inputs, f"{node.output}/rows", out.shape, weight=weight), node)


def _add(builder: _Builder, node: Node) -> None:
    shape = result(node, builder.graph).shape
    builder.finish(builder.layer("add", node.inputs, f"{node.output}/sum", shape), node)


def _same(builder: _Builder, node: Node) -> None:
    builder.finish(node.inputs[0], node)


def _border(builder: _Builder, node: Node) -> None:
    builder.finish(node.inputs[0], node, saturates=False)


def _rescale(builder: _Builder, node: Node) -> None:
    x = source(node, builder.graph)
    channels = (*x.shape, 1)[0]
    gain, bias, _ = _factors(node, builder.graph, channels, fixed(x).frac)
    arrays = {"scale": gain.astype(np.float32), "bias": bias.astype(np.float32)}
    builder.finish(builder.layer("affine", node.inputs, f"{node.output}/sum", x.shape, {"axis": 0}, **arrays), node)


def _affine(builder: _Builder, node: Node) -> None:
    x = source(node, builder.graph)
    channels = (*x.shape, 1)[0]
    arrays = {role: vector(node, builder.graph, role, channels) for role in ("scale", "bias")}
    builder.layer("affine", node.inputs, node.output, x.shape, {"axis": 0}, **arrays)


def _moved(builder: _Builder, node: Node) -> None:
    """Ops whose attributes mean the same for real numbers."""
    attrs = dict(node.attrs)
    out = result(node, builder.graph)
    if node.op == "pad" and isinstance(out.type, FixedPoint):
        attrs["value"] = attrs["value"] * 2.0**-out.type.frac
    builder.layer(node.op, node.inputs, node.output, out.shape, attrs)
    builder.put_grid(node.output)
    if node.op in ("max_pool", "pad", "slice", "reshape", "transpose", "upsample") and node.inputs[0] in builder.grids:
        builder.grids[node.output] = builder.grids[node.inputs[0]]


def _avg_pool(builder: _Builder, node: Node) -> None:
    graph, attrs = builder.graph, node.attrs
    x, out = source(node, graph), result(node, graph)
    window = {name: attrs[name] for name in ("kernel", "stride", "padding")}
    taps, bias = float(np.prod(attrs["kernel"])), 0.0
    if is_float(node, graph):
        gain = attrs["scale"] * taps
    else:
        unit = 2.0 ** -fixed(out).frac
        gain = attrs["mult"] * 2.0 ** (fixed(x).frac - attrs["shift"]) * unit * taps
        bias = (attrs["offset"] * 2.0 ** -attrs["shift"] - (0.5 if attrs["shift"] else 0.0)) * unit
        bias = 0.0 if abs(bias) <= unit / 2 else bias  # another way to round is no bias
    mean = builder.layer("avg_pool", node.inputs, f"{node.output}/mean", out.shape, window)
    if bias or abs(gain - 1) > 2**-8:  # a 1 / taps that was rounded to a few bits is a mean
        one = {"scale": np.full(1, gain, np.float32), "bias": np.full(1, bias, np.float32)}
        mean = builder.layer("affine", (mean,), f"{node.output}/scaled", out.shape, {"axis": 0}, **one)
    builder.finish(mean, node)
    if node.output in builder.grids and x.name in builder.grids and "clamp" not in attrs and fixed(x) == fixed(out):
        builder.grids[node.output] = builder.grids[x.name]


def _clamp(builder: _Builder, node: Node) -> None:
    x = source(node, builder.graph)
    unit = 2.0**-x.type.frac if isinstance(x.type, FixedPoint) else 1.0
    ends = [None if node.attrs[k] is None else node.attrs[k] * unit for k in ("lo", "hi")]
    if ends == [None, None]:
        builder.layer("identity", node.inputs, node.output, x.shape)
    else:
        builder.layer("clip", node.inputs, node.output, x.shape, {"lo": ends[0], "hi": ends[1]})
    builder.put_grid(node.output)


def _table(builder: _Builder, node: Node) -> None:
    x, out = fixed(source(node, builder.graph)), result(node, builder.graph)
    table = builder.graph.const(node, "table").astype(np.float32)
    if isinstance(out.type, FixedPoint):
        table = table * np.float32(2.0**-out.type.frac)
    attrs = {"lo": x.lo, "hi": x.hi, "unit": 2.0**-x.frac}
    builder.layer("table", node.inputs, node.output, out.shape, attrs, table=table)
    builder.put_grid(node.output)


_RULES: dict[str, Callable[[_Builder, Node], None]] = {
    "conv": _weighted, "conv_transpose": _weighted, "linear": _weighted, "embedding": _embedding, "upsample": _moved,
    "add": _add, "requantize": _same, "rescale": _rescale, "affine": _affine,
    "concat": _moved, "pad": _moved, "slice": _moved, "max_pool": _moved, "avg_pool": _avg_pool, "clamp": _clamp,
    "table": _table, "unary": _moved, "reshape": _moved, "transpose": _moved, "quantize": _border,
    "dequantize": _border, "argmax": _moved,
}  # fmt: skip

__all__ = ["Grid", "Layer", "Twin", "grid_of", "make_twin"]
