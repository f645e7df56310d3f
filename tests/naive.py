"""The ops once more, as plain loops over Python numbers: what the reference is tested against.

Written from ARCHITECTURE.md alone, without a function of ``core.ops``, ``core.arith`` or ``core.windows``. One element
at a time: ``element(node, graph, sample, index)`` is the output at ``index`` of one sample.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, Node

Index = tuple[int, ...]
Sample = Sequence[np.ndarray]


def execute(node: Node, graph: Graph, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Outputs (N, *shape) of ``node``: int64 where it gives integers, float64 where it gives floats (not rounded)."""
    out = graph.values[node.output]
    batch = len(inputs[0])
    integers = isinstance(out.type, FixedPoint)
    result = np.zeros((batch, *out.shape), dtype=np.int64 if integers else np.float64)
    function = ELEMENTS[node.op]
    for n in range(batch):
        sample = [x[n] for x in inputs]
        for index in np.ndindex(out.shape):
            result[(n, *index)] = function(node, graph, sample, index)
    return result


def _types(node: Node, graph: Graph) -> tuple[list[Any], Any]:
    return [graph.values[n].type for n in node.inputs], graph.values[node.output].type


def _const(node: Node, graph: Graph, role: str, channel: int, default: float) -> Any:
    if role not in node.consts:
        return default
    array = graph.constants[node.consts[role]]
    return array[channel if len(array) > 1 else 0].item()


def _saturate(value: int, node: Node, graph: Graph) -> int:
    out = graph.values[node.output].type
    lo = -(2 ** (out.bits - 1)) if out.signed else 0
    hi = 2 ** (out.bits - 1) - 1 if out.signed else 2**out.bits - 1
    value = min(max(value, lo), hi)
    if "clamp" in node.attrs:
        value = min(max(value, node.attrs["clamp"][0]), node.attrs["clamp"][1])
    return value


def _floor_shift(value: int, shift: int) -> int:
    """``floor(value / 2**shift)``."""
    return value // 2**shift


def _rule4(node: Node, graph: Graph, acc: int, channel: int, residual: int | None) -> int:
    total = acc * _const(node, graph, "mult", channel, 1) + _const(node, graph, "offset", channel, 0)
    if residual is not None:
        total += residual * 2 ** _const(node, graph, "res_shift", channel, 0)
    return _saturate(_floor_shift(total, _const(node, graph, "shift", channel, 0)), node, graph)


def _weight(node: Node, graph: Graph, index: Index) -> float:
    if "weight" in node.consts:
        return graph.constants[node.consts["weight"]][index].item()
    return FORMATS[node.attrs["format"]].levels[graph.constants[node.consts["codes"]][index]]


def _finish(node: Node, graph: Graph, acc: float, sample: Sample, index: Index, channel: int) -> float:
    if isinstance(graph.values[node.output].type, FixedPoint):
        residual = int(sample[1][index]) if len(sample) == 2 else None
        return _rule4(node, graph, int(acc), channel, residual)
    return acc * _const(node, graph, "scale", channel, 1.0) + _const(node, graph, "bias", channel, 0.0)


def _conv(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    x, attrs = sample[0], node.attrs
    weights = graph.constants[node.consts["weight" if "weight" in node.consts else "codes"]].shape
    channel, place = index[0], index[1:]
    group = channel // (weights[0] // attrs["groups"])
    acc = 0
    for i in range(weights[1]):
        for taps in itertools.product(*(range(k) for k in weights[2:])):
            at = [
                p * s - pad[0] + k * d
                for p, s, pad, k, d in zip(
                    place, attrs["stride"], attrs["padding"], taps, attrs["dilation"], strict=True
                )
            ]
            if all(0 <= a < n for a, n in zip(at, x.shape[1:], strict=True)):
                acc += x[(group * weights[1] + i, *at)].item() * _weight(node, graph, (channel, i, *taps))
    return _finish(node, graph, acc, sample, index, channel)


def _conv_transpose(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    x, attrs = sample[0], node.attrs
    weights = graph.constants[node.consts["weight" if "weight" in node.consts else "codes"]].shape
    channel, place = index[0], index[1:]
    group = channel // (weights[0] // attrs["groups"])
    acc = 0
    for taps in itertools.product(*(range(k) for k in weights[2:])):
        at = []
        for p, s, (before, _), k, d in zip(
            place, attrs["stride"], attrs["padding"], taps, attrs["dilation"], strict=True
        ):
            at.append((p + before - k * d) / s)  # the element of x that this tap brings here, if there is one
        if not all(a == int(a) and 0 <= a < n for a, n in zip(at, x.shape[1:], strict=True)):
            continue
        for i in range(weights[1]):
            found = x[(group * weights[1] + i, *(int(a) for a in at))].item()
            acc += found * _weight(node, graph, (channel, i, *taps))
    return _finish(node, graph, acc, sample, index, channel)


def _embedding(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    row = sample[0][index[:-1]].item()
    level = _weight(node, graph, (row, index[-1]))
    if isinstance(graph.values[node.output].type, FixedPoint):
        return _rule4(node, graph, int(level), row, None)
    return level * _const(node, graph, "scale", row, 1.0) + _const(node, graph, "bias", row, 0.0)


def _upsample(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    at = [i // f for i, f in zip(index[1:], node.attrs["factor"], strict=True)]
    return sample[0][(index[0], *at)].item()


def _linear(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    row = sample[0][index[:-1]]
    acc = sum(row[i].item() * _weight(node, graph, (index[-1], i)) for i in range(len(row)))
    return _finish(node, graph, acc, sample, index, index[-1])


def _aligned(node: Node, graph: Graph, terms: Sequence[int], fracs: Sequence[int]) -> int:
    out = graph.values[node.output].type
    finest = max(*fracs, out.frac)
    total = sum(t * 2 ** (finest - f) for t, f in zip(terms, fracs, strict=True))
    down = finest - out.frac
    return _saturate(_floor_shift(total + (2 ** (down - 1) if down else 0), down), node, graph)


def _add(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    terms = [x[index].item() for x in sample]
    types, out = _types(node, graph)
    return _aligned(node, graph, terms, [t.frac for t in types]) if isinstance(out, FixedPoint) else sum(terms)


def _requantize(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    return _aligned(node, graph, [sample[0][index].item()], [graph.values[node.inputs[0]].type.frac])


def _rescale(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    return _rule4(node, graph, sample[0][index].item(), index[0] if index else 0, None)


def _affine(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    channel = index[0] if index else 0
    x = sample[0][index].item()
    return x * _const(node, graph, "scale", channel, 1.0) + _const(node, graph, "bias", channel, 0.0)


def _concat(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    axis, at = node.attrs["axis"], list(index)
    types, out = _types(node, graph)
    for x, type in zip(sample, types, strict=True):
        if at[axis] < x.shape[axis]:
            found = x[tuple(at)].item()
            return _aligned(node, graph, [found], [type.frac]) if isinstance(out, FixedPoint) else found
        at[axis] -= x.shape[axis]
    raise AssertionError("index beyond the concatenated axis")


def _pad(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    at = [i - before for i, (before, _) in zip(index, node.attrs["padding"], strict=True)]
    inside = all(0 <= a < n for a, n in zip(at, sample[0].shape, strict=True))
    return sample[0][tuple(at)].item() if inside else node.attrs["value"]


def _slice(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    at = [a + i * s for a, i, s in zip(node.attrs["start"], index, node.attrs["step"], strict=True)]
    return sample[0][tuple(at)].item()


def _window(node: Node, sample: Sample, index: Index) -> list[float]:
    """The elements of x, without padding, that the window at ``index`` meets."""
    x, attrs = sample[0], node.attrs
    dilation = attrs.get("dilation", (1,) * len(attrs["kernel"]))
    found = []
    for taps in itertools.product(*(range(k) for k in attrs["kernel"])):
        at = [
            p * s - pad[0] + k * d
            for p, s, pad, k, d in zip(index[1:], attrs["stride"], attrs["padding"], taps, dilation, strict=True)
        ]
        if all(0 <= a < n for a, n in zip(at, x.shape[1:], strict=True)):
            found.append(x[(index[0], *at)].item())
    return found


def _max_pool(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    return max(_window(node, sample, index))


def _avg_pool(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    total, attrs = sum(_window(node, sample, index)), node.attrs
    if "scale" in attrs:
        return total * attrs["scale"]
    return _saturate(_floor_shift(int(total) * attrs["mult"] + attrs["offset"], attrs["shift"]), node, graph)


def _clamp(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    x = sample[0][index].item()
    lo, hi = node.attrs["lo"], node.attrs["hi"]
    x = x if lo is None or x > lo else lo
    return x if hi is None or x < hi else hi


def _table(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    type = graph.values[node.inputs[0]].type
    lowest = -(2 ** (type.bits - 1)) if type.signed else 0
    return graph.constants[node.consts["table"]][int(sample[0][index]) - lowest].item()


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


UNARY: dict[str, Callable[[float, float], float]] = {
    "sigmoid": lambda x, _: _logistic(x),
    "tanh": lambda x, _: math.tanh(x),
    "gelu": lambda x, _: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x, _: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))),
    "silu": lambda x, _: x * _logistic(x),
    "hardswish": lambda x, _: x * min(max(x + 3, 0), 6) / 6,
    "hardsigmoid": lambda x, _: min(max(x + 3, 0), 6) / 6,
    "leaky_relu": lambda x, alpha: x if x > 0 else alpha * x,
    "elu": lambda x, alpha: x if x > 0 else alpha * math.expm1(x),
}


def _unary(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    return UNARY[node.attrs["fn"]](sample[0][index].item(), node.attrs.get("alpha", 0.0))


def _reshape(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    shape, flat = graph.values[node.output].shape, 0
    for i, n in zip(index, shape, strict=True):
        flat = flat * n + i
    return list(sample[0].flat)[flat].item()


def _transpose(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    at = [0] * len(index)
    for i, axis in zip(index, node.attrs["perm"], strict=True):
        at[axis] = i
    return sample[0][tuple(at)].item()


def _quantize(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    x = sample[0][index].item()
    out = graph.values[node.output].type
    if math.isnan(x):
        return 0
    if math.isinf(x):
        return _saturate(2**40 if x > 0 else -(2**40), node, graph)
    step = 0.5 if node.attrs["rounding"] == "half_up" else 0.0
    return _saturate(math.floor(x * 2.0**out.frac + step), node, graph)


def _dequantize(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    return float(np.float32(sample[0][index].item() / 2.0 ** graph.values[node.inputs[0]].type.frac))


def _argmax(node: Node, graph: Graph, sample: Sample, index: Index) -> float:
    row = sample[0][index].tolist()
    return row.index(max(row))


ELEMENTS: dict[str, Callable[[Node, Graph, Sample, Index], float]] = {
    name.removeprefix("_"): function
    for name, function in list(globals().items())
    if name in {f"_{op}" for op in (
        "conv", "linear", "add", "requantize", "rescale", "affine", "concat", "pad", "slice", "max_pool", "avg_pool",
        "clamp", "table", "unary", "reshape", "transpose", "quantize", "dequantize", "argmax", "conv_transpose",
        "embedding", "upsample",
    )}
}  # fmt: skip
