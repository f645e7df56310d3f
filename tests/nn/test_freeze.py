"""A frozen model gives the training model's evaluation, bit for bit, and refuses what integers cannot do."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from bitshift.core.formats import FORMATS, get_format
from bitshift.nn import FreezeError, Rule, ShiftConfig, calibrate, convert, freeze
from bitshift.nn.layers.frozen import FrozenFloatLayer, FrozenLayer
from bitshift.nn.norms import ChannelNorm
from nn_models import ARCHITECTURES, batch, build

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch, of the float model


def trained(name: str, config: ShiftConfig, steps: int = 2) -> nn.Module:
    """Converted and moved away from its start by a few steps."""
    model, _ = convert(build(name), config, sample=batch(name), generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for step in range(steps):
            optimizer.zero_grad()
            model(batch(name, 4, seed=step)).square().mean().backward()
            optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("multiplier", [False, True])
@pytest.mark.parametrize("init", ["random", "pretrained"])
def test_frozen_equals_evaluation_on_unseen_data(name, multiplier, init):
    config = ShiftConfig(activations=8, multiplier=multiplier, init=init, keep_last="int8")
    model = trained(name, config)
    frozen = freeze(model, batch(name))
    x = batch(name, 5, seed=9) * 3
    with torch.no_grad():
        want = model(x)
        assert torch.equal(frozen(x), want)
    assert want.dtype == torch.float64
    assert float(want.abs().max()) > 0


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"pot5", "pot5d", "pot6", "pot6d"}))
@pytest.mark.parametrize("bits", [2, 8])
def test_every_format_freezes_at_both_ends_of_the_activation_range(form, bits):
    config = ShiftConfig(method="nearest", format=form, activations=bits, init="pretrained")
    model = trained("ResNet", config)
    frozen = freeze(model, batch("ResNet"))
    x = batch("ResNet", 4, seed=5)
    with torch.no_grad():
        assert torch.equal(frozen(x), model(x))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("activations", [None, "3.5"])
def test_weight_only_frozen_equals_evaluation(name, activations):
    model = trained(name, ShiftConfig(method="deepshift_q", bits=4, activations=activations))
    frozen = freeze(model, batch(name))
    assert any(isinstance(m, FrozenFloatLayer) for m in frozen.modules())
    x = batch(name, 5, seed=9)
    with torch.no_grad():
        assert torch.equal(frozen(x), model(x))


def test_a_bfloat16_model_stays_bfloat16():
    model = trained("ResNet", ShiftConfig(method="deepshift_q", bits=4)).bfloat16()
    x = batch("ResNet").bfloat16()
    frozen = freeze(model, x)
    with torch.no_grad():
        y = model(x)
        assert y.dtype == torch.bfloat16
        assert torch.equal(frozen(x), y)


def test_a_layer_is_what_int64_arithmetic_gives():
    model = trained("ResNet", ShiftConfig(activations=8))
    frozen = freeze(model, batch("ResNet"))
    layer = frozen.get_submodule("model.layer1.0.conv1")
    q = torch.randint(0, 256, (2, 8, 5, 5), generator=torch.Generator().manual_seed(1))
    got = layer(q * 2.0**-layer.input.frac)
    w = get_format(layer.format).decode(layer.codes.numpy())
    padded = np.pad(q.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    acc = sum(
        np.einsum("nihw,oi->nohw", padded[:, :, a : a + 5, b : b + 5], w[:, :, a, b])
        for a in range(3)
        for b in range(3)
    )
    mult, offset = layer.mult.numpy().astype(np.int64), layer.offset.numpy()
    want = acc * mult[:, None, None] + offset[:, None, None]
    np.testing.assert_array_equal(got.numpy() * 2.0 ** float(layer.frac[0]), want)


@pytest.mark.parametrize("name", ["ResNet", "Dense", "Mobile", "Speech"])
def test_a_multiplication_free_network_has_only_power_of_two_multipliers(name):
    frozen = freeze(trained(name, ShiftConfig(activations=8)), batch(name))
    layers = [m for m in frozen.modules() if isinstance(m, FrozenLayer)]
    assert layers
    for layer in layers:
        assert torch.equal(layer.mult & (layer.mult - 1), torch.zeros_like(layer.mult))


def test_multipliers_stay_close_to_the_float_norm():
    """Rule 4 with 16 bits: against the same quantised weights with an exact norm."""
    model = trained("ResNet", ShiftConfig(activations=8, multiplier=True, init="pretrained"))
    layer = model.get_submodule("conv1")
    q = torch.randint(-128, 128, (2, 3, 6, 6), generator=torch.Generator().manual_seed(0))
    x = q * 2.0**-layer.input_type.frac
    with torch.no_grad():
        got = layer(x)
        exact = torch.nn.functional.conv2d(x.double(), layer.method.weight().double(), padding=1)
        gain, shift = layer.norm.gain_shift()
        want = exact * gain.view(-1, 1, 1) + shift.view(-1, 1, 1)
    reach = layer.integer_form().acc_bound.max() * 2.0**-layer.input_type.frac * layer.method.scale().max()
    largest = float(gain.abs().max() * reach)
    assert float((got - want).abs().max()) <= largest * 2.0**-15


def test_an_accumulator_over_int32_is_refused_with_layer_channel_number_and_remedy():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(700, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.constant_(model[0].weight[1], 5.0)
    model, _ = convert(model, ShiftConfig(method="nearest", format="pot5d", activations=8, init="pretrained"))
    calibrate(model, [torch.randn(8, 700, generator=torch.Generator().manual_seed(0))])
    layer = model.get_submodule("0")
    layer.method.latent.data[1] = layer.method.scale()[1] * 32768
    with pytest.raises(
        FreezeError, match=r"layer '0': accumulator bound 2936012800 of channel 1 exceeds int32.*at most 7 bits"
    ):
        freeze(model, torch.randn(2, 700))


def test_a_wrong_frozen_layer_is_reported_with_module_index_and_accumulator(monkeypatch):
    model = trained("LeNet", ShiftConfig(activations=8))
    original = FrozenLayer.__init__

    def off_by_one(self, layer, form):
        original(self, layer, form)
        if len(layer.method.shape) == 2 and layer.method.shape[0] == 20:
            self.offset[3] += int(self.mult[3])

    monkeypatch.setattr(FrozenLayer, "__init__", off_by_one)
    with pytest.raises(FreezeError, match=r"module 'fc1' at \(0, 3\).*accumulator expected"):
        freeze(model, batch("LeNet"))


class Rounds(nn.Module):
    """A layer whose copies differ in the last bits, as recurrent ones may."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.error = error

    def __deepcopy__(self, memo: dict) -> Rounds:
        return Rounds(self.error + 2.0**-20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + self.error)


def test_float_networks_are_compared_layer_by_layer_where_torch_rounds_in_between(monkeypatch):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 8), Rounds(), nn.ReLU(), nn.Linear(8, 3)), torch.randn(5, 6)
    model, _ = convert(net, ShiftConfig(method="nearest", bits=4, init="pretrained"), sample=x)
    freeze(model.eval(), x)
    original = FrozenFloatLayer.forward
    monkeypatch.setattr(FrozenFloatLayer, "forward", lambda self, x: original(self, x) * (1 + 2.0**-10))
    with pytest.raises(FreezeError, match="module '0' at"):
        freeze(model, x)


def test_freezing_leaves_the_training_model_alone():
    model = trained("ResNet", ShiftConfig(activations=8)).train()
    before = copy.deepcopy(model.state_dict())
    freeze(model, batch("ResNet"))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_unconverted_model_is_refused():
    with pytest.raises(FreezeError, match="no shift layer"):
        freeze(build("LeNet"), batch("LeNet"))


def test_an_uncalibrated_model_says_what_to_do():
    model, _ = convert(build("LeNet"), ShiftConfig(activations=8))
    with pytest.raises(RuntimeError, match=r"x_quant.*calibrate"):
        freeze(model, batch("LeNet"))


def test_a_diverged_model_is_refused_by_layer_and_channel():
    model = trained("ResNet", ShiftConfig(activations=8))
    model.get_submodule("layer2.0.conv2").norm.bias.data[5] = float("nan")
    with pytest.raises(FreezeError, match=r"layer 'layer2.0.conv2': channel 5.*finite"):
        freeze(model, batch("ResNet"))


@pytest.mark.parametrize("activations", [None, 8])
def test_a_frozen_model_survives_export_with_a_free_batch(activations):
    frozen = freeze(trained("ResNet", ShiftConfig(activations=activations)), batch("ResNet"))
    shapes = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(frozen, (batch("ResNet"),), dynamic_shapes=shapes, strict=False)
    x = batch("ResNet", 7, seed=4)
    with torch.no_grad():
        assert torch.equal(program.module()(x), frozen(x))


def test_state_dict_and_deepcopy_round_trip():
    config = ShiftConfig(activations=8)
    frozen = freeze(trained("Mobile", config), batch("Mobile"))
    other = freeze(trained("Mobile", config), batch("Mobile"))
    for value in other.state_dict().values():
        value.zero_()
    other.load_state_dict(frozen.state_dict())
    x = batch("Mobile", 4, seed=8)
    with torch.no_grad():
        assert torch.equal(other(x), frozen(x))
        assert torch.equal(copy.deepcopy(frozen)(x), frozen(x))


def test_train_mode_changes_nothing():
    frozen = freeze(trained("Mobile", ShiftConfig(activations=8)), batch("Mobile"))
    x = batch("Mobile")
    with torch.no_grad():
        want = frozen(x)
        assert torch.equal(frozen.train()(x), want)
    assert not frozen.training
    assert [tuple(e.shape) for e in frozen.example] == [(2, 3, 8, 8)]


@pytest.mark.slow
def test_a_frozen_model_runs_under_compile():
    frozen = freeze(trained("ResNet", ShiftConfig(activations=8)), batch("ResNet"))
    x = batch("ResNet", 4, seed=8)
    with torch.no_grad():
        assert torch.equal(torch.compile(frozen, backend="aot_eager")(x), frozen(x))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(10, 2), nn.Linear(5, 2)

    def forward(self, x, y):
        u, v = torch.relu(self.a(x)), self.b(y)
        return self.c(torch.cat([u, v], -1)), {"sum": self.d(u + v)}


def test_several_inputs_and_outputs_are_compared():
    g = torch.Generator().manual_seed(0)
    sample = (torch.randn(3, 4, generator=g), torch.randn(3, 3, generator=g))
    model, _ = convert(TwoInputs(), ShiftConfig(activations=8), sample=sample, generator=g)
    model.train()(*sample)
    frozen = freeze(model, sample)
    with torch.no_grad():
        want, got = model.eval()(*sample), frozen(*sample)
    assert torch.equal(want[0], got[0])
    assert torch.equal(want[1]["sum"], got[1]["sum"])
    assert [list(x.shape) for x in frozen.example] == [[2, 4], [2, 3]]


def test_rules_and_kept_layers_freeze_too():
    rules = (Rule(pattern="layer1.*", keep="int8"), Rule(pattern="*downsample*", method="s3", bits=2))
    model = trained("ResNet", ShiftConfig(activations=6, rules=rules, keep_first="float"))
    frozen = freeze(model, batch("ResNet"))
    assert isinstance(frozen.get_submodule("model.conv1"), nn.Conv2d)
    assert frozen.get_submodule("model.layer1.0.conv1").format == "int8"
    x = batch("ResNet", 4, seed=8)
    with torch.no_grad():
        assert torch.equal(frozen(x), model(x))


@pytest.mark.parametrize("multiplier", [False, True])
@pytest.mark.parametrize("dead", [False, True])
def test_a_dead_channel_that_takes_the_grid_from_live_ones_is_named_once_and_a_live_one_is_not(
    multiplier, dead, caplog
):
    torch.manual_seed(0)
    first = nn.Conv2d(2, 4, 1, groups=2, bias=False)  # channels 2 and 3 see the second input, which may be black
    net = nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    x = torch.randn(4, 2, 3, 3)
    x[:, 1] *= not dead
    model, _ = convert(net, ShiftConfig(activations=8, multiplier=multiplier), sample=x)
    model(x)
    norm = next(m for m in model.modules() if isinstance(m, ChannelNorm))
    with torch.no_grad():
        if multiplier:
            norm.running_var[2], norm.weight[2] = 0.0, 1e5
        else:
            norm.log2_gain[2] += 20
    freeze(model.eval(), x)
    messages = [r.getMessage() for r in caplog.records if "gain" in r.getMessage()]
    if not dead:
        assert not messages, "what is raised beside a live channel of that size is nothing that 8 bits could show"
        return
    (message,) = messages
    assert message.startswith("layer '0")
    assert " of 4 channels" in message
    assert "channel 2's" in message
    assert ("--multiplier True" in message) is not multiplier
