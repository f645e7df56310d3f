"""Hand-made frozen modules for the tests of lowering: they call the custom ops with numbers of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

import bitshift.nn.ops  # noqa: F401 - registers torch.ops.bitshift
from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import get_format
from bitshift.core.graph import Graph
from bitshift.core.reference import run_checked


class Quantize(nn.Module):
    """An activation quantiser."""

    def __init__(self, bits: int, frac: int, signed: bool = True, rounding: str = "half_up") -> None:
        super().__init__()
        self.setting = (bits, frac, signed, rounding)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.bitshift.quantize(x, *self.setting)


class Layer(nn.Module):
    """A convolution (kernel given) or linear layer with random codes and numbers per channel."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int] = (),
        *,
        seed: int,
        frac_in: int,
        format: str = "pot3d",
        stride: int = 1,
        padding: Sequence[int] | int = 0,
        groups: int = 1,
        multiplier: bool = False,
        frac: int = 6,
        spread: int = 2,
        wide: bool = True,
    ) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.format, self.frac_in, self.groups, self.wide, self.axes = format, frac_in, groups, wide, len(kernel)
        self.stride = stride
        self.padding = [padding] * (2 * len(kernel)) if isinstance(padding, int) else list(padding)
        codes = [c for c in range(1 << get_format(format).bits) if c not in get_format(format).reserved]
        shape = (outputs, inputs // groups, *kernel)
        mult = rng.integers(1, 65536, outputs) if multiplier else 1 << rng.integers(0, 4, outputs)
        self.register_buffer("codes", torch.from_numpy(rng.choice(codes, shape).astype(np.uint8)))
        self.register_buffer("mult", torch.from_numpy(mult.astype(np.int32)))
        self.register_buffer("offset", torch.from_numpy(rng.integers(-5000, 5000, outputs)))
        self.register_buffer("frac", torch.from_numpy(rng.integers(frac, frac + spread + 1, outputs).astype(np.int32)))

    def forward(self, x: Tensor) -> Tensor:
        numbers = (self.codes, self.mult, self.offset, self.frac, self.format, self.frac_in)
        if not self.axes:
            return torch.ops.bitshift.linear(x, *numbers, self.wide)
        stride, dilation = [self.stride] * self.axes, [1] * self.axes
        return torch.ops.bitshift.conv(x, *numbers, stride, self.padding, dilation, self.groups, self.wide)


def samples(shape: Sequence[int], *, seed: int, rows: int = 5, reach: float = 2.0) -> Tensor:
    """Random inputs, with zeros, ties and values far out of range among them."""
    x = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed)) * reach
    flat = x.view(-1)
    flat[:6] = torch.tensor([0.0, 0.5, -0.5, 1e9, -1e9, 2.0**-9])
    return x


def feed(graph: Graph, x: Tensor) -> dict[str, np.ndarray]:
    """The graph's only input from floats, quantised at the border when it is fixed point."""
    from bitshift.core.ops.quantize import quantize

    kind = graph.values[graph.inputs[0]].type
    array = x.numpy()
    return {graph.inputs[0]: quantize(array, kind) if isinstance(kind, FixedPoint) else array}


def real(graph: Graph, outputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs as float64 values, exact."""
    result = []
    for name in graph.outputs:
        kind = graph.values[name].type
        scale = 2.0**-kind.frac if isinstance(kind, FixedPoint) else 1.0
        result.append(outputs[name].astype(np.float64) * scale)
    return result


def run(graph: Graph, x: Tensor) -> list[np.ndarray]:
    """The graph's outputs by the numpy reference, as float64 values."""
    return real(graph, run_checked(graph, feed(graph, x)))


def assert_equal(graph: Graph, model: nn.Module, x: Tensor) -> None:
    """Every output of the graph is exactly the model's float output."""
    with torch.no_grad():
        expected = model(x)
    expected = expected if isinstance(expected, (tuple, list)) else (expected,)
    for name, got, want in zip(graph.outputs, run(graph, x), expected, strict=True):
        target = want.double().numpy()
        if not np.array_equal(got, target):
            at = tuple(int(i) for i in np.argwhere(got != target)[0])
            raise AssertionError(f"{name} at {at}: graph {got[at]!r}, torch {target[at]!r}\n{graph.pretty()}")
