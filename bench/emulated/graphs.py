"""Integer graphs with random weights: single layers for counting, and a small network with every usual op."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import get_format
from bitshift.core.graph import Graph, Node, Value
from bitshift.core.windows import output_length

INT8 = FixedPoint(8, 4)
UINT8 = FixedPoint(8, 4, signed=False)


class Draft:
    """A graph under construction: each method appends a node and returns the name of its output."""

    def __init__(self, shape: Sequence[int], type: FixedPoint = INT8, *, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.values = {"x": Value("x", tuple(shape), type)}
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def conv(
        self, x: str, out: int, kernel: int = 3, *, format: str = "pot3d", stride: int = 1, groups: int = 1,
        residual: str = "", type: FixedPoint = INT8, source: str = "",
    ) -> str:  # fmt: skip
        """A same-padded 2-d convolution with ``out`` channels, rounded to ``type``; its shifts suit random inputs."""
        channels, *sizes = self.values[x].shape
        pad = ((kernel - 1) // 2, kernel // 2)
        lengths = [output_length(size, kernel, stride, pad, 1) for size in sizes]
        attrs = {"stride": [stride] * 2, "padding": [list(pad)] * 2, "dilation": [1, 1], "groups": groups}
        return self._weighted(
            "conv", x, (out, channels // groups, kernel, kernel), (out, *lengths), format, type, attrs, residual, source
        )

    def linear(self, x: str, out: int, *, format: str = "pot3d", type: FixedPoint = INT8, source: str = "") -> str:
        """A linear layer over the last axis."""
        *rows, width = self.values[x].shape
        return self._weighted("linear", x, (out, width), (*rows, out), format, type, {}, "", source)

    def _weighted(
        self, op: str, x: str, weight: tuple[int, ...], shape: tuple[int, ...], format: str, type: FixedPoint,
        attrs: dict[str, object], residual: str, source: str,
    ) -> str:  # fmt: skip
        form = get_format(format)
        codes = form.encode(self.rng.choice(np.array(form.valid_levels), weight))
        spread = math.sqrt(float((form.table[codes] ** 2).mean()) * math.prod(weight[1:])) * 60
        shift = np.full(weight[0], max(0, round(math.log2(spread / 45))), np.uint8)
        offset = (1 << shift.astype(np.int64)) // 2 + self.rng.integers(-100, 100, weight[0])
        consts = {"codes": codes, "offset": offset, "shift": shift}
        inputs = (x,)
        if residual:
            inputs = (x, residual)
            consts["res_shift"] = np.maximum(shift, 1) - np.uint8(1)
        return self.node(op, inputs, shape, type, {**attrs, "format": format}, consts, source)

    def node(
        self, op: str, inputs: Sequence[str], shape: Sequence[int], type: FixedPoint,
        attrs: dict[str, object] | None = None, consts: dict[str, np.ndarray] | None = None, source: str = "",
    ) -> str:  # fmt: skip
        """Any node."""
        name = f"v{len(self.nodes)}"
        self.values[name] = Value(name, tuple(shape), type)
        names = {role: f"{name}.{role}" for role in consts or {}}
        self.constants |= {names[role]: array for role, array in (consts or {}).items()}
        self.nodes.append(Node(op, tuple(inputs), name, attrs or {}, names, source or name))
        return name

    def graph(self, output: str) -> Graph:
        """The graph that ends at ``output``."""
        return Graph(("x",), (output,), self.values, tuple(self.nodes), self.constants)


def fully_connected() -> Graph:
    """256 -> 32: 8,192 products."""
    draft = Draft((256,))
    return draft.graph(draft.linear("x", 32))


def pointwise() -> Graph:
    """1x1 over 8x8, 32 -> 32 channels: 65,536 products."""
    draft = Draft((32, 8, 8))
    return draft.graph(draft.conv("x", 32, 1))


def window() -> Graph:
    """3x3 over 8x8, 16 -> 16 channels: 147,456 products with those of the padding."""
    draft = Draft((16, 8, 8))
    return draft.graph(draft.conv("x", 16))


def depthwise() -> Graph:
    """3x3 over 8x8, 32 channels of their own: 18,432 products with those of the padding."""
    draft = Draft((32, 8, 8))
    return draft.graph(draft.conv("x", 32, groups=32))


LAYERS = {
    "linear 256-32": (fully_connected, 8192),
    "conv 1x1 8x8 32-32": (pointwise, 65536),
    "conv 3x3 8x8 16-16": (window, 147456),
    "depthwise 3x3 8x8 32": (depthwise, 18432),
}
"""Graph and products of the layers that published kernels are compared on."""


def tiny_connected() -> Graph:
    """32 -> 16: 512 products."""
    draft = Draft((32,))
    return draft.graph(draft.linear("x", 16))


def tiny_window() -> Graph:
    """3x3 over 5x5, 4 -> 4 channels: 3,600 products with those of the padding."""
    draft = Draft((4, 5, 5))
    return draft.graph(draft.conv("x", 4))


TINY = {"linear 32-16": (tiny_connected, 512), "conv 3x3 5x5 4-4": (tiny_window, 3600)}
"""Layers for 8 KB of flash and 512 bytes of RAM."""


def small_network(seed: int = 0, *, format: str = "pot3d") -> Graph:
    """Every usual op on 3x10x9 pixels: strided, depthwise, 1x1 and residual convolutions, pools, concat, linear."""
    draft = Draft((3, 10, 9), UINT8, seed=seed)
    first = draft.conv("x", 6, stride=2, format=format, type=UINT8, source="stem")
    deep = draft.conv(first, 6, groups=6, format=format, source="depthwise")
    wide = draft.conv(deep, 6, 1, format=format, residual=first, type=UINT8, source="pointwise")
    pooled = draft.node(
        "max_pool",
        [wide],
        (6, 2, 2),
        UINT8,
        {"kernel": [2, 2], "stride": [2, 2], "padding": [[0, 0]] * 2, "dilation": [1, 1]},
    )
    both = draft.node("concat", [pooled, pooled], (12, 2, 2), UINT8, {"axis": 0})
    total = draft.node("add", [both, both], (12, 2, 2), INT8)
    mean = draft.node(
        "avg_pool", [total], (12, 1, 1), INT8,
        {"kernel": [2, 2], "stride": [1, 1], "padding": [[0, 0]] * 2, "mult": 1, "offset": 2, "shift": 2},
    )  # fmt: skip
    flat = draft.node("reshape", [mean], (12,), INT8, {"shape": [12]})
    return draft.graph(draft.linear(flat, 5, format=format, type=FixedPoint(32, 8), source="head"))
