"""Forward error analysis of a float graph: how far float32, summed in any order, may be from the exact result."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, Node
from bitshift.core.windows import pad_spatial, windows

UNIT = 2.0**-24
"""Unit roundoff of float32."""

LIPSCHITZ = 1.13
"""Largest slope of the graph's unary functions (gelu and silu have 1.13 and 1.10; the others at most 1)."""


def error_bounds(graph: Graph, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A bound on ``|float32 result - exact result|`` of every value, elementwise, for the computed ``values``.

    Standard model: each operation adds a relative error of at most one unit roundoff; a sum of n terms in any order
    n - 1 of them on the sum of magnitudes. Errors of the inputs pass through linear ops by magnitudes.
    """
    errors = {name: np.zeros(values[name].shape) for name in graph.inputs}
    for node in graph.nodes:
        errors[node.output] = _node(graph, node, values, errors)
    return errors


def _node(graph: Graph, node: Node, values: Mapping[str, np.ndarray], errors: dict[str, np.ndarray]) -> np.ndarray:
    out = np.abs(values[node.output].astype(np.float64))
    arrays = [errors[i] for i in node.inputs]
    kind = graph.values[node.output].type
    if node.op == "quantize" and isinstance(kind, FixedPoint):
        # Rounding moves two numbers apart by at most one step; equal ones stay equal.
        return np.where(arrays[0] > 0, arrays[0] + 2.0**-kind.frac, 0.0)
    if isinstance(kind, FixedPoint) and node.op not in ("clamp", "reshape", "transpose", "slice", "pad"):
        assert not any(a.any() for a in arrays), f"{node} computes integers from a value that is not exact"
        return np.zeros(out.shape)
    if node.op == "dequantize":
        return arrays[0] + UNIT * out
    if node.op in ("conv", "linear"):
        x = np.abs(values[node.inputs[0]].astype(np.float64))
        return _weighted(graph, node, x, arrays[0])
    if node.op == "affine":
        scale = _column(graph, node, "scale", 1.0, out.ndim)
        bias = _column(graph, node, "bias", 0.0, out.ndim)
        magnitude = np.abs(values[node.inputs[0]].astype(np.float64)) * np.abs(scale) + np.abs(bias)
        return arrays[0] * np.abs(scale) + 4 * UNIT * magnitude
    if node.op == "add":
        return arrays[0] + arrays[1] + UNIT * out
    if node.op == "unary":
        return LIPSCHITZ * arrays[0] + 16 * UNIT * (1 + out)  # libraries promise a few units of the last place
    if node.op == "avg_pool":
        window = (node.attrs["kernel"], node.attrs["stride"], (1,) * len(node.attrs["kernel"]))
        x = np.abs(values[node.inputs[0]].astype(np.float64))
        sums, masses = (windows(pad_spatial(a, node.attrs["padding"], 0), *window) for a in (arrays[0], x))
        axes, area = tuple(range(-len(node.attrs["kernel"]), 0)), int(np.prod(node.attrs["kernel"]))
        return (sums.sum(axes) + (area + 2) * UNIT * masses.sum(axes)) * node.attrs["scale"]
    if node.op == "max_pool":
        a = node.attrs
        return windows(pad_spatial(arrays[0], a["padding"], 0), a["kernel"], a["stride"], a["dilation"]).max(
            tuple(range(-len(a["kernel"]), 0))
        )
    return _moved(node, arrays, out.shape)


def _moved(node: Node, arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    if node.op == "clamp":
        return arrays[0]
    if node.op == "reshape":
        return arrays[0].reshape(shape)
    if node.op == "transpose":
        return arrays[0].transpose(0, *(p + 1 for p in node.attrs["perm"]))
    if node.op == "slice":
        axes = zip(node.attrs["start"], node.attrs["stop"], node.attrs["step"], strict=True)
        return arrays[0][(slice(None), *(slice(*a) for a in axes))]
    if node.op == "pad":
        return np.pad(arrays[0], [(0, 0), *node.attrs["padding"]])
    if node.op == "concat":
        return np.concatenate(arrays, axis=node.attrs["axis"] + 1)
    raise NotImplementedError(node.op)


def _column(graph: Graph, node: Node, role: str, default: float, rank: int) -> np.ndarray:
    vector = graph.const(node, role).astype(np.float64) if role in node.consts else np.array([default])
    return vector.reshape(1, -1, *[1] * (rank - 2))


def _weighted(graph: Graph, node: Node, x: np.ndarray, error: np.ndarray) -> np.ndarray:
    if "codes" in node.consts:
        weight = np.abs(FORMATS[node.attrs["format"]].table[graph.const(node, "codes")]).astype(np.float64)
    else:
        weight = np.abs(graph.const(node, "weight").astype(np.float64))
    terms = int(np.prod(weight.shape[1:]))
    last = node.op == "linear"
    rank = x.ndim
    scale, bias = (
        np.abs(_column(graph, node, r, d, 2)[0] if last else _column(graph, node, r, d, rank))
        for r, d in (("scale", 1.0), ("bias", 0.0))
    )
    mass, passed = (_sums(node, a, weight) * scale for a in (x, error))
    return passed + (terms + 3) * UNIT * (mass + bias)


def _sums(node: Node, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    if node.op == "linear":
        return x @ weight.T
    a = node.attrs
    view = windows(pad_spatial(x, a["padding"], 0), weight.shape[2:], a["stride"], a["dilation"])
    n, axes = view.shape[0], weight.ndim - 2
    grouped = view.reshape(n, a["groups"], -1, *view.shape[2:])
    kernels = weight.reshape(a["groups"], -1, *weight.shape[1:])
    letters = "xy"[:axes], "uv"[:axes]
    spec = f"ngi{letters[0]}{letters[1]},goi{letters[1]}->ngo{letters[0]}"
    result = np.einsum(spec, grouped, kernels, optimize=True)
    return result.reshape(n, -1, *result.shape[3:])
