"""Average pools whose windows differ: torch's windows, its averages, and the same integers everywhere."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitshift.core.cost import count
from bitshift.core.fixed import FixedPoint
from bitshift.core.reference import execute
from bitshift.lower import lower
from bitshift.nn import ShiftConfig, convert, freeze
from bitshift.nn.activations import calibrate
from bitshift.nn.layers.pool import SplitAvgPool
from bitshift.nn.layers.runs import Run, adaptive_windows, pool_windows, runs

ADAPTIVE = [(7, 6), (1, 7), (2, 7), (5, 3), (13, 6), (4, 4), (10, 4), (3, 8)]
WINDOWED = [
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel_size": 2, "stride": 2, "ceil_mode": True},
    {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False},
    {"kernel_size": 5, "stride": 3, "padding": 2, "ceil_mode": True, "count_include_pad": False},
    {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True, "count_include_pad": True},
]


def test_neighbouring_windows_make_runs():
    assert runs(adaptive_windows(7, 6)) == [Run(0, 2, 1, 6, 2)]
    assert runs(adaptive_windows(1, 7)) == [Run(0, 1, 1, 1, 1, 7)]
    assert runs(adaptive_windows(2, 7)) == [Run(0, 1, 1, 1, 1, 3), Run(0, 2, 1, 1, 2), Run(1, 1, 1, 1, 1, 3)]
    edges = pool_windows(6, 3, 1, 1, ceil_mode=False, count_padding=False)
    assert runs(edges) == [Run(0, 2, 1, 1, 2), Run(0, 3, 1, 4, 3), Run(4, 2, 1, 1, 2)]
    assert runs(edges)[1].stop == 6


@pytest.mark.parametrize(("size", "out"), ADAPTIVE)
def test_adaptive_windows_are_torchs(size, out):
    x = torch.randn(2, 3, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = torch.stack([x[..., a:b].sum(-1) / n for a, b, n in adaptive_windows(size, out)], -1)
    torch.testing.assert_close(got, F.adaptive_avg_pool1d(x, out))


@pytest.mark.parametrize("settings", WINDOWED)
def test_pool_windows_are_torchs(settings):
    for size in range(settings["kernel_size"], 14):
        x = torch.randn(2, 3, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
        kernel, stride, padding = settings["kernel_size"], settings["stride"], settings.get("padding", 0)
        flags = settings.get("ceil_mode", False), settings.get("count_include_pad", True)
        windows = pool_windows(size, kernel, stride, padding, ceil_mode=flags[0], count_padding=flags[1])
        got = torch.stack([x[..., a:b].sum(-1) / n for a, b, n in windows], -1)
        torch.testing.assert_close(got, F.avg_pool1d(x, kernel, stride, padding, *flags))


class Net(nn.Module):
    """A convolution, the pool, and a linear layer over all that is left."""

    def __init__(self, pool: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.pool = pool
        self.fc = nn.Linear(pool(torch.zeros(1, 4, *size)).numel(), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(F.relu(self.conv(x))).flatten(1))


POOLS = {
    "adaptive down": (lambda: nn.AdaptiveAvgPool2d((3, 4)), (7, 9)),
    "adaptive up": (lambda: nn.AdaptiveAvgPool2d(7), (2, 3)),
    "one axis kept": (lambda: nn.AdaptiveAvgPool2d((None, 3)), (4, 7)),
    "ceil": (lambda: nn.AvgPool2d(3, 2, ceil_mode=True), (6, 7)),
    "padding that does not count": (lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False), (5, 6)),
    "all at once": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False, divisor_override=7), (6, 6)),
}


@pytest.mark.parametrize("multiplier", [False, True])
@pytest.mark.parametrize("name", POOLS)
def test_a_split_pool_gives_one_set_of_integers_everywhere(name, multiplier):
    make, size = POOLS[name]
    torch.manual_seed(0)
    model = Net(make(), size)
    x = torch.randn(3, 2, *size)
    config = ShiftConfig(method="nearest", activations=8, multiplier=multiplier, init="pretrained")
    net, report = convert(model, config, sample=x)
    assert isinstance(net.pool, SplitAvgPool)
    assert report.row("pool").became == "AvgPool"
    calibrate(net, [x])
    y = torch.rand(3, 4, *size) * 4
    with torch.no_grad():
        trained = net.pool.train()(y)
        torch.testing.assert_close(trained, net.pool.eval()(y).float())  # both have the same divisors
        if multiplier:  # 16-bit divisors are torch's to one part in 2**15
            torch.testing.assert_close(trained, model.pool(y), rtol=2.0**-14, atol=0)
    net.eval()
    frozen = freeze(net, x)
    graph = lower(frozen)
    (source,), (target,) = graph.inputs, graph.outputs
    kind, out = graph.values[source].type, graph.values[target].type
    assert isinstance(kind, FixedPoint)
    assert isinstance(out, FixedPoint)
    q = np.clip(np.floor(x.double().numpy() * 2.0**kind.frac + 0.5), kind.lo, kind.hi).astype(kind.dtype)
    with torch.no_grad():
        np.testing.assert_array_equal(execute(graph, {source: q})[target] * 2.0**-out.frac, net(x).numpy())
    assert multiplier or count(graph).multiplication_free
    assert copy.deepcopy(net).pool(y).shape == model.pool(y).shape


def test_gradients_go_through_the_parts():
    pool = SplitAvgPool(lambda _, n: adaptive_windows(n, 3), axes=2, power_of_two=False, about="adaptive to 3").train()
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pool(x).square().sum().backward()
    got, x.grad = x.grad, None
    F.adaptive_avg_pool2d(x, 3).square().sum().backward()
    torch.testing.assert_close(got, x.grad, rtol=1e-3, atol=1e-4)
