"""Frozen torch modules, their literal graph and their fused graph give the same integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitshift.core.bounds import check_bounds
from bitshift.core.check import check
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph
from bitshift.lower import lower
from bitshift.lower.literal import literal_graph
from bitshift.lower.passes import optimise
from bitshift.lower.wide import is_wide
from lower_models import Layer, Quantize, assert_equal, run, samples


class Straight(nn.Module):
    """Conv, relu, pool, quantise, flatten, linear."""

    def __init__(self, *, multiplier: bool, rounding: str = "half_up", bits: int = 8) -> None:
        super().__init__()
        self.q0 = Quantize(bits, 5, True)
        self.conv = Layer(3, 6, (3, 3), seed=1, frac_in=5, padding=[1, 1, 0, 2], multiplier=multiplier, frac=12)
        self.q1 = Quantize(bits, 3, False, rounding)
        self.fc = Layer(6 * 4 * 4, 10, seed=2, frac_in=3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(F.relu(self.conv(self.q0(x))), 2)
        return self.fc(self.q1(y).flatten(1))


class Residual(nn.Module):
    """Both kinds of shortcut: strided slice with channel padding, and a convolution."""

    def __init__(self, *, multiplier: bool, project: bool) -> None:
        super().__init__()
        self.q0 = Quantize(8, 4)
        self.stem = Layer(2, 4, (3, 3), seed=3, frac_in=4, padding=1, multiplier=multiplier, frac=11)
        self.q1 = Quantize(4, 1, False)
        self.a = Layer(4, 8, (3, 3), seed=4, frac_in=1, padding=1, stride=2, multiplier=multiplier, frac=10)
        self.q2 = Quantize(4, 2, False)
        self.b = Layer(8, 8, (3, 3), seed=5, frac_in=2, padding=1, multiplier=multiplier, frac=9)
        self.short = Layer(4, 8, (1, 1), seed=6, frac_in=1, stride=2, frac=4) if project else None
        self.q3 = Quantize(8, 2)
        self.q4 = Quantize(4, 0, False)
        self.fc = Layer(8, 5, seed=7, frac_in=3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.q1(self.stem(self.q0(x)).relu())
        y = self.b(self.q2(self.a(x).relu()))
        z = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) if self.short is None else self.q3(self.short(x))
        y = self.q4((y + z).relu_())
        y = torch.ops.bitshift.avg_pool(y, [4, 4], [4, 4], [0] * 4, 1, 3, False).flatten(1)
        return self.fc(Quantize(8, 3)(y))


class Mobile(nn.Module):
    """Depthwise, relu6, a pool with a sum that is no power of two, a concat of different grids."""

    def __init__(self) -> None:
        super().__init__()
        self.q0 = Quantize(8, 4)
        self.a = Layer(4, 4, (3, 3), seed=8, frac_in=4, padding=1, groups=4, multiplier=True, frac=18)
        self.q1, self.q2, self.q3 = Quantize(6, 3, False), Quantize(4, 2, False), Quantize(5, 1)
        self.b = Layer(4, 4, (1, 1), seed=9, frac_in=3, multiplier=True, frac=16)
        self.c = Layer(12, 3, (1, 1), seed=10, frac_in=3, frac=3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.q1(F.relu6(self.a(self.q0(x))))
        y = self.q2(F.hardtanh(self.b(x), 0.0, 2.3))
        z = self.q3(torch.ops.bitshift.avg_pool(x, [3, 3], [1, 1], [1, 1, 1, 1], 7, 6, False))
        return torch.ops.bitshift.avg_pool(self.c(torch.cat([x, y, z], 1)), [7, 7], [7, 7], [0] * 4, 1, 0, True)


class Sequence1d(nn.Module):
    """Conv1d, max pool with ceil_mode, transpose, linear on every position, two roundings of one value."""

    def __init__(self) -> None:
        super().__init__()
        self.q0 = Quantize(8, 3)
        self.conv = Layer(5, 6, (4,), seed=11, frac_in=3, padding=[2, 1], stride=2, frac=8)
        self.q1, self.q2 = Quantize(8, 2), Quantize(4, 0)
        self.fc = Layer(6, 4, seed=12, frac_in=2, frac=5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.max_pool1d(self.conv(self.q0(x)), 3, 2, 1, ceil_mode=True)
        return self.fc(self.q1(y).transpose(1, 2)), self.q2(y).argmax(1)


MODELS = {
    "straight": (lambda: Straight(multiplier=False), (3, 9, 8)),
    "straight-multiplier": (lambda: Straight(multiplier=True), (3, 9, 8)),
    "straight-floor": (lambda: Straight(multiplier=False, rounding="floor"), (3, 9, 8)),
    "straight-2-bits": (lambda: Straight(multiplier=True, bits=2), (3, 9, 8)),
    "option-a": (lambda: Residual(multiplier=False, project=False), (2, 8, 8)),
    "projection": (lambda: Residual(multiplier=False, project=True), (2, 8, 8)),
    "option-a-multiplier": (lambda: Residual(multiplier=True, project=False), (2, 8, 8)),
    "projection-multiplier": (lambda: Residual(multiplier=True, project=True), (2, 8, 8)),
    "mobile": (Mobile, (4, 7, 7)),
    "sequence": (Sequence1d, (5, 15)),
}


@pytest.mark.parametrize("name", MODELS)
def test_torch_literal_and_fused_graph_are_equal(name: str) -> None:
    make, shape = MODELS[name]
    model = make().eval()
    x = samples(shape, seed=0)
    literal = literal_graph(model, (x,))
    assert_equal(literal, model, x)
    graph = optimise(literal)
    assert_equal(graph, model, x)
    check(graph)
    check_bounds(graph)
    assert not any(is_wide(v.type) for v in graph.values.values())
    assert all(graph.values[o].type.bits == 32 for o in graph.outputs)


def kinds(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def test_a_straight_network_fuses_to_one_node_a_layer_and_an_integer_input() -> None:
    graph = lower(Straight(multiplier=True).eval(), sample=samples((3, 9, 8), seed=0))
    assert kinds(graph) == ["conv", "max_pool", "reshape", "linear"]
    assert graph.values[graph.inputs[0]].type == FixedPoint(8, 5)
    assert graph.values[graph.nodes[0].output].type == FixedPoint(8, 3, signed=False)
    assert "clamp" not in graph.nodes[0].attrs  # relu is the range of the unsigned type


def test_a_residual_block_reads_the_quantised_side() -> None:
    graph = lower(Residual(multiplier=True, project=True).eval(), sample=samples((2, 8, 8), seed=0))
    assert kinds(graph) == ["conv", "conv", "conv", "conv", "avg_pool", "reshape", "linear"]
    block = next(n for n in graph.nodes if len(n.inputs) == 2)
    assert block.source == "b"
    assert graph.values[block.inputs[1]].type == FixedPoint(8, 2)


def test_powers_of_two_leave_no_multiplier_behind() -> None:
    graph = lower(Residual(multiplier=False, project=False).eval(), sample=samples((2, 8, 8), seed=0))
    for node in graph.nodes:
        if "mult" in node.consts:
            mult = graph.const(node, "mult")
            assert ((mult & (mult - 1)) == 0).all()
    assert all("mult" not in n.consts for n in graph.nodes if n.source in ("stem", "a"))


def test_one_value_with_two_different_quantisers_stays_exact() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q0 = Quantize(8, 3)
            self.conv = Layer(2, 3, (1, 1), seed=1, frac_in=3, frac=4)
            self.qa, self.qb = Quantize(4, 0), Quantize(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(self.q0(x))
            return torch.cat([self.qa(y), self.qb(y).relu()], 1)

    model, x = Forked().eval(), samples((2, 3, 3), seed=0)
    graph = lower(model, sample=x)
    assert_equal(graph, model, x)
    assert str(graph.values[graph.outputs[0]].type) == "s8.2"


def test_an_input_with_two_quantisers_stays_float() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.bitshift.quantize(x, 8, 3, True, "half_up") + torch.ops.bitshift.quantize(
                x, 4, 1, True, "floor"
            )

    model, x = Two().eval(), samples((7,), seed=0)
    graph = lower(model, sample=x)
    assert str(graph.values["x"].type) == "f32"
    assert_equal(graph, model, x)


def test_a_quantiser_moves_over_reshape_slice_and_padding_to_the_input() -> None:
    class Moves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.pad(x.view(-1, 3, 4)[:, 1:, ::2].transpose(1, 2), (1, 0), value=0.3)
            return torch.ops.bitshift.quantize(x, 5, 2, True, "half_up")

    model, x = Moves().eval(), samples((12,), seed=0)
    graph = lower(model, sample=x)
    assert graph.values["x"].type == FixedPoint(5, 2)
    assert_equal(graph, model, x)


def test_a_bound_that_is_no_grid_point_is_exact() -> None:
    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q0 = Quantize(8, 3)
            self.half_up, self.floor = Quantize(6, 1), Quantize(6, 1, True, "floor")
            self.fc = nn.ModuleList(Layer(4, 5, seed=i, frac_in=3, frac=7, wide=i % 2 == 0) for i in range(8))

        def forward(self, x: Tensor) -> list[Tensor]:
            results, x = [], self.q0(x)
            for i, hi in enumerate((6.0, 0.1, 2.3, 100.0)):
                results.append(self.half_up(torch.clamp(self.fc[i](x), -1.7, hi)))
                results.append(self.floor(torch.clamp(self.fc[i + 4](x), -1.7, hi)))
            return results

    model, x = Bounded().eval(), samples((4,), seed=0, rows=50)
    literal = literal_graph(model, (x,))
    assert_equal(literal, model, x)
    graph = optimise(literal)
    assert kinds(graph) == ["linear"] * 8
    assert_equal(graph, model, x)


def test_three_way_sums_and_sums_of_quantised_values() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q0, self.q1, self.q2 = Quantize(8, 3), Quantize(4, 1), Quantize(6, 2)
            self.a = Layer(4, 4, seed=1, frac_in=3, frac=5)
            self.b = Layer(4, 4, seed=2, frac_in=3, frac=4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.q0(x)
            y = self.q1(self.a(x) + self.b(x) + x)
            return self.q2((y + x).relu())

    model, x = Sums().eval(), samples((4,), seed=0, rows=40)
    literal = literal_graph(model, (x,))
    assert_equal(literal, model, x)
    graph = optimise(literal)
    assert_equal(graph, model, x)
    last = graph.nodes[-1]
    assert last.op == "add"
    assert last.attrs["clamp"] == (0, 31)


def test_numbers_of_the_reference_are_not_touched_by_a_second_run() -> None:
    model, x = Straight(multiplier=True).eval(), samples((3, 9, 8), seed=0)
    graph = lower(model, sample=x)
    assert all(np.array_equal(a, b) for a, b in zip(run(graph, x), run(graph, x), strict=True))


class RoundedSum(nn.Module):
    """Adds one to an exact value of 27 bits in float32, where it becomes the tie that it lies just under."""

    def __init__(self) -> None:
        super().__init__()
        self.q0, self.q1 = Quantize(8, 0), Quantize(8, 0)
        self.register_buffer("codes", torch.zeros(2, 3, dtype=torch.uint8))  # pot2: two channels of zeros
        self.register_buffer("ones", torch.ones(2, dtype=torch.int32))
        self.register_buffer("offset", torch.tensor([(1 << 25) - 1, 1 << 25]))

    def forward(self, x: Tensor) -> Tensor:
        layer = (self.codes, self.ones, self.offset, self.ones * 26, "pot2", 0, True)
        return self.q1(torch.ops.bitshift.linear(self.q0(x), *layer).float() + 1.0)


def test_a_cast_of_an_exact_value_rounds_as_torch_does() -> None:
    x = torch.zeros(2, 3)
    model = RoundedSum().eval()
    assert model(x)[0].tolist() == [2.0, 2.0]
    assert_equal(lower(model, sample=x), model, x)
