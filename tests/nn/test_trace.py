"""Models that torch.fx cannot follow, and what the tracer says of each kind of node."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitshift.nn import ActQuant, ConvertError, ShiftConfig, convert
from bitshift.nn.layers.pool import AvgPool, SplitAvgPool
from bitshift.nn.trace import Flow, function_of, trace


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.fc(x)
        return x


def test_an_untraceable_model_names_the_line_and_offers_weight_only_conversion():
    with pytest.raises(ConvertError, match=r"test_trace\.py:\d+: if x\.sum\(\) > 0:.*activations=None"):
        convert(Branch(), ShiftConfig(activations=8))
    result, _ = convert(Branch(), ShiftConfig())
    assert result(torch.ones(2, 4)).shape == (2, 4)


def kinds(function, *modules: nn.Module) -> dict[str, str]:
    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = nn.ModuleList(modules)

        def forward(self, x: Tensor) -> Tensor:
            return function(self.m, x)

    traced = trace(Probe())
    flow = Flow(traced)
    return {n.name: flow.kind(n) for n in traced.graph.nodes if n.op not in ("placeholder", "output")}


@pytest.mark.parametrize(
    ("function", "want"),
    [
        (lambda m, x: F.relu(x), "relu"),
        (lambda m, x: x.relu_(), "relu"),
        (lambda m, x: torch.clamp(x, 0, 6), "relu"),
        (lambda m, x: torch.clamp(x, 0, 0.3), "other"),
        (lambda m, x: F.hardtanh(x, -1.0, 1.0), "relu"),
        (lambda m, x: F.max_pool2d(x, 2), "shape"),
        (lambda m, x: x.flatten(1), "shape"),
        (lambda m, x: x[:, ::2], "shape"),
        (lambda m, x: F.pad(x, (1, 1)), "shape"),
        (lambda m, x: F.pad(x, (1, 1), value=0.5), "other"),
        (lambda m, x: F.pad(x, (1, 1), mode="reflect"), "shape"),
        (lambda m, x: x + x, "add"),
        (lambda m, x: x.add(x), "add"),
        (lambda m, x: torch.add(x, x, alpha=2), "other"),
        (lambda m, x: x + 1, "other"),
        (lambda m, x: x * x, "other"),
        (lambda m, x: torch.cat([x, x]), "cat"),
        (lambda m, x: F.avg_pool2d(x, 2), "avg_pool"),
        (lambda m, x: x.mean((2, 3)), "avg_pool"),
        (lambda m, x: F.dropout(x), "dropout"),
        (lambda m, x: F.gelu(x), "fn"),
        (lambda m, x: torch.tanh(x), "fn"),
        (lambda m, x: x.sigmoid(), "fn"),
        (lambda m, x: x.size(0), "number"),
    ],
)
def test_calls_are_known_by_what_they_do(function, want):
    assert list(kinds(function).values())[-1] == want


@pytest.mark.parametrize(
    ("module", "want"),
    [
        (nn.Conv2d(1, 1, 1), "layer"), (nn.Linear(1, 1), "layer"), (nn.BatchNorm2d(1), "norm"), (nn.ReLU6(), "relu"),
        (nn.Hardtanh(-0.3, 0.3), "other"), (nn.Flatten(), "shape"), (nn.MaxPool2d(2), "shape"),
        (nn.Identity(), "shape"),
        (nn.Dropout(), "dropout"), (nn.AdaptiveAvgPool2d(1), "avg_pool"), (nn.GELU(), "fn"), (nn.LayerNorm(1), "other"),
        (nn.ConvTranspose2d(1, 1, 1), "layer"), (ActQuant(8, signed=True), "quant"),
    ],
)  # fmt: skip
def test_modules_are_known_by_what_they_do(module, want):
    assert list(kinds(lambda m, x: m[0](x), module).values()) == [want]


def pools(function, shape: tuple[int, ...] | None = (2, 4, 6, 8)) -> list[AvgPool]:
    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return function(self.conv(x))

    sample = None if shape is None else torch.zeros(shape)
    result, _ = convert(Probe(), ShiftConfig(activations=8), sample=sample)
    return [m for m in result.modules() if isinstance(m, AvgPool)]


@pytest.mark.parametrize(
    ("function", "kernel", "stride"),
    [
        (lambda x: F.avg_pool2d(x, 2), [2, 2], [2, 2]),
        (lambda x: F.avg_pool2d(x, (3, 2), 1, padding=1), [3, 2], [1, 1]),
        (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), [2, 4], [2, 4]),
        (lambda x: F.adaptive_avg_pool2d(x, 1), None, None),
        (lambda x: x.mean((2, 3)), None, None),
        (lambda x: x.mean([-1, -2], keepdim=True), None, None),
    ],
)
def test_averages_become_pools(function, kernel, stride):
    (pool,) = pools(function)
    assert pool.kernel == kernel
    assert pool.stride == stride


@pytest.mark.parametrize("function", [lambda x: x.mean(1), lambda x: x.mean()])
def test_other_averages_stay_in_float(function):
    assert not pools(function)


@pytest.mark.parametrize("sample", [True, False])
def test_pools_with_uneven_windows_are_split_with_and_without_a_sample(sample):
    for function in (
        lambda x: F.avg_pool2d(x, 2, ceil_mode=True),
        lambda x: F.avg_pool2d(x, 2, padding=1, count_include_pad=False),
        lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    ):
        (pool,) = pools(function, (2, 4, 6, 8)) if sample else pools(function, None)
        assert isinstance(pool, SplitAvgPool)


def test_even_windows_of_an_adaptive_pool_are_known_from_a_sample():
    function = lambda x: F.adaptive_avg_pool2d(x, (3, 2))  # noqa: E731
    assert isinstance(pools(function, None)[0], SplitAvgPool)
    assert pools(function, (2, 4, 6, 8))[0].kernel == [2, 4]
    assert len(pools(lambda x: F.adaptive_avg_pool2d(x, 1), None)) == 1


class Optional(nn.Module):
    """Arguments that may be left out, with branches on them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False, *, scale: float = 2.0) -> Tensor:
        y = self.fc(x)
        if mask is not None:
            y = y + mask
        return -y if causal else y * scale


def test_arguments_that_the_sample_leaves_out_keep_their_defaults():
    x = torch.ones(2, 3)
    model = Optional()
    for sample in (None, x, (x,)):
        traced = trace(model, sample)
        assert [n.name for n in traced.graph.nodes if n.op == "placeholder"] == ["x"]
        assert torch.equal(traced(x), model(x))
    traced = trace(model, (x, x))
    assert [n.name for n in traced.graph.nodes if n.op == "placeholder"] == ["x", "mask"]
    assert torch.equal(traced(x, x), model(x, x))


def test_an_argument_whose_name_begins_like_one_that_is_left_out_stays():
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask_of_x: Tensor, mask_unused: Tensor, mask: Tensor | None = None) -> Tensor:
            return x * (mask_of_x == 0) if mask is None else x * mask

    x, model = torch.arange(3.0), Masked()
    traced = trace(model, (x, x, x))
    assert torch.equal(traced(x, x - 1, x), model(x, x - 1, x))


class StochasticDepth(nn.Module):
    """As torchvision has it: a branch on the training flag, in a function that torch.fx does not follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x if not self.training else x * torch.empty(len(x), 1, 1, 1).bernoulli_(0.5)


class DropPath(nn.Module):
    """Named as timm's, but it scales in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def test_dropped_paths_stay_modules_so_that_training_drops_them_again():
    class Branch(nn.Module):
        def __init__(self, drop: nn.Module) -> None:
            super().__init__()
            self.a, self.b, self.drop = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), drop

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return x + self.drop(self.b(x))

    x = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    result, report = convert(Branch(StochasticDepth()), ShiftConfig(activations=8), sample=x)
    assert not report.stayed
    result.train()(x)
    torch.manual_seed(0)
    assert not torch.equal(result.train()(x), result.train()(x))
    assert torch.equal(result.eval()(x), result.eval()(x))
    _, report = convert(Branch(DropPath()), ShiftConfig(activations=8), sample=x)
    assert [r.was for r in report.stayed] == ["mul"]


class Softplus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x, 2, 5)


def test_options_given_by_position_are_kept():
    (node,) = (n for n in trace(Softplus()).graph.nodes if n.op == "call_function")
    assert function_of(node, None) == ("softplus", {"beta": 2, "threshold": 5})
