"""Gains of folded weights: rounding takes some, the first calibration gives it back."""

import copy

import pytest
import torch
from torch import Tensor, nn

import bitshift.nn.methods  # noqa: F401 - fills METHODS
from bitshift.nn.activations import calibrate
from bitshift.nn.config import ShiftConfig
from bitshift.nn.convert import convert
from bitshift.nn.gains import match_again, unmatched_layers
from bitshift.nn.layers import ShiftLayer
from bitshift.nn.method import METHODS, Method


def deep_net(depth: int = 6) -> nn.Sequential:
    """A plain chain of convolutions and norms whose statistics fit its weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(depth):
        conv, norm = nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        layers += [conv, norm, nn.ReLU()]
    net = nn.Sequential(*layers).train()
    for norm in net:
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    for seed in range(4):
        net(images(seed))
    return net.eval()


def images(seed: int, count: int = 32) -> Tensor:
    """A batch."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def shrinkage(net: nn.Module, shifted: nn.Module) -> float:
    """How much of the float network's deviation is left at the end."""
    with torch.no_grad():
        return float(shifted.eval()(images(9)).std() / net(images(9)).std())


def converted(net: nn.Module, method: str = "nearest", **options: object) -> nn.Module:
    config = ShiftConfig(method=method, activations=8, init="pretrained", **options)  # type: ignore[arg-type]
    return convert(net, config, sample=images(0)[:2])[0]


@pytest.mark.parametrize(
    ("method", "bits"), [("nearest", 3), ("nearest", 4), ("denseshift", 3), ("uniform", 3), ("s3", 3)]
)
def test_calibration_gives_folded_weights_their_gain_back(method, bits):
    net = deep_net()
    without = calibrate(converted(net, method, bits=bits), [images(1)], gains=False)
    matched = calibrate(converted(net, method, bits=bits), [images(1)])
    assert abs(shrinkage(net, matched) - 1) < 0.2
    assert abs(shrinkage(net, matched) - 1) < max(0.05, abs(shrinkage(net, without) - 1))


def test_gains_are_matched_once():
    shifted = converted(deep_net(), bits=3)
    assert len(unmatched_layers(shifted)) == 6
    calibrate(shifted, [images(1)])
    assert not unmatched_layers(shifted)
    before = copy.deepcopy(shifted.state_dict())
    calibrate(shifted, [images(2)], norms=False)
    for name, method in ((n, m.method) for n, m in shifted.named_modules() if isinstance(m, ShiftLayer)):
        for key, tensor in method.state_dict().items():
            assert torch.equal(tensor, before[f"{name}.method.{key}"])


def test_a_channel_far_off_comes_as_near_as_it_may():
    shifted = calibrate(converted(deep_net(1), bits=4), [images(1)])
    layer = layers(shifted)[0]
    before = layer.method.weight().detach().flatten(1).norm(dim=1)
    layer.norm.running_var.div_(400)
    match_again(shifted, [layer.method], images(1))
    after = layer.method.weight().detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(after, before / 4, rtol=0.1, atol=0)


def test_gains_are_those_of_the_float_network_on_the_very_images():
    net, others = deep_net(1), images(1) * 3  # not what its norm has seen
    shifted = calibrate(converted(net, bits=4), [others])
    with torch.no_grad():
        got = layers(shifted)[0]._convolve(others, layers(shifted)[0].weight)
        wanted = net[1](net[0](others))
    torch.testing.assert_close(got.std((0, 2, 3)), wanted.std((0, 2, 3)), rtol=0.1, atol=0)


def test_a_loaded_state_keeps_its_weights():
    trained = calibrate(converted(deep_net(), bits=3), [images(1)])
    fresh = converted(deep_net(), bits=3)
    fresh.load_state_dict(trained.state_dict())
    assert not unmatched_layers(fresh)
    calibrate(fresh, [images(1)])
    codes = [(a.method.codes(), b.method.codes()) for a, b in zip(layers(fresh), layers(trained), strict=True)]
    assert all(torch.equal(a, b) for a, b in codes)


def test_trained_weights_are_not_matched():
    shifted = converted(deep_net(), bits=3).train()
    shifted(images(1)).square().mean().backward()  # without a calibration before
    with torch.no_grad():
        for p in (p for layer in layers(shifted) for p in layer.method.parameters()):
            p -= 0.1 * p.grad
    before = [layer.method.codes() for layer in layers(shifted)]
    calibrate(shifted, [images(1)])
    assert all(torch.equal(a, layer.method.codes()) for a, layer in zip(before, layers(shifted), strict=True))


def test_a_forward_alone_trains_nothing():
    shifted = converted(deep_net(), bits=3).train()
    shifted(images(1))
    shifted.eval()(images(1)[:2]).sum().backward()
    assert len(unmatched_layers(shifted)) == 6


def layers(model: nn.Module) -> list[ShiftLayer]:
    return [m for m in model.modules() if isinstance(m, ShiftLayer)]


def test_dead_channels_and_multiplier_networks_are_left_alone():
    net = deep_net(2)
    with torch.no_grad():
        net[0].weight[3] = 0  # its channel never varies
        net[1].running_var[3] = 0
    shifted = calibrate(converted(net, bits=4), [images(1)])
    assert all(m.method.latent.isfinite().all() for m in layers(shifted))
    assert not unmatched_layers(converted(net, bits=4, multiplier=True))
    assert not unmatched_layers(convert(net, ShiftConfig(activations=8), sample=images(0)[:2])[0])


def test_a_step_changes_a_folded_weight_as_it_would_change_the_float_weight():
    net = deep_net(2)
    shifted = calibrate(converted(net, bits=4), [images(1)]).train()
    gain = (net[1].weight / torch.sqrt(net[1].running_var + net[1].eps)).detach()
    layer = layers(shifted)[0]

    def gradient() -> Tensor:
        shifted.zero_grad()
        torch.manual_seed(0)
        shifted(images(2)).square().mean().backward()
        return layer.method.latent.grad.clone()

    with_factor = gradient()
    layer.gradient_factor = None
    torch.testing.assert_close(with_factor, gradient() * gain.square().view(-1, 1, 1, 1))


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The state behind three steps of SGD."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    methods = [m for m in model.modules() if isinstance(m, Method)]
    for step in range(3):
        for method in methods:
            method.set_progress(step / 3)
        optimizer.zero_grad()
        torch.manual_seed(step)
        model(images(step)).square().mean().backward()
        optimizer.step()
        for method in methods:
            method.after_step()
    return model.state_dict()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_state_trains_alike_in_a_network_of_other_float_weights(name):
    origin = calibrate(converted(deep_net(2), name), [images(1)])
    elsewhere = deep_net(2)
    with torch.no_grad():
        for norm in (m for m in elsewhere if isinstance(m, nn.BatchNorm2d)):
            norm.weight.mul_(3)
    other = converted(elsewhere, name)
    other.load_state_dict(origin.state_dict())
    expected, got = trained_state(origin), trained_state(other)
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_a_state_of_before_the_pace_was_kept_leaves_the_layers_own():
    origin, other = (converted(deep_net(2), bits=3) for _ in range(2))
    paces = [layer.gradient_factor.clone() for layer in layers(other)]
    other.load_state_dict({k: v for k, v in origin.state_dict().items() if "gradient_factor" not in k})
    assert all(torch.equal(layer.gradient_factor, pace) for layer, pace in zip(layers(other), paces, strict=True))


def test_latents_without_a_unit_keep_their_gradient():
    shifted = converted(deep_net(1), "denseshift", bits=3)
    assert layers(shifted)[0].gradient_factor is None
    assert layers(converted(deep_net(1), bits=3))[0].gradient_factor is not None


@pytest.mark.parametrize("learn", ["none", "scale"])
def test_bits_that_narrow_in_training_get_their_gain_back(learn):
    net = deep_net()
    options = {"wide": "int6", "narrow_at": 0.3, "learn": learn}
    wide = calibrate(converted(net, bits=3, options=options), [images(1)])
    assert abs(shrinkage(net, wide) - 1) < 0.1
    narrow = copy.deepcopy(wide)
    methods = [m for m in narrow.modules() if isinstance(m, Method)]
    parameters = [id(p) for p in narrow.parameters()]
    assert all(m.set_progress(0.3) for m in methods)
    lost = copy.deepcopy(narrow)
    norms = {k: v.clone() for k, v in narrow.state_dict().items() if ".norm." in k}
    match_again(narrow.train(), methods, images(2))
    assert narrow.training
    assert not unmatched_layers(narrow)
    assert [id(p) for p in narrow.parameters()] == parameters
    assert all(torch.equal(v, narrow.state_dict()[k]) for k, v in norms.items())
    assert {m.format.name for m in methods} == {"pot3d"}
    # statistics of the mean have to follow, as they do in training
    matched, without = (calibrate(m, [images(1)], gains=False) for m in (narrow, lost))
    assert abs(shrinkage(net, matched) - 1) < 0.2
    assert abs(shrinkage(net, matched) - 1) < abs(shrinkage(net, without) - 1) / 2
