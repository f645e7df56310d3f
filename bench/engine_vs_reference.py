"""The compiled engine against the numpy reference on whole networks: equal integers first, then time for a sample.

Networks have random codes and the shapes of real ones: LeNet on (1, 28, 28) and ResNet-20 on (3, 32, 32), pot3d
weights, 8-bit activations, rule 4 with power-of-two multipliers; and a ResNet-20 with float activations. Both run on
one thread.

    python bench/engine_vs_reference.py --json out.json
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from common import Row, check_equal, main, paired

from bitshift.backends import engine, reference
from bitshift.core.fixed import FixedPoint, Float32, ValueType
from bitshift.core.formats import get_format
from bitshift.core.graph import Graph, Node, Value

INPUT, ACT, WIDE = FixedPoint(8, 7), FixedPoint(8, 5, signed=False), FixedPoint(32, 8)
MAP = tuple[str, tuple[int, ...]]
"""A value's name and shape."""


@dataclass
class Net:
    """A graph that grows layer by layer; ``real`` makes every value f32."""

    shape: tuple[int, ...]
    format: str = "pot3d"
    real: bool = False
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    values: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values["x"] = Value("x", self.shape, Float32() if self.real else INPUT)

    def add(
        self, op: str, inputs: Sequence[str], shape: Sequence[int], type: ValueType, attrs: dict, **consts: np.ndarray
    ) -> MAP:
        """A node; gives its output."""
        name = f"v{len(self.nodes)}"
        self.values[name] = Value(name, tuple(shape), type)
        for role, array in consts.items():
            self.constants[f"{name}.{role}"] = array
        self.nodes.append(Node(op, tuple(inputs), name, attrs, {role: f"{name}.{role}" for role in consts}))
        return name, tuple(shape)

    def weighted(
        self, op: str, inputs: Sequence[str], shape: Sequence[int], weight: Sequence[int], attrs: dict, out: FixedPoint
    ) -> MAP:
        """A conv or linear with random codes, scaled so that activations neither vanish nor saturate."""
        form, count, terms = get_format(self.format), weight[0], math.prod(weight[1:])
        codes = self.rng.choice(form.encode(np.array(form.valid_levels)), weight).astype(np.uint8)
        attrs = {"format": self.format, **attrs}
        if self.real:
            scale = np.full(count, 1 / math.sqrt(terms * 20), np.float32)
            return self.add(
                op, inputs, shape, Float32(), attrs, codes=codes, scale=scale, bias=np.zeros(count, np.float32)
            )
        shift = np.full(count, max(1, round(math.log2(math.sqrt(terms) * 5))), np.uint8)
        consts = {"codes": codes, "shift": shift, "mult": (1 << self.rng.integers(0, 2, count)).astype(np.int32)}
        consts["offset"] = self.rng.integers(-500, 500, count)
        if len(inputs) == 2:
            consts["res_shift"] = shift
        return self.add(op, inputs, shape, out, attrs, **consts)

    def conv(
        self, x: MAP, out: int, kernel: int, stride: int = 1, pad: int | None = None, residual: MAP | None = None
    ) -> MAP:
        """A square convolution with relu, which an unsigned output is; the residual comes in before it."""
        pad = kernel // 2 if pad is None else pad
        lengths = [(n + 2 * pad - kernel) // stride + 1 for n in x[1][1:]]
        attrs = {"stride": (stride,) * 2, "padding": ((pad, pad),) * 2, "dilation": (1, 1), "groups": 1}
        inputs = [x[0]] if residual is None or self.real else [x[0], residual[0]]
        y = self.weighted("conv", inputs, (out, *lengths), (out, x[1][0], kernel, kernel), attrs, ACT)
        if not self.real:
            return y
        if residual is not None:
            y = self.add("add", [y[0], residual[0]], y[1], Float32(), {})
        return self.add("clamp", [y[0]], y[1], Float32(), {"lo": 0.0, "hi": None})

    def linear(self, x: MAP, out: int, type: FixedPoint = ACT) -> MAP:
        """A layer behind a flattened value."""
        size = math.prod(x[1])
        if len(x[1]) > 1:
            x = self.add("reshape", [x[0]], (size,), self.values[x[0]].type, {"shape": (size,)})
        return self.weighted("linear", [x[0]], (out,), (out, size), {}, type)

    def pool(self, x: MAP, kernel: int) -> MAP:
        """Maximum over windows of kernel x kernel."""
        shape = (x[1][0], *(n // kernel for n in x[1][1:]))
        window = {"kernel": (kernel,) * 2, "stride": (kernel,) * 2, "padding": ((0, 0),) * 2, "dilation": (1, 1)}
        return self.add("max_pool", [x[0]], shape, self.values[x[0]].type, window)

    def global_average(self, x: MAP) -> MAP:
        """The mean of each channel."""
        n = math.prod(x[1][1:])
        window = {"kernel": x[1][1:], "stride": (1, 1), "padding": ((0, 0),) * 2}
        if self.real:
            return self.add("avg_pool", [x[0]], (x[1][0], 1, 1), Float32(), {**window, "scale": 1 / n})
        shift = round(math.log2(n))
        return self.add(
            "avg_pool", [x[0]], (x[1][0], 1, 1), ACT, {**window, "mult": 1, "offset": n // 2, "shift": shift}
        )

    def graph(self, output: MAP) -> Graph:
        """The finished graph."""
        return Graph(("x",), (output[0],), self.values, tuple(self.nodes), self.constants)


def lenet() -> Graph:
    """LeNet-5 on 28 x 28 grey images: 0.4 million products."""
    net = Net((1, 28, 28))
    x = net.pool(net.conv(("x", net.shape), 6, 5), 2)
    x = net.pool(net.conv(x, 16, 5, pad=0), 2)
    return net.graph(net.linear(net.linear(net.linear(x, 120), 84), 10, WIDE))


def resnet20(*, real: bool = False) -> Graph:
    """ResNet-20 on 32 x 32 colour images: 41 million products."""
    net = Net((3, 32, 32), real=real)
    x = net.conv(("x", net.shape), 16, 3)
    for width, first in ((16, 1), (32, 2), (64, 2)):
        for stride in (first, 1, 1):
            shortcut = x if stride == 1 else net.conv(x, width, 1, stride)
            x = net.conv(net.conv(x, width, 3, stride), width, 3, residual=shortcut)
    return net.graph(net.linear(net.global_average(x), 10, WIDE))


def rows(options: argparse.Namespace) -> list[Row]:
    """Milliseconds a sample of both, and how many times faster the engine is."""
    reason = engine.available()
    if reason is not None:
        raise SystemExit(f"engine_vs_reference: {reason}")
    cases = {"LeNet pot3d, s8": lenet()}
    if not options.quick:
        cases |= {"ResNet-20 pot3d, s8": resnet20(), "ResNet-20 pot3d, f32": resnet20(real=True)}
    found = []
    rounds = 3 if options.quick else 15
    for case, graph in cases.items():
        fast, slow = engine.compile(graph), reference.compile(graph)
        for batch in (1, 16):
            rng = np.random.default_rng(batch)
            value = graph.values["x"]
            if isinstance(value.type, FixedPoint):
                x = rng.integers(-128, 128, (batch, *value.shape)).astype(np.int8)
            else:
                x = rng.standard_normal((batch, *value.shape)).astype(np.float32)
            name = f"{case}, batch {batch}"
            (expected,), (got,) = slow.run_int({"x": x}).values(), fast.run_int({"x": x}).values()
            if expected.dtype == np.float32:
                # Sums of up to 576 products in another order: far under 1e-4 of the largest output.
                if not np.allclose(got, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max())):
                    raise SystemExit(f"{name}: the outputs differ; nothing was timed")
            else:
                check_equal(name, expected, got)
                if np.unique(expected).size < expected.size // 2:
                    raise SystemExit(f"{name}: the outputs are all alike, which would hide an error; nothing was timed")
            repeats = 1 if options.quick else max(1, 64 // batch if "LeNet" in case else 2)
            times = paired(
                {
                    "engine": lambda run=fast, x=x, n=repeats: [run.run_int({"x": x}) for _ in range(n)],
                    "reference": lambda run=slow, x=x, n=repeats: [run.run_int({"x": x}) for _ in range(n)],
                },
                rounds=rounds,
            )
            each = 1e3 / (batch * repeats)
            found += [
                times["engine"].row(name, "engine, a sample", scale=each),
                times["reference"].row(name, "reference, a sample", scale=each),
                times["engine"].ratio(times["reference"], case=name, against="numpy reference"),
            ]
    return found


if __name__ == "__main__":
    main(__doc__, rows)
