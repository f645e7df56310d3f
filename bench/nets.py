"""The networks that the benchmarks run: architectures of real nets with random codes, as graphs; their torch twins.

Shifts are chosen from the expected power of every value, so that activations neither vanish nor saturate at any
depth: a net of dead or clipped values would hide errors. Inputs are float, to be drawn from N(0, 1), which the first
node quantises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bitshift.core.fixed import FixedPoint, Float32, ValueType
from bitshift.core.formats import get_format
from bitshift.core.graph import Graph, Node, Value

if TYPE_CHECKING:
    from torch import nn

    from bitshift.cli.bench.worker import Candidate

INPUT, WIDE = FixedPoint(8, 5), FixedPoint(32, 8)
MAP = tuple[str, tuple[int, ...]]
"""A value's name and shape."""


@dataclass
class Net:
    """A graph that grows layer by layer.

    ``bits`` is the width of the activations behind the input (which has 8), ``multiplier`` gives every output channel a
    16-bit factor instead of a power of two, ``real`` makes every value f32 (``bits`` and ``multiplier`` then say
    nothing). ``float_input=False`` makes the graph's input the integers themselves.
    """

    shape: tuple[int, ...]
    format: str = "pot3d"
    bits: int = 8
    multiplier: bool = False
    real: bool = False
    float_input: bool = True
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    values: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    power: dict[str, float] = field(default_factory=dict)
    """Expected mean square of a value, in units of its grid."""

    def __post_init__(self) -> None:
        self.values["x"] = Value("x", self.shape, Float32() if self.real or self.float_input else INPUT)
        self.power["x"] = 1.0 if self.real or self.float_input else 4.0**INPUT.frac

    def act(self, *, signed: bool = False) -> FixedPoint:
        """The type of activations: values up to 8 (4 if signed)."""
        return FixedPoint(self.bits, self.bits - 3, signed=signed)

    def start(self) -> MAP:
        """The input as the first layer reads it: quantised if it is float and the net is not."""
        if self.real or not self.float_input:
            return "x", self.shape
        x = self.add("quantize", ["x"], self.shape, INPUT, {"rounding": "half_up"})
        self.power[x[0]] = 4.0**INPUT.frac
        return x

    def add(
        self, op: str, inputs: Sequence[str], shape: Sequence[int], type: ValueType, attrs: dict, **consts: np.ndarray
    ) -> MAP:
        """A node; gives its output, which has the power of its first input unless the caller says otherwise."""
        name = f"v{len(self.nodes)}"
        self.values[name] = Value(name, tuple(shape), type)
        for role, array in consts.items():
            self.constants[f"{name}.{role}"] = array
        self.nodes.append(Node(op, tuple(inputs), name, attrs, {role: f"{name}.{role}" for role in consts}))
        self.power[name] = self.power[inputs[0]]
        return name, tuple(shape)

    def weighted(
        self, op: str, inputs: Sequence[str], shape: Sequence[int], weight: Sequence[int], attrs: dict, out: FixedPoint
    ) -> MAP:
        """A conv or linear with random codes; its sum has an eighth to a quarter of ``out``'s range as deviation."""
        form, count, terms = get_format(self.format), weight[0], math.prod(weight[1:])
        levels = np.array(form.valid_levels)
        codes = form.encode(self.rng.choice(levels, weight))
        deviation = math.sqrt(terms * float((levels.astype(float) ** 2).mean()) * self.power[inputs[0]])
        attrs = {"format": self.format, **attrs}
        if self.real:
            scale = np.full(count, 1 / deviation, np.float32)
            y = self.add(
                op, inputs, shape, Float32(), attrs, codes=codes, scale=scale, bias=np.zeros(count, np.float32)
            )
            self.power[y[0]] = 1.0
            return y
        top = 16 << out.frac if out.bits == 32 else out.hi + 1
        # With a residual the sum of both must fit: the branch gets half as much.
        wanted = top / (8 if len(inputs) == 2 else 4) / (2 if not out.signed else 1)
        if self.multiplier:
            mult = self.rng.integers(1 << 14, 1 << 16, count)
            shift = round(math.log2(deviation * 1.5 * (1 << 15) / wanted))
        else:
            mult = 1 << self.rng.integers(0, 2, count)
            shift = round(math.log2(deviation * 1.5 / wanted))
        shift = max(0, shift)
        unit = (1 << shift) / 2
        offset = np.floor(self.rng.normal(0, wanted / 4, count) * 2 * unit + unit).astype(np.int64)
        consts = {"codes": codes, "mult": mult.astype(np.int32), "offset": offset}
        consts["shift"] = np.full(count, shift, np.uint8)
        if len(inputs) == 2:
            consts["res_shift"] = consts["shift"]
        y = self.add(op, inputs, shape, out, attrs, **consts)
        variance = float(((deviation * mult / (1 << shift)) ** 2).mean())
        total = variance + (self.power[inputs[1]] if len(inputs) == 2 else 0.0)
        self.power[y[0]] = max(0.25, total if out.signed or len(inputs) == 2 else total / 2)
        return y

    def conv(
        self, x: MAP, out: int, kernel: int, stride: int = 1, pad: int | tuple[int, int] | None = None,
        residual: MAP | None = None, *, groups: int = 1, signed: bool = False, top: float | None = None,
    ) -> MAP:  # fmt: skip
        """A square convolution; an unsigned output is a relu (``top`` 6.0: relu6) behind the sum with the residual."""
        pad = kernel // 2 if pad is None else pad
        before, after = pad if isinstance(pad, tuple) else (pad, pad)
        lengths = [(n + before + after - kernel) // stride + 1 for n in x[1][1:]]
        attrs = {"stride": (stride,) * 2, "padding": ((before, after),) * 2, "dilation": (1, 1), "groups": groups}
        inputs = [x[0]] if residual is None or self.real else [x[0], residual[0]]
        type = self.act(signed=signed)
        if top is not None and not self.real:
            attrs["clamp"] = (0, round(top * 2.0**type.frac))
        y = self.weighted("conv", inputs, (out, *lengths), (out, x[1][0] // groups, kernel, kernel), attrs, type)
        if not self.real:
            return y
        if residual is not None:
            y = self.add("add", [y[0], residual[0]], y[1], Float32(), {})
        return y if signed else self.add("clamp", [y[0]], y[1], Float32(), {"lo": 0.0, "hi": top})

    def linear(self, x: MAP, out: int, type: FixedPoint | None = None) -> MAP:
        """A layer behind a flattened value."""
        size = math.prod(x[1])
        if len(x[1]) > 1:
            x = self.add("reshape", [x[0]], (size,), self.values[x[0]].type, {"shape": (size,)})
        return self.weighted("linear", [x[0]], (out,), (out, size), {}, type or self.act())

    def pool(self, x: MAP, kernel: int, stride: int | None = None, pad: int = 0) -> MAP:
        """Maximum over windows."""
        stride = stride or kernel
        shape = (x[1][0], *((n + 2 * pad - kernel) // stride + 1 for n in x[1][1:]))
        window = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "padding": ((pad, pad),) * 2, "dilation": (1, 1)}
        return self.add("max_pool", [x[0]], shape, self.values[x[0]].type, window)

    def global_average(self, x: MAP) -> MAP:
        """The mean of each channel."""
        n = math.prod(x[1][1:])
        window = {"kernel": x[1][1:], "stride": (1, 1), "padding": ((0, 0),) * 2}
        shape = (x[1][0], 1, 1)
        if self.real:
            return self.add("avg_pool", [x[0]], shape, Float32(), {**window, "scale": 1 / n})
        shift = 15 if n & (n - 1) else int(math.log2(n))
        mult = round((1 << shift) / n) if shift == 15 else 1
        attrs = {**window, "mult": mult, "offset": (1 << shift) // 2, "shift": shift}
        return self.add("avg_pool", [x[0]], shape, self.values[x[0]].type, attrs)

    def subsample(self, x: MAP, channels: int) -> MAP:
        """Option A of the CIFAR ResNets: every second pixel, zero channels before and behind."""
        c, h, w = x[1]
        type, extra = self.values[x[0]].type, (channels - c) // 2
        crop = {"start": (0, 0, 0), "stop": x[1], "step": (1, 2, 2)}
        y = self.add("slice", [x[0]], (c, -(-h // 2), -(-w // 2)), type, crop)
        zero = 0.0 if self.real else 0
        padding = {"padding": ((extra, channels - c - extra), (0, 0), (0, 0)), "value": zero}
        return self.add("pad", [y[0]], (channels, *y[1][1:]), type, padding)

    def graph(self, output: MAP) -> Graph:
        """The finished graph."""
        return Graph(("x",), (output[0],), self.values, tuple(self.nodes), self.constants)


def lenet(**options: object) -> Graph:
    """LeNet-5 on 28 x 28 grey images: 0.4 million products."""
    net = Net((1, 28, 28), **options)  # pyright: ignore[reportArgumentType]
    x = net.pool(net.conv(net.start(), 6, 5), 2)
    x = net.pool(net.conv(x, 16, 5, pad=0), 2)
    return net.graph(net.linear(net.linear(net.linear(x, 120), 84), 10, WIDE))


def resnet8(**options: object) -> Graph:
    """ResNet-8 of MLPerf Tiny on 32 x 32 colour images: 12.5 million products."""
    net = Net((3, 32, 32), **options)  # pyright: ignore[reportArgumentType]
    x = net.conv(net.start(), 16, 3)
    x = net.conv(net.conv(x, 16, 3), 16, 3, residual=x)
    for width in (32, 64):
        shortcut = net.conv(x, width, 1, 2, pad=0, signed=True)
        x = net.conv(net.conv(x, width, 3, 2, pad=(0, 1)), width, 3, residual=shortcut)
    return net.graph(net.linear(net.global_average(x), 10, WIDE))


def resnet20(**options: object) -> Graph:
    """ResNet-20 on 32 x 32 colour images: 41 million products."""
    net = Net((3, 32, 32), **options)  # pyright: ignore[reportArgumentType]
    x = net.conv(net.start(), 16, 3)
    for width, first in ((16, 1), (32, 2), (64, 2)):
        for stride in (first, 1, 1):
            shortcut = x if stride == 1 else net.subsample(x, width)
            x = net.conv(net.conv(x, width, 3, stride), width, 3, residual=shortcut)
    return net.graph(net.linear(net.global_average(x), 10, WIDE))


def _stem(size: int, options: dict) -> tuple[Net, MAP]:
    net = Net((3, size, size), **options)
    return net, net.pool(net.conv(net.start(), 64, 7, 2), 3, 2, 1)


def resnet18(*, size: int = 224, classes: int = 1000, **options: object) -> Graph:
    """ResNet-18 on photographs: 1.81 thousand million products at 224 x 224."""
    net, x = _stem(size, options)
    for width, first in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first, 1):
            shortcut = x if stride == 1 else net.conv(x, width, 1, stride, signed=True)
            x = net.conv(net.conv(x, width, 3, stride), width, 3, residual=shortcut)
    return net.graph(net.linear(net.global_average(x), classes, WIDE))


def resnet50(*, size: int = 224, classes: int = 1000, **options: object) -> Graph:
    """ResNet-50 (the stride in the 3x3) on photographs: 4.1 thousand million products at 224 x 224."""
    net, x = _stem(size, options)
    for width, depth, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(depth):
            stride = first if i == 0 else 1
            shortcut = x if i else net.conv(x, width * 4, 1, stride, signed=True)
            y = net.conv(net.conv(x, width, 1), width, 3, stride)
            x = net.conv(y, width * 4, 1, residual=shortcut)
    return net.graph(net.linear(net.global_average(x), classes, WIDE))


MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks, first stride of each stage (Sandler et al., 2018, table 2)."""


def mobilenet_v2(*, size: int = 224, classes: int = 1000, **options: object) -> Graph:
    """MobileNetV2 1.0 on photographs: 0.3 thousand million products at 224 x 224, ReLU6, linear bottlenecks."""
    net = Net((3, size, size), **options)  # pyright: ignore[reportArgumentType]
    x = net.conv(net.start(), 32, 3, 2, top=6.0)
    for expansion, width, depth, first in MOBILENET_V2:
        for i in range(depth):
            stride, hidden = first if i == 0 else 1, x[1][0] * expansion
            y = net.conv(x, hidden, 1, top=6.0) if expansion > 1 else x
            y = net.conv(y, hidden, 3, stride, groups=hidden, top=6.0)
            joins = x if stride == 1 and x[1][0] == width else None
            x = net.conv(y, width, 1, residual=joins, signed=True)
    return net.graph(net.linear(net.global_average(net.conv(x, 1280, 1, top=6.0)), classes, WIDE))


NETS: dict[str, Callable[..., Graph]] = {
    "resnet18": resnet18, "resnet50": resnet50, "mobilenet_v2": mobilenet_v2, "resnet20": resnet20, "resnet8": resnet8,
}  # fmt: skip


def torch_net(name: str) -> nn.Module:
    """The float network of the same architecture as people run it in torch: norms as modules, random weights."""
    from torch_nets import MobileNetV2

    from bitshift.train.models import build

    if name == "mobilenet_v2":
        return MobileNetV2(MOBILENET_V2)
    return build(name, num_classes=10 if name in ("resnet20", "resnet8") else 1000, in_channels=3)


def torch_module(*, name: str, inputs: str, threads: int, cpus: Sequence[int]) -> Candidate:  # noqa: ARG001
    """A worker's candidate: :func:`torch_net` in eager mode."""
    import torch

    from bitshift.cli.bench.peers import read_inputs, torch_candidate

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return torch_candidate(torch_net(name), list(read_inputs(inputs).values()))
