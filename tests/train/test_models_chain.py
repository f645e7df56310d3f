"""Every reference model as an integer network: training's evaluation = frozen = reference = engine, bit for bit.

Quick: the same classes with few, narrow stages. Slow: the models as they are, at the size they are meant for.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from bitshift.backends import engine, get_backend
from bitshift.core.cost import count
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph
from bitshift.lower import lower
from bitshift.nn import ShiftConfig, convert, freeze
from bitshift.nn.activations import calibrate
from bitshift.train.models import MODELS
from bitshift.train.models.alexnet import AlexNet
from bitshift.train.models.densenet import DenseNet
from bitshift.train.models.googlenet import BasicConv2d, GoogLeNet, Inception
from bitshift.train.models.mobilenet import CifarInvertedResidual, MobileNetV2
from bitshift.train.models.resnet import Bottleneck, ResNet
from bitshift.train.models.resnet_cifar import CifarResNet
from bitshift.train.models.vgg import VGG


def tail(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, 5)]


def inception() -> nn.Module:
    stem = [BasicConv2d(3, 8, 7, stride=2, padding=3), nn.MaxPool2d(3, stride=2, ceil_mode=True)]
    return nn.Sequential(*stem, Inception(8, 4, (4, 6), (2, 3), 3), nn.MaxPool2d(2, 2, ceil_mode=True), *tail(16))


def cifar_mobile() -> nn.Module:
    return nn.Sequential(CifarInvertedResidual(3, 8, 1, 1), CifarInvertedResidual(8, 8, 1, 2), *tail(8))


SMALL = {
    "resnet, bottlenecks": (partial(ResNet, Bottleneck, (1, 1, 1, 1), num_classes=5), 32),
    "cifar resnet, option B": (partial(CifarResNet, 1, widths=(8, 12), option="B", num_classes=5), 8),
    "vgg, 7x7 made of 4x4": (partial(VGG, ((1, 8), (1, 8)), hidden=6, num_classes=5), 16),
    "vgg with norms": (partial(VGG, ((2, 8), (1, 8)), norm=True, hidden=6, num_classes=5), 28),
    "alexnet, narrow": (partial(AlexNet, hidden=6, num_classes=5), 63),
    "inception": (inception, 30),
    "mobilenet_v2, short": (partial(MobileNetV2, blocks=((1, 8, 1, 1), (2, 8, 2, 1)), num_classes=5), 16),
    "cifar mobilenet": (cifar_mobile, 6),
    "densenet": (partial(DenseNet, (2, 1, 1, 1), growth=4, stem=8, num_classes=5), 32),
}


def trained(model: nn.Module) -> nn.Module:
    """The model with the norms of a trained one: gains of both signs, statistics."""
    generator = torch.Generator().manual_seed(1)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data.uniform_(0.5, 1.5, generator=generator)
            m.weight.data[::5] *= -1
            m.bias.data.normal_(0, 0.3, generator=generator)
            m.running_mean.normal_(0, 0.3, generator=generator)
            m.running_var.uniform_(0.5, 2, generator=generator)
    return model


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A model of SMALL or of MODELS, and a batch of inputs of its size."""
    torch.manual_seed(0)
    if name in SMALL:
        factory, size = SMALL[name]
        return trained(factory()), torch.randn(3, 3, size, size)
    entry = MODELS[name]
    channels = 1 if entry.input_size in ((28, 28), (49, 10)) else 3
    narrow = {"hidden": 64} if name.startswith(("vgg", "alexnet")) else {}  # 4096 hidden units are 100 M weights more
    model = entry.make(num_classes=10, in_channels=channels, **narrow)
    flat = any(isinstance(m, nn.BatchNorm1d) for m in model.modules())  # its batch statistics need two rows
    return trained(model), torch.randn(1 + flat, channels, *entry.input_size)


def run_both(graph: Graph, q: np.ndarray) -> np.ndarray:
    """The output of the reference, which the engine's equals where there is an engine."""
    (source,), (target,) = graph.inputs, graph.outputs
    want = get_backend("reference").compile(graph).run_int({source: q})[target]
    if engine.available() is None:
        got = get_backend("engine").compile(graph).run_int({source: q})[target]
        if want.dtype == np.float32:
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * float(np.abs(want).max()))
        else:
            np.testing.assert_array_equal(got, want)
    return want


CONFIGS = {
    "scratch": {"activations": 8},
    "rounded": {"activations": 8, "method": "nearest", "init": "pretrained"},
    "multiplier": {"activations": 7, "init": "pretrained", "multiplier": True},
}
# The deeper ones are the same classes with more of the same blocks.
DEEPER = {"resnet101", "resnet152", "vgg11", "vgg13", "vgg19", "vgg11_bn", "vgg13_bn", "vgg19_bn", "resnet34"}
DEEPER |= {"densenet161", "densenet169", "densenet201", "resnet32", "resnet44", "resnet56"}
WHOLE = [name for name in MODELS if name not in DEEPER]
slow = partial(pytest.param, marks=pytest.mark.slow)
CASES = [
    *((name, config) for name in SMALL for config in ("rounded", "multiplier") if not name.startswith("cifar")),
    ("cifar resnet, option B", "rounded"),
    ("cifar mobilenet", "multiplier"),
    *(slow(name, "scratch") for name in SMALL),
    *(slow(name, config) for name in WHOLE for config in ("rounded", "multiplier")),
]
FLOAT = ("densenet", "inception", "mobilenet_v2, short", "vgg, 7x7 made of 4x4")


@pytest.mark.parametrize(("name", "config"), CASES)
def test_a_model_gives_one_set_of_integers_everywhere(name, config):
    model, x = make(name)
    settings = ShiftConfig(**CONFIGS[config])
    net, report = convert(model, settings, sample=x, generator=torch.Generator().manual_seed(2))
    assert not report.stayed
    calibrate(net, [x])
    net.eval()
    frozen = freeze(net, x)
    graph = lower(frozen)
    (source,), (target,) = graph.inputs, graph.outputs
    kind, out = graph.values[source].type, graph.values[target].type
    assert isinstance(kind, FixedPoint)
    assert isinstance(out, FixedPoint)
    x = x * 1.5  # other values than the proofs of freeze and lower saw, some of them saturate
    with torch.no_grad():
        want = net(x)
        assert torch.equal(frozen(x), want)
    q = np.clip(np.floor(x.double().numpy() * 2.0**kind.frac + 0.5), kind.lo, kind.hi).astype(kind.dtype)
    got = run_both(graph, q)
    np.testing.assert_array_equal(got * 2.0**-out.frac, want.numpy())
    assert len(np.unique(got)) > 3  # no dead network, for which all backends agree on nothing
    assert settings.multiplier or count(graph).multiplication_free


@pytest.mark.parametrize("name", [*FLOAT, *(slow(name) for name in WHOLE)])
def test_a_model_with_float_activations_is_lowered_too(name):
    model, x = make(name)
    net, report = convert(model, ShiftConfig(method="nearest", init="pretrained"), sample=x)
    assert {row.note for row in report.stayed} <= {"norm in float"}
    net.eval()
    graph = lower(freeze(net, x))
    with torch.no_grad():
        want = net(x).numpy()
    np.testing.assert_allclose(run_both(graph, x.numpy()), want, rtol=1e-3, atol=1e-4 * float(np.abs(want).max()))


def test_googlenets_own_change_of_its_input_is_the_only_float_part():
    class Stem(nn.Module):
        transformed = GoogLeNet._transformed

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(self.transformed(x))

    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6)
    net, _ = convert(Stem(), ShiftConfig(activations=8, method="nearest", init="pretrained"), sample=x)
    calibrate(net, [x])
    graph = lower(freeze(net.eval(), x))
    kinds = {n.op: graph.values[n.output].type for n in graph.nodes}
    assert kinds.keys() == {"slice", "affine", "quantize", "concat", "conv"}
    assert {op for op, kind in kinds.items() if not isinstance(kind, FixedPoint)} == {"slice", "affine"}
