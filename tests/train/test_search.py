"""The search for a format per layer: the choice against every combination, the scan against by-hand rounding."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitshift.core.formats import get_format
from bitshift.nn.config import ShiftConfig
from bitshift.nn.method import get_method
from bitshift.train.data import ArrayData
from bitshift.train.search import choose, layer_latencies, scan


def tables(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    items, options = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    numbers = st.integers(0, 1000)
    damage, cost = (np.array(draw(st.lists(numbers, min_size=items * options, max_size=items * options))).reshape(
        items, options) for _ in range(2))  # fmt: skip
    return damage / 1000, cost.astype(float), draw(st.integers(0, 5000))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.composite(tables)())
def test_no_combination_within_the_budget_does_less_damage(case):
    damage, cost, budget = case
    items = np.arange(len(cost))
    fitting = [
        float(damage[items, list(picked)].sum())
        for picked in itertools.product(range(cost.shape[1]), repeat=len(cost))
        if cost[items, list(picked)].sum() <= budget
    ]
    if not fitting:
        with pytest.raises(ValueError, match="below"):
            choose(damage, cost, budget)
        return
    found = choose(damage, cost, budget)
    assert found.cost <= budget + 1e-6
    assert found.cost == pytest.approx(cost[items, list(found.picked)].sum())
    assert found.damage == pytest.approx(damage[items, list(found.picked)].sum())
    # whole costs up to 5,000 are whole numbers of the 20,000 steps but for a rounding below one step an item
    assert found.damage <= min(fitting) + 1e-9 or budget - found.cost < 1


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="equal"):
        choose(np.zeros((2, 3)), np.zeros((3, 2)), 1)
    with pytest.raises(ValueError, match="finite"):
        choose(np.full((1, 1), np.nan), np.zeros((1, 1)), 1)
    with pytest.raises(ValueError, match="not negative"):
        choose(np.zeros((1, 1)), -np.ones((1, 1)), 1)
    for budget in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"the budget is {budget}; allowed: a finite number"):
            choose(np.zeros((1, 1)), np.zeros((1, 1)), budget)


def test_a_budget_a_hair_above_the_least_is_the_least():
    cost = np.array([[2.0, 500.0], [4.0, 500.0]])
    for budget in (6.0, float(np.nextafter(6.0, 7.0))):
        assert choose(np.array([[1.0, 0.0], [1.0, 0.0]]), cost, budget).picked == (0, 0)


class Net(nn.Module):
    """Two convolutions with norms, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def trained_net() -> Net:
    torch.manual_seed(0)
    net = Net().train()
    data = digits()
    for norm in (net.norm1, net.norm2):
        norm.momentum = None
    net(data.normalise(data.batch(np.arange(64))[0]))
    return net.eval()


def digits(count: int = 64) -> ArrayData:
    rng = np.random.default_rng(0)
    return ArrayData(
        images=rng.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8),
        labels=rng.integers(0, 4, count),
        class_names=("a", "b", "c", "d"),
    )


def test_the_scan_rounds_one_layer_at_a_time_and_leaves_the_network_alone():
    net, data = trained_net(), digits()
    before = copy.deepcopy(net.state_dict())
    found = scan(net, data, ("pot2d", "pot4x2"), rows=64, batch_size=64)
    assert [layer.path for layer in found.layers] == ["conv1", "conv2", "fc"]
    assert [layer.weights for layer in found.layers] == [72, 576, 32]
    assert found.bits().tolist() == [[2 * n, 4 * n] for n in (72, 576, 32)]
    assert (found.damage > 0).all()
    assert (found.damage[:, 1] < found.damage[:, 0]).all(), "four bits round closer than two"
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())
    with torch.no_grad():  # the last layer has no norm behind it: its damage by hand
        x = data.normalise(data.batch(np.arange(64))[0])
        wanted = F.log_softmax(net(x), 1)
        rounded = get_method("nearest").from_float(net.fc.weight.detach(), "pot2d", scale="pot")
        net.fc.weight.copy_(rounded.weight())
        by_hand = F.kl_div(F.log_softmax(net(x), 1), wanted, reduction="batchmean", log_target=True)
    assert found.damage[2, 0] == pytest.approx(float(by_hand), rel=1e-4)


def test_excluded_layers_and_bad_formats():
    net, data = trained_net(), digits()
    found = scan(net, data, ("pot3d",), rows=16, exclude=lambda path: path != "conv2")
    assert [layer.path for layer in found.layers] == ["conv2"]
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        scan(net, data, ("pot3d",), rows=16, exclude=lambda path: True)
    with pytest.raises(ValueError, match="name each once"):
        scan(net, data, ("pot3d", "pot3d"), rows=16)
    with pytest.raises(ValueError, match="pot3e"):
        scan(net, data, ("pot3e",), rows=16)


def test_layers_with_one_weight_are_one_layer_and_are_rounded_together():
    net, data = trained_net(), digits()
    net.conv2 = nn.Conv2d(8, 8, 3, stride=2, bias=False)
    net.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    net.conv1.weight = net.conv2.weight
    colours = ArrayData(images=data.images.repeat(8, axis=1), labels=data.labels, class_names=data.class_names)
    seen = []
    found = scan(net, colours, ("pot2d",), rows=64, accept=seen.append)
    assert seen == [found.layers]
    assert [(layer.paths, layer.weights) for layer in found.layers] == [(("conv1", "conv2"), 576), (("fc",), 32)]
    assert found.bits().tolist() == [[2 * 576], [2 * 32]]
    left = scan(net, colours, ("pot2d",), rows=64, exclude=lambda path: path == "conv2")
    assert [layer.path for layer in left.layers] == ["fc"]


def test_latencies_come_from_the_engine_layer_by_layer():
    net, data = trained_net(), digits()
    config = ShiftConfig(method="nearest", init="pretrained", activations=8)
    images = data.normalise(data.batch(np.arange(16))[0])
    times, others = layer_latencies(net, config, ("pot2d", "pot3d"), ("conv1", "conv2", "fc"), images, repeats=2)
    assert times.shape == (3, 2)
    assert (times > 0).all()
    assert others >= 0
    assert get_format("pot2d").bits == 2
    with pytest.raises(ValueError, match="activations"):
        layer_latencies(net, ShiftConfig(method="nearest", init="pretrained"), ("pot2d",), ("fc",), images)
