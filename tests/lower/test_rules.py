"""What each torch op becomes: equal to torch, exactly for moves and limits, within a few units of float32 elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph
from bitshift.core.reference import run_checked
from bitshift.lower import LoweringError, lower
from bitshift.lower.literal import literal_graph
from bitshift.lower.passes import optimise
from bitshift.nn import ShiftConfig, convert, freeze
from bitshift.nn.activations import calibrate
from lower_models import Quantize, assert_equal, real, run, samples


class Many(nn.Module):
    """One output for each function of the input."""

    def __init__(self, functions: dict[str, Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> list[Tensor]:
        return [f(x) for f in self.functions.values()]


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu in place": lambda x: F.relu_(x.clone()),
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 1.7),
    "clamp": lambda x: x.clamp(min=-0.5),
    "clamp max": lambda x: x.clamp_max(0.25),
    "clamp nothing": lambda x: x.clamp(-float("inf"), float("inf")),
    "view": lambda x: x.view(x.shape[0], -1),
    "flatten": lambda x: x.flatten(2),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "unsqueeze": lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1),
    "permute": lambda x: x.permute(0, 3, 1, 2),
    "transpose": lambda x: x.transpose(-1, 1).contiguous(),
    "channel shuffle": lambda x: x.view(-1, 2, 2, 5, 6).transpose(1, 2).reshape(-1, 4, 5, 6),
    "slice": lambda x: x[:, 1:, ::2, -4:-1],
    "select": lambda x: x[:, -1],
    "split": lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1),
    "chunk": lambda x: x.chunk(3, dim=2)[2],
    "unbind": lambda x: x.unbind(1)[2],
    "stack": lambda x: torch.stack([x, x.relu()], 2),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1, 3, 0), value=-0.5),
    "crop": lambda x: F.pad(x, (-1, 2, 0, -2)),
    "expand to itself": lambda x: x.expand(-1, 4, -1, -1),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "double": lambda x: x.double().relu().float(),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max pool 3d": lambda x: F.max_pool3d(x.unsqueeze(1), (2, 3, 2), 1, (1, 1, 0)),
    "adaptive max pool 3d": lambda x: F.adaptive_max_pool3d(x.unsqueeze(1), (2, 2, 4)),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest, by size": lambda x: F.interpolate(x, size=(10, 18), mode="nearest"),
    "nearest, exact": lambda x: F.interpolate(x, scale_factor=(3, 1), mode="nearest-exact"),
    "nearest 1d": lambda x: F.interpolate(x.flatten(2), scale_factor=2),
    "nearest 3d": lambda x: F.interpolate(x.unsqueeze(1), scale_factor=(1, 2, 3)),
    "max pool, ceil": lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    "max pool, dilated": lambda x: F.max_pool2d(x, (2, 3), 1, (1, 0), (2, 1)),
    "max pool, indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "max pool 1d": lambda x: F.max_pool1d(x.flatten(2), 4, 3, 2, ceil_mode=True),
    "adaptive max pool": lambda x: F.adaptive_max_pool2d(x, (5, 2)),
    "adaptive max pool, uneven": lambda x: F.adaptive_max_pool2d(x, (3, 4)),
    "adaptive max pool, more than there is": lambda x: F.adaptive_max_pool1d(x.flatten(2), 47),
    "add": lambda x: x + x.relu(),
    "in place add": lambda x: x.clone().add_(x),
    "argmax": lambda x: x.argmax(1),
    "argmax, kept": lambda x: x.argmax(-1, keepdim=True),
    "minus one": lambda x: -x,
}


def test_moves_limits_and_sums_are_exact_on_floats() -> None:
    model, x = Many(MOVES).eval(), torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    graph = lower(model, sample=x)
    assert len(graph.outputs) == len(MOVES)
    assert_equal(graph, model, x)


def test_moves_limits_and_sums_are_exact_on_integers() -> None:
    moves = {k: f for k, f in MOVES.items() if k not in ("minus one", "pad")}
    moves["pad"] = lambda x: F.pad(x, (1, 2, 0, 1, 3, 0), value=-0.5)
    model = nn.Sequential(Quantize(6, 3), Many(moves)).eval()
    x = samples((4, 5, 6), seed=1)
    graph = lower(model, sample=x)
    assert graph.values[graph.inputs[0]].type == FixedPoint(6, 3)
    assert not any(isinstance(v.type, Float32) for v in graph.values.values())
    assert_equal(graph, model, x)


@pytest.mark.parametrize(
    ("length", "options"),
    [(2, {"scale_factor": 3.3}), (4, {"scale_factor": 1.2}), (10, {"scale_factor": 41}), (10, {"size": 410})],
)
def test_elements_that_torch_does_not_repeat_equally_often_are_refused(length: int, options: dict[str, Any]) -> None:
    x = torch.arange(float(length)).view(1, 1, length).repeat(3, 1, 1)
    y = F.interpolate(x, **options)
    times = y.shape[-1] // length
    assert y.shape[-1] == length * times
    assert not torch.equal(y, x.repeat_interleave(times, 2))
    with pytest.raises(LoweringError, match="repeat every element equally often"):
        lower(Many({"nearest": lambda x: F.interpolate(x, **options)}).eval(), sample=x)


WEIGHT = torch.randn(4, 3, 2, 3, generator=torch.Generator().manual_seed(4))
SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "leaky relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 1.5),
    "scale and shift": lambda x: x * 1.7 - 0.3,
    "reflected": lambda x: 1.0 - x,
    "scaled sum": lambda x: torch.add(torch.tensor(2.0), x, alpha=3),
    "per channel": lambda x: x * torch.tensor([1.0, 2.0, -3.0, 0.1]).view(4, 1, 1) + torch.ones(1, 4, 1, 1),
    "half": lambda x: x / 2,
    "avg pool": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg pool, divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "avg pool 1d": lambda x: F.avg_pool1d(x.flatten(2), 4, 2),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (1, 3)),
    "adaptive, uneven": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive, more than there is": lambda x: F.adaptive_avg_pool2d(x, (7, 9)),
    "avg pool, ceil": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "avg pool, ceil and override": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=5),
    "avg pool without the padding": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "avg pool 1d without the padding": lambda x: F.avg_pool1d(x.flatten(2), 4, 3, 2, True, False),
    "mean": lambda x: x.mean((2, 3)),
    "mean, kept": lambda x: x.mean((-1, -2), keepdim=True),
    "mean 1d": lambda x: x.flatten(2).mean(-1),
    "mean over channels": lambda x: x.mean(1),
    "mean over some axes, kept": lambda x: x.mean((1, 3), keepdim=True),
    "mean over all axes": lambda x: x.mean((1, 2, 3)),
    "difference as a sum": lambda x: x.relu() + (-x.tanh()),
    "conv same": lambda x: F.conv2d(x, torch.full((2, 4, 2, 3), 0.1), torch.tensor([1.0, 0.0]), padding="same"),
    "conv grouped": lambda x: F.conv2d(x, torch.full((4, 1, 3, 3), -0.3), None, 2, 1, 1, 4),
    "conv 1d": lambda x: F.conv1d(x.flatten(2), torch.full((3, 4, 2), 0.2), padding=1, dilation=3),
    "conv 3d": lambda x: F.conv3d(x.unsqueeze(1), torch.full((2, 1, 2, 3, 2), 0.2), torch.ones(2), 1, (1, 0, 1)),
    "transposed": lambda x: F.conv_transpose2d(x, torch.full((4, 2, 4, 3), 0.1), torch.ones(2), 2, 1, 1),
    "transposed, grouped": lambda x: F.conv_transpose2d(x, WEIGHT, None, (2, 3), (0, 2), 0, 2, (3, 1)),
    "transposed 1d": lambda x: F.conv_transpose1d(x.flatten(2), torch.full((4, 3, 2), 0.2), None, 3, 1, 2),
    "transposed 3d": lambda x: F.conv_transpose3d(x.unsqueeze(1), torch.full((1, 2, 2, 3, 2), 0.2), None, 2),
    "avg pool 3d": lambda x: F.avg_pool3d(x.unsqueeze(1), (2, 3, 2), (1, 2, 2), (0, 1, 1)),
    "adaptive 3d": lambda x: F.adaptive_avg_pool3d(x.unsqueeze(1), (2, 2, 4)),
    "mean 3d": lambda x: x.unsqueeze(1).mean((2, 3, 4)),
    "linear": lambda x: F.linear(x, torch.arange(12.0).view(2, 6), torch.tensor([0.5, -1.0])),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_float_arithmetic_is_within_a_few_units() -> None:
    model, x = Many(SMOOTH).eval(), torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(2))
    graph = lower(model, sample=x)
    with torch.no_grad():
        expected = [y.numpy() for y in model(x)]
    for name, got, want in zip(SMOOTH, run(graph, x), expected, strict=True):
        assert got.shape == want.shape, name
        # No sum here has more than 30 terms of a size near the result's: 32 units of the largest number cover it.
        assert np.abs(got - want).max() <= 32 * 2.0**-24 * max(1.0, np.abs(want).max()), name


def test_batch_norm_is_one_scale_and_shift_and_goes_into_a_float_layer() -> None:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)]
    for norm in norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 2)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), norms[0], nn.ReLU(), norms[1]).eval()
    x = torch.randn(2, 2, 6, 6)
    graph = lower(model, sample=x)
    assert [n.op for n in graph.nodes] == ["conv", "clamp", "affine"]
    with torch.no_grad():
        want = model(x).numpy()
    assert np.abs(run(graph, x)[0] - want).max() <= 32 * 2.0**-24 * np.abs(want).max()


CONSTANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "add": lambda x: x + 0.125,
    "add off the grid": lambda x: x + 0.4375,
    "subtract per channel": lambda x: x - torch.tensor([1.0, -0.5, 0.25]).view(3, 1, 1),
    "times a power of two": lambda x: x * 4,
    "times a dyadic number": lambda x: x * 0.375,
    "times per channel": lambda x: torch.tensor([1.0, 0.5, 3.0]).view(3, 1, 1) * x,
    "divided by a power of two": lambda x: x / 8,
    "mean of four": lambda x: F.avg_pool2d(x, 2),
    "mean over one axis": lambda x: x.mean(2),
}


def test_constants_on_integers_stay_integers() -> None:
    model = nn.Sequential(Quantize(7, 2), Many(CONSTANTS)).eval()
    x = samples((3, 4, 4), seed=3, reach=4.0)
    literal = literal_graph(model, (x,))
    assert_equal(literal, model, x)
    graph = optimise(literal)
    assert not any(isinstance(v.type, Float32) for v in graph.values.values())
    assert_equal(graph, model, x)


def test_arithmetic_that_is_not_exact_in_integers_is_done_in_float() -> None:
    class Third(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.bitshift.quantize(x * 0.1 - 3.0, 5, 2, True, "half_up")

    model, x = nn.Sequential(Quantize(16, 2), Third()).eval(), samples((9,), seed=4, reach=30.0)
    graph = lower(model, sample=x)
    assert [n.op for n in graph.nodes] == ["dequantize", "affine", "affine", "quantize"]
    assert_equal(graph, model, x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.ops.bitshift.quantize(x + (0.5 - 2.0**-25), 8, 0, True, "half_up"),
        lambda x: x + 0.1,
        lambda x: x.clamp(min=0.05) + 1,
        lambda x: torch.ops.bitshift.quantize(x + x.clamp(min=0) + (0.5 - 2.0**-25), 8, 0, True, "half_up"),
    ],
)
def test_a_sum_that_torch_rounds_is_done_in_float(function: Callable[[Tensor], Tensor]) -> None:
    model = nn.Sequential(Quantize(8, 5), Many({"sum": function})).eval()
    x = torch.arange(-40.0, 40.0).view(4, 20) / 8
    assert_equal(lower(model, sample=x), model, x)


def q(x: Tensor, bits: int = 8, frac: int = 5) -> Tensor:
    return torch.ops.bitshift.quantize(x, bits, frac, True, "half_up")


INTEGER: dict[str, Callable[[Tensor], Tensor]] = {
    "a mean": lambda x: q(F.adaptive_avg_pool2d(q(x), 1).flatten(1) + torch.tensor([0.5, 0.25, 1.0])),
    "a sum": lambda x: q(q(x) + q(x).relu() + 0.5),
    "a pool": lambda x: q(F.avg_pool2d(q(x), 2) + 0.5),
    "a sum that is limited": lambda x: q(F.relu6(q(x, 12, 8) + 3) - 3),
    "an index": lambda x: q(x).flatten(1).argmax(1).float(),
    "an index in few bits": lambda x: q(x).flatten(1).argmax(1).to(torch.uint8),
    "an index as a number": lambda x: q(q(x).flatten(1).argmax(1) * 0.5, 8, 0),
    "all of the batch": lambda x: q(x)[: x.shape[0]],
}


@pytest.mark.parametrize("name", INTEGER)
def test_what_float32_computes_exactly_for_the_range_of_a_value_stays_an_integer(name: str) -> None:
    model, x = Many({name: INTEGER[name]}).eval(), samples((3, 4, 4), seed=3)
    graph = lower(model, sample=x)
    assert not any(isinstance(v.type, Float32) for v in graph.values.values()), graph.pretty()
    assert_equal(graph, model, x)


def test_integers_behind_limits_stay_integers_in_float_arithmetic() -> None:
    ids = torch.tensor([[2**24 + 1, 3, -4, 255, 256]] * 2)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "scaled": lambda ids: q(ids.clamp(0, 255).float() / 256),
        "shifted": lambda ids: ids.clamp(0, 255) + 0.5,
        "few bits": lambda ids: ids.clamp(-128, 127).to(torch.int8),
    }
    model = Many(functions).eval()
    graph = lower(model, sample=ids)
    assert not any(isinstance(v.type, Float32) for v in graph.values.values()), graph.pretty()
    for got, wanted in zip(real(graph, run_checked(graph, {"x": ids.int().numpy()})), model(ids), strict=True):
        assert np.array_equal(got, wanted.double().numpy())


@pytest.mark.parametrize("bound", [{"min": 5.0}, {"max": -1.0}, {"min": 4.0, "max": 6.0}, {"min": -9.0, "max": -8.5}])
@pytest.mark.parametrize("rounded", [False, True])
def test_a_bound_outside_of_the_range_is_the_result(bound: dict[str, float], rounded: bool) -> None:
    def clamped(x: Tensor) -> Tensor:
        y = x.clamp(**bound)
        return torch.ops.bitshift.quantize(y, 7, 2, True, "half_up") if rounded else y

    model, x = nn.Sequential(Quantize(8, 6, signed=False), Many({"clamp": clamped})).eval(), samples((9,), seed=8)
    assert_equal(lower(model, sample=x), model, x)


IDS: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda ids: ids.float(),
    "times": lambda ids: ids * 0.5,
    "plus": lambda ids: ids + 0.5,
    "divided": lambda ids: ids / 2,
    "long": lambda ids: ids.int().long(),
    "plus an activation": lambda ids: ids.clamp(0, 2**25) + q(ids.clamp(0, 3).float(), 8, 0),
    "a sum": lambda ids: ids.clamp(0, 2**24 - 1).float() + ids.clamp(0, 1) * 0.5,
    "limited": lambda ids: ids.clamp(0.0, 2.0**25),
    "joined": lambda ids: torch.cat([ids.clamp(0, 2**25), ids.clamp(0, 1) * 0.5], 1),
    "stacked": lambda ids: torch.stack([ids.clamp(0, 2**25), ids.clamp(0, 1) * 0.5], 1),
}


@pytest.mark.parametrize("name", IDS)
def test_integers_over_24_bits_are_rounded_where_torch_rounds_them(name: str) -> None:
    model, ids = Many({name: IDS[name]}).eval(), torch.tensor([[2**24 + 1, -(2**24) - 3, 2**30 + 1, 7]] * 2)
    graph = lower(model, sample=ids)
    got = real(graph, run_checked(graph, {graph.inputs[0]: ids.int().numpy()}))
    assert np.array_equal(got[0], IDS[name](ids).double().numpy())


def test_a_sum_of_distant_grids_is_rounded_where_torch_rounds_it() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return q(q(x, 16, 0) + q(x / 2**13, 16, 15), 16, 2)

    x = torch.tensor([[1000.0, 1023.75, -999.9]] * 2)
    assert_equal(lower(Sum().eval(), sample=x), Sum(), x)


def test_what_wraps_around_in_few_bits_is_no_table_of_floats() -> None:
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "abs": lambda x: q(q(x, 8, 0).to(torch.int8).abs(), 16, 0),
        "square": lambda x: q(q(x, 8, 0).clamp(0, 127).to(torch.uint8).square(), 16, 0),
    }
    model, x = Many(functions).eval(), torch.tensor([[-128.0, 100.0, 3.0]] * 2)
    assert_equal(lower(model, sample=x), model, x)


class Tokens(nn.Module):
    """A table and a linear layer, called by ``function``."""

    def __init__(self, function: Callable[[Tokens, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.table, self.linear = function, nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.function(self, ids)


BEHIND_A_TABLE: dict[str, Callable[[Tokens, Tensor], Tensor]] = {
    "times": lambda net, ids: net.linear(net.table(ids) * 2.0),
    "plus": lambda net, ids: net.linear(net.table(ids) + 0.5),
    "mean": lambda net, ids: net.linear(net.table(ids).mean(1)) * 2.0,
    "cast": lambda net, ids: net.linear(net.table(ids).float()).relu() + 0.25,
    "index": lambda net, ids: net.linear(net.table(ids)).argmax(-1).float(),
}


@pytest.mark.parametrize("name", BEHIND_A_TABLE)
@pytest.mark.parametrize("activations", [None, 8])
def test_arithmetic_stands_behind_a_table(name: str, activations: int | None) -> None:
    model, ids = Tokens(BEHIND_A_TABLE[name]).eval(), torch.arange(20).view(4, 5) % 10
    config = ShiftConfig(method="uniform", bits=8, activations=activations, init="pretrained")
    model = freeze(calibrate(convert(model, config, sample=ids)[0], [ids]).eval(), ids)
    graph = lower(model, sample=ids)
    got = real(graph, run_checked(graph, {graph.inputs[0]: ids.int().numpy()}))
    with torch.no_grad():
        assert np.allclose(got[0], model(ids).numpy(), rtol=0, atol=2.0**-18)


def test_tokens_are_looked_up_and_averaged() -> None:
    """What the refusal of nn.EmbeddingBag advises."""

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 6)

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids).mean(1)

    model, ids = Bag().eval(), torch.arange(10).view(2, 5)
    graph = lower(model, sample=ids)
    got = real(graph, run_checked(graph, {graph.inputs[0]: ids.int().numpy()}))
    with torch.no_grad():
        assert np.allclose(got[0], model(ids).numpy(), rtol=0, atol=2.0**-20)


TABLES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hand-made hardswish": lambda x: x * F.relu6(x + 3) / 6,
    "mish": F.mish,
    "power": lambda x: (x.abs() + 1).pow(-1.5),
    "exp of a square": lambda x: torch.exp(-(x * x)) * 2 - 1,
    "softplus": lambda x: F.softplus(x, beta=2),
}


@pytest.mark.parametrize(("bits", "signed"), [(8, True), (3, False)])
def test_functions_of_a_small_value_become_one_table(bits: int, signed: bool) -> None:
    quantised = {k: lambda x, f=f: torch.ops.bitshift.quantize(f(x), 7, 5, True, "half_up") for k, f in TABLES.items()}
    model = nn.Sequential(Quantize(bits, 4 if bits == 8 else 0, signed), Many(quantised)).eval()
    x = samples((64,), seed=5, rows=8, reach=4.0)
    graph = lower(model, sample=x)
    assert [n.op for n in graph.nodes] == ["table"] * len(TABLES)
    assert_equal(graph, model, x)


def test_a_function_of_a_wide_value_is_computed_in_float() -> None:
    class Smooth(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.bitshift.quantize(F.leaky_relu(x, 0.25), 6, 2, True, "floor")

    model, x = nn.Sequential(Quantize(12, 5), Smooth()).eval(), samples((20,), seed=6, reach=20.0)
    graph = lower(model, sample=x)
    assert [n.op for n in graph.nodes] == ["dequantize", "unary", "quantize"]
    assert_equal(graph, model, x)


def test_a_table_of_the_frozen_model_is_taken_as_it_is() -> None:
    entries = torch.arange(16, dtype=torch.int32).flip(0) - 3

    class Tabled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.bitshift.table(x, entries, 1, True, 3)

    model, x = nn.Sequential(Quantize(4, 1), Tabled()).eval(), samples((20,), seed=7, reach=6.0)
    graph = lower(model, sample=x)
    assert [n.op for n in graph.nodes] == ["table"]
    assert str(graph.values[graph.outputs[0]].type) == "s5.3"
    assert_equal(graph, model, x)


def test_a_division_that_is_no_power_of_two_is_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    class Normalise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 0.5) / 0.3

    with caplog.at_level(logging.WARNING, logger="bitshift"):
        lower(Normalise().eval(), sample=torch.zeros(2, 3))
    assert "reciprocal" in caplog.text
    assert "multiply in the model" in caplog.text


def test_a_module_that_is_called_twice_shares_its_constants() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.fc(x)))

    graph: Graph = lower(Twice().eval(), sample=torch.zeros(2, 4))
    first, second = (n for n in graph.nodes if n.op == "linear")
    assert dict(first.consts) == dict(second.consts) == {"weight": "fc.weight", "bias": "fc.bias"}
    assert first.source == second.source == "fc"
