"""Conversion of real models: what changes, what stays, and that the user's model is left alone."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitshift.nn import (
    ActQuant,
    AffineNorm,
    ConvertError,
    Rule,
    ShiftConfig,
    ShiftConv2d,
    ShiftLayer,
    ShiftLinear,
    ShiftNorm,
    convert,
)
from bitshift.nn.layers.pointwise import Pointwise
from bitshift.nn.layers.pool import AvgPool
from bitshift.nn.method import get_method
from nn_models import ARCHITECTURES, batch, build

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch, of the float model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- float activations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("with_sample", [False, True])
def test_every_linear_and_convolution_is_swapped_and_the_class_kept(name, with_sample):
    model = build(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    kinds = {path: type(m) for path, m in model.named_modules()}
    result, report = convert(model, ShiftConfig(), sample=batch(name) if with_sample else None, generator=generator())
    assert type(result) is type(model)
    assert {path: type(m) for path, m in model.named_modules()} == kinds
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(type(m) in (nn.Linear, nn.Conv1d, nn.Conv2d) for m in result.modules())
    layers = [m for m in result.modules() if isinstance(m, ShiftLayer)]
    assert len(layers) == len(report.converted)
    result(batch(name)).square().mean().backward()
    for layer in layers:
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.method.parameters())


def test_pretrained_weights_come_close_to_the_model():
    model = build("LeNet").eval()
    result, _ = convert(model, ShiftConfig(method="nearest", format="pot4x2", init="pretrained"))
    x = batch("LeNet", 16)
    with torch.no_grad():
        want, got = model(x), result(x)
    assert float((want - got).std()) < 0.3 * float(want.std())


def test_the_same_generator_gives_the_same_weights():
    a, b, c = (convert(build("LeNet"), ShiftConfig(), generator=generator(s))[0] for s in (5, 5, 6))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), c.state_dict().values(), strict=True))


def test_shared_modules_are_converted_once_and_stay_shared():
    result, report = convert(build("SharedConv"), ShiftConfig())
    assert result.conv is result.alias
    assert [r.path for r in report.converted] == ["conv", "fc"]
    assert "alias" in report.row("conv").note


@pytest.mark.parametrize("init", ["random", "pretrained"])
def test_folded_norms_untie_weights_and_the_report_says_so(init) -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    net[3].weight = net[0].weight
    config = ShiftConfig(method="nearest", bits=4, activations=8, init=init)
    model, report = convert(net, config, sample=torch.randn(2, 3, 4, 4))
    methods = {model.get_submodule(path).method for path in ("0", "3")}
    assert len(methods) == (2 if init == "pretrained" else 1)
    assert all(("no longer tied" in report.row(path).note) is (init == "pretrained") for path in ("0", "3"))


def test_tied_weights_share_one_method():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    result, _ = convert(model, ShiftConfig())
    assert result[0].method is result[2].method
    assert result[0].bias is not result[2].bias


def test_a_weight_tied_to_a_foreign_module_stays_and_the_report_says_why(caplog):
    bag = nn.EmbeddingBag(9, 4)
    model = nn.ModuleDict({"embed": bag, "body": nn.Linear(4, 4), "head": nn.Linear(4, 9, bias=False)})
    model["head"].weight = model["embed"].weight
    with caplog.at_level(logging.WARNING, logger="bitshift"):
        result, report = convert(model, ShiftConfig())
    assert result["head"].weight is result["embed"].weight
    assert "tied to 'embed.weight'" in report.row("head").note
    assert "'head' stays float" in caplog.text
    assert isinstance(result["body"], ShiftLinear)


class Custom(nn.Linear):
    pass


def test_what_stays_is_reported_with_its_reason():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
        nn.Bilinear(4, 4, 2),
        nn.BatchNorm2d(4),
        Custom(4, 4),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        nn.Linear(4, 4).double(),
        nn.Linear(4, 4),
    )
    model[6].register_forward_hook(lambda *_: None)
    model.append(nn.Linear(4, 4))
    _, report = convert(model, ShiftConfig())
    notes = {r.path: r.note for r in report.stayed}
    assert "reflect" in notes["0"]
    assert "no shift layer for Bilinear" in notes["1"]
    assert "norm" in notes["2"]
    assert "subclass" in notes["3"]
    assert "float64" in notes["5"]
    assert "hooks" in notes["6"]
    assert "folded" in report.row("4").note
    assert [r.path for r in report.converted] == ["4", "7"]


def test_a_converted_model_is_left_as_it_is():
    once, _ = convert(build("ResNet"), ShiftConfig())
    twice, report = convert(once, ShiftConfig())
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))
    assert not report.converted
    assert report.row("conv1").note == "is a shift layer already"


@pytest.mark.parametrize("activations", [None, 8])
def test_a_sample_that_does_not_fit_is_named_by_its_shape(activations):
    with pytest.raises(ConvertError, match=r"sample \(\[2, 7\]\) does not run through the model"):
        convert(Backwards(), ShiftConfig(activations=activations), sample=torch.zeros(2, 7))


def test_a_bare_layer_is_converted():
    result, _ = convert(nn.Linear(3, 2), ShiftConfig())
    assert isinstance(result, ShiftLinear)


def test_a_model_without_layers_is_refused():
    with pytest.raises(ConvertError, match=r"no nn\.Linear"):
        convert(nn.ReLU(), ShiftConfig())


def test_torch_transformer_layers_still_run_after_conversion():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    result, report = convert(layer, ShiftConfig(method="nearest", bits=4, init="pretrained"))
    assert {r.path for r in report.converted} == {"linear1", "linear2"}
    x = torch.randn(2, 3, 8, generator=generator())
    result(x).sum().backward()
    with torch.no_grad():
        assert result.eval()(x).shape == x.shape


# --- rules ------------------------------------------------------------------------------------------------------------


def test_the_first_matching_rule_wins():
    rules = (
        Rule(pattern="layer1.0.conv1", method="s3", bits=2),
        Rule(pattern="layer1.*", format="pot4d"),
        Rule(pattern="*.downsample.0", keep="int8"),
        Rule(pattern="conv1", keep="float"),
    )
    result, report = convert(build("ResNet"), ShiftConfig(rules=rules))
    layers = {path: m for path, m in result.named_modules() if isinstance(m, ShiftLayer)}
    assert layers["layer1.0.conv1"].method.format.name == "pot2"
    assert layers["layer1.0.conv2"].method.format.name == "pot4d"
    assert layers["layer2.0.downsample.0"].method.format.name == "int8"
    assert layers["layer2.0.conv1"].method.format.name == "pot3d"
    assert isinstance(result.conv1, nn.Conv2d)
    assert report.row("conv1").note == "kept float by rule 'conv1'"


def test_a_rule_without_a_layer_names_the_near_misses():
    with pytest.raises(ConvertError, match=r"'layer1\.0\.conv3' matches no.*'layer1\.0\.conv[12]'"):
        convert(build("ResNet"), ShiftConfig(rules=(Rule(pattern="layer1.0.conv3", keep="float"),)))


class Backwards(nn.Module):
    """Registered in the opposite order of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(4, 2), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)))


@pytest.mark.parametrize("activations", [None, 8])
def test_first_and_last_go_by_the_order_of_calls(activations):
    config = ShiftConfig(keep_first="float", keep_last="int8", activations=activations)
    result, report = convert(Backwards(), config, sample=torch.zeros(1, 3))
    assert type(result.first) is nn.Linear
    assert result.last.method.format.name == "int8"
    assert report.row("first").note.startswith("kept float")


def test_a_rule_overrides_keep_first_and_keep_last_only_by_its_own_keep():
    rules = (Rule(pattern="last", keep="int8"), Rule(pattern="*", bits=2, method="s3"))
    config = ShiftConfig(keep_first="float", keep_last="float", rules=rules)
    result, report = convert(Backwards(), config, sample=torch.zeros(1, 3))
    assert type(result.first) is nn.Linear
    assert report.row("first").note == "kept float by keep_first/keep_last"
    assert result.last.method.format.name == "int8"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "densshift"}, "did you mean 'denseshift'"),
        ({"format": "pot3d", "bits": 3}, "give one of them"),
        ({"bits": 7}, "7-bit"),
        ({"bits": "3"}, "bits='3' is a str; write a whole number"),
        ({"format": "pot3"}, "does not train format 'pot3'"),
        ({"options": {"surogate": False}}, "did you mean 'surrogate'"),
        ({"activations": 9}, "2 to 8"),
        ({"activations": True}, "2 to 8"),
        ({"activations": "sixteen"}, "16.16"),
        ({"multiplier": True}, "set activations"),
        ({"init": "zeros"}, "'random', 'pretrained'"),
        ({"keep_first": True}, "'float', 'int8'"),
        ({"rules": [Rule(pattern="*")]}, "tuple of Rule"),
    ],
)
def test_wrong_configurations_are_refused_with_the_way_out(arguments, message):
    with pytest.raises(ValueError, match=message):
        convert(build("LeNet"), ShiftConfig(**arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        {"pattern": ""},
        {"pattern": "*", "keep": "int4"},
        {"pattern": "*", "keep": "float", "bits": 3},
        {"pattern": "*", "bits": 3.0},
    ],
)
def test_wrong_rules_are_refused(arguments):
    with pytest.raises(ValueError, match="rule"):
        Rule(**arguments)


# --- scales without a norm --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["denseshift", "s3"])
def test_unit_scale_weights_get_the_size_of_he_initialisation_without_a_norm(method):
    model = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64))
    result, report = convert(model, ShiftConfig(method=method), sample=torch.zeros(2, 512), generator=generator())
    size = float(result[0].weight.detach().square().mean().sqrt())
    assert 2**-0.5 <= size / (2 / 512) ** 0.5 <= 2**0.5
    assert bool((torch.frexp(result[0].method.scale())[0] == 0.5).all())
    assert "no norm follows" in report.row("0").note
    assert bool((result[2].method.scale() == 1).all())


def test_fixed_point_activations_round_every_layers_input():
    result, _ = convert(build("LeNet"), ShiftConfig(method="deepshift_q", activations="3.5"))
    assert result.fc1.input_quant.spec == "3.5"
    assert type(result).__name__ == "LeNet"


# --- integer networks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("multiplier", [False, True])
def test_integer_networks_train_and_evaluate(name, multiplier):
    model = build(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    config = ShiftConfig(activations=8, multiplier=multiplier)
    result, report = convert(model, config, sample=batch(name), generator=generator())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    result.train()(batch(name)).square().mean().backward()
    missing = [n for n, p in result.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    assert all(m.is_integer for m in result.modules() if isinstance(m, ShiftLayer))
    with torch.no_grad():
        y = result.eval()(batch(name))
    assert y.dtype == torch.float64
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.AvgPool2d)) for m in result.modules())
    assert not any(isinstance(m, AffineNorm if not multiplier else ShiftNorm) for m in result.modules())
    assert not [r for r in report.stayed if "float" in r.note]


def quantisers(model: nn.Module) -> dict[str, str]:
    return {path: m.describe() for path, m in model.named_modules() if isinstance(m, ActQuant)}


def test_quantisers_of_a_residual_network_are_where_integers_need_them():
    result, _ = convert(build("ResNet"), ShiftConfig(activations=6), sample=batch("ResNet"))
    assert quantisers(result) == {
        "x_quant": "s8, grid from the first data",  # the input keeps 8 bits
        "relu_quant": "u6, grid from the first data",
        "layer1_0_relu_quant": "u6, grid from the first data",
        "layer1_0_relu_1_quant": "u6, grid from the first data",
        "layer2_0_downsample_0_quant": "s6, grid from the first data",  # the second of two wide summands
        "layer2_0_relu_quant": "u6, grid from the first data",
        "layer2_0_relu_1_quant": "u6, grid from the first data",
        "adaptive_avg_pool2d_1_quant": "u6, grid from the first data",
    }


def test_the_identity_branch_reads_the_quantised_value():
    result, _ = convert(build("ResNet"), ShiftConfig(activations=8), sample=batch("ResNet"))
    add = next(n for n in result.graph.nodes if n.name == "add")
    assert [n.name for n in add.args] == ["layer1_0_conv2", "relu_quant"]


def test_concatenated_values_share_one_quantiser():
    result, report = convert(build("Dense"), ShiftConfig(activations=8), sample=batch("Dense"))
    calls = [n for n in result.graph.nodes if n.op == "call_module" and str(n.target).endswith("_quant")]
    targets = [n.target for n in calls]
    assert targets.count("stem_quant") == 2
    assert isinstance(result.get_submodule("norms.0"), ShiftConv2d)
    assert result.get_submodule("norms.0").norm is not None
    assert "take it in" in report.row("norms.0").note


def test_a_shared_convolution_has_one_input_grid():
    result, _ = convert(build("SharedConv"), ShiftConfig(activations=8), sample=batch("SharedConv"))
    conv = result.get_submodule("conv")
    inputs = {n.args[0].target for n in result.graph.nodes if n.target == "conv"}
    assert inputs == {"x_quant"}
    assert conv._input[0] is result.get_submodule("x_quant")


def test_functions_sit_between_two_quantisers():
    result, _ = convert(build("Curved"), ShiftConfig(activations=5), sample=batch("Curved"))
    functions = {path: m.fn for path, m in result.named_modules() if isinstance(m, Pointwise)}
    assert sorted(functions.values()) == ["leaky_relu", "sigmoid", "silu"]
    grids = quantisers(result)
    assert grids["a_quant"] == "s8, grid from the first data"  # only a table reads it
    assert grids["silu_quant"] == "s5, grid from the first data" if "silu_quant" in grids else True
    assert any(g == "u5, grid from the first data" for g in grids.values())  # behind the sigmoid


def test_pools_and_means_become_one_module_with_the_chosen_divisor():
    for name, count in (("Mobile", 1), ("OptionA", 1), ("Dense", 1), ("Speech", 1)):
        result, _ = convert(build(name), ShiftConfig(activations=8), sample=batch(name))
        pools = [m for m in result.modules() if isinstance(m, AvgPool)]
        assert len(pools) == count
        assert all(p.power_of_two for p in pools)


def test_folding_keeps_the_function_of_a_pretrained_network():
    """int8 weights on the folded norm: evaluation in float differs by the rounding of the weights only."""
    model = build("Mobile").eval()
    config = ShiftConfig(method="uniform", bits=8, activations=8, init="pretrained", options={"step": "pot"})
    result, report = convert(model, config, sample=batch("Mobile"))
    assert report.row("stem.0").norm == "folded; mean-only ShiftNorm"
    layer, x = result.get_submodule("stem.0"), batch("Mobile", 8)
    with torch.no_grad():
        want = model.stem[:2](x)
        got = layer._float(x)
    assert float((want - got).std()) < 0.03 * float(want.std())


def test_a_norm_behind_a_linear_layer_on_sequences_is_not_fused():
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm, self.head = nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.pad(self.norm(self.fc(x)), (0, 2)))

    x = torch.randn(2, 4, 6, generator=generator())
    result, _ = convert(Sequence(), ShiftConfig(activations=8, multiplier=True), sample=x)
    assert result.get_submodule("fc").norm is None
    assert isinstance(result.get_submodule("norm").norm, AffineNorm)
    result.train()(x)
    result.eval()(x)


def test_float_operations_are_reported_and_get_float32():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.a(x)) * 0.3
            return torch.softmax(self.b(x), -1)

    x = torch.randn(3, 6, generator=generator())
    result, report = convert(Odd(), ShiftConfig(activations=8), sample=x)
    result.train()(x)
    with torch.no_grad():
        assert result.eval()(x).dtype == torch.float32
    notes = {r.path: r.note for r in report.rows}
    assert "float" in notes["norm"]
    assert "export refuses" in notes["mul"]
    assert "export refuses" in notes["softmax"]


def test_a_weight_only_network_becomes_an_integer_one_with_a_multiplier():
    weight_only, _ = convert(build("ResNet"), ShiftConfig(), generator=generator())
    result, _ = convert(weight_only, ShiftConfig(activations=8, multiplier=True), sample=batch("ResNet"))
    conv = result.get_submodule("conv1")
    assert conv.is_integer
    assert torch.equal(conv.method.codes(), weight_only.conv1.method.codes())
    with pytest.raises(ConvertError, match=r"'conv1' is a shift layer already.*multiplier=True"):
        convert(weight_only, ShiftConfig(activations=8), sample=batch("ResNet"))


def test_an_integer_network_is_left_as_it_is():
    once, _ = convert(build("ResNet"), ShiftConfig(activations=8), sample=batch("ResNet"))
    twice, report = convert(once, ShiftConfig(activations=8), sample=batch("ResNet"))
    assert not report.converted
    assert quantisers(once) == quantisers(twice)


def test_integer_networks_copy_and_reload():
    config = ShiftConfig(activations=8)
    a, _ = convert(build("Mobile"), config, sample=batch("Mobile"), generator=generator(1))
    a.train()(batch("Mobile"))
    a.eval()
    b, _ = convert(build("Mobile"), config, sample=batch("Mobile"), generator=generator(2))
    b.load_state_dict(a.state_dict())
    b.eval()
    x = batch("Mobile", 4, seed=6)
    with torch.no_grad():
        assert torch.equal(a(x), b(x))
        assert torch.equal(copy.deepcopy(a)(x), a(x))


class Gated(nn.Module):
    """Squeeze-excite behind a convolution, or a gate of the value's own shape."""

    def __init__(self, *, squeeze: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1) if squeeze else nn.Identity(), nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu()
        return y * self.gate(y).sigmoid()


@pytest.mark.parametrize("squeeze", [True, False])
def test_a_product_of_activations_is_reported_by_its_module_before_anything_is_trained(squeeze, caplog):
    model = nn.Sequential(Gated(squeeze=squeeze), nn.Conv2d(4, 2, 1))
    with caplog.at_level(logging.WARNING, logger="bitshift"):
        converted, report = convert(model, ShiftConfig(activations=8), sample=torch.randn(2, 3, 8, 8))
    note = report.row("mul").note
    assert note.startswith("a product of two activations in module '0' needs a multiplier: export refuses it")
    assert note.endswith("unless it is a function of one value") != squeeze
    assert ("convert: 'mul': a product of two" in caplog.text) == squeeze
    assert converted.train()(torch.randn(2, 3, 8, 8)).shape == (2, 2, 6, 6)


def test_a_product_with_a_constant_is_none_of_two_activations():
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0.3

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Half(), nn.Conv2d(4, 2, 1))
    _, report = convert(model, ShiftConfig(activations=8), sample=torch.randn(2, 3, 8, 8))
    assert "product of two" not in str(report)


def test_a_product_with_a_function_of_a_parameter_is_none_of_two_activations(caplog):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.g, self.head = nn.Conv2d(3, 4, 3), nn.Parameter(torch.ones(4)), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).mul(self.g.reshape(1, -1, 1, 1)) * self.g[:, None, None]
            return self.head(y * y.shape[1])

    x = torch.randn(2, 3, 8, 8)
    with caplog.at_level(logging.WARNING, logger="bitshift"):
        _, report = convert(Scaled(), ShiftConfig(activations=8), sample=x)
    assert not caplog.text
    assert not [r for r in report.rows if "two activations" in r.note]
    assert report.row("").note == "own parameters (g) stay float"


def test_a_recurrent_part_of_an_integer_network_is_named_before_anything_is_trained(caplog):
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rnn, self.head = nn.Linear(6, 6), nn.GRU(6, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(self.first(x))[0][:, -1])

    with caplog.at_level(logging.WARNING, logger="bitshift"):
        _, report = convert(Recurrent(), ShiftConfig(activations=8), sample=torch.randn(2, 7, 6))
    assert "convert: 'rnn' (GRU): " in caplog.text
    assert "export refuses it" in caplog.text
    assert report.row("rnn").note == "no shift layer for GRU; export refuses it"


def test_dropout_follows_the_training_flag_after_tracing():
    result, _ = convert(build("LeNet"), ShiftConfig(activations=8), sample=batch("LeNet"))
    assert any(isinstance(m, nn.Dropout) and m.p == 0.5 for m in result.modules())


@pytest.mark.parametrize(
    ("drop", "said"),
    [
        (lambda net, x: F.dropout(x, 0.25), True),
        (lambda net, x: F.dropout2d(x, training=True), True),
        (lambda net, x: torch.dropout(x, 0.25, True), True),
        (lambda net, x: F.dropout(x, 0.25, net.training), False),
        (lambda net, x: torch.dropout(x, 0.25, train=net.training), False),
        (lambda net, x: F.alpha_dropout(x, 0.25), False),
        (lambda net, x: F.dropout(x, 0.0), False),
    ],
)
def test_dropout_that_was_on_in_eval_is_reported(drop, said: bool):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(drop(self, self.first(x)))

    _, report = convert(Net().eval(), ShiftConfig(activations=8), sample=torch.randn(2, 3, 8, 8))
    assert ("on in eval, too, in the float network" in str(report)) is said


def test_the_training_flag_is_kept():
    result, _ = convert(build("ResNet").eval(), ShiftConfig(activations=8), sample=batch("ResNet"))
    assert not any(m.training for m in result.modules())
    result, _ = convert(build("ResNet").train(), ShiftConfig(), sample=batch("ResNet"))
    assert all(m.training for m in result.modules())


@pytest.mark.parametrize("method", ["uniform", "apot"])
def test_scales_without_a_multiplier_are_powers_of_two(method: str):
    config = ShiftConfig(method=method, bits=4, activations=8, init="pretrained")
    result, report = convert(build("ResNet"), config, sample=batch("ResNet"))
    for row in report.converted:
        scale = result.get_submodule(row.path).method.scale()
        assert bool((torch.frexp(scale)[0] == 0.5).all())


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def test_a_layer_alone_has_no_place_for_quantisers():
    with pytest.raises(ConvertError, match=r"the model is a Linear alone.*nn.Sequential\(model\)"):
        convert(nn.Linear(6, 4), ShiftConfig(activations=8), sample=torch.randn(2, 6))


@pytest.mark.parametrize(("method", "other"), [("s3", "apot"), ("apot", "s3")])
def test_options_of_one_method_say_nothing_to_another_of_a_rule(method: str, other: str):
    net, sample = two_layers(), torch.randn(2, 64)
    configs = [
        ShiftConfig(method=method, bits=3, init="pretrained", options=options, rules=(Rule(pattern="2", method=other),))
        for options in ({}, {"alpha": 0.5})
    ]
    plain, told = (convert(copy.deepcopy(net), c, sample=sample, generator=generator())[0] for c in configs)
    assert torch.equal(plain[2].weight, told[2].weight)
    assert getattr(told[0].method, "alpha", None) == 0.5
    assert getattr(told[2].method, "alpha", None) == getattr(plain[2].method, "alpha", None) != 0.5


def test_who_asks_for_a_free_scale_of_apot_keeps_its_normalisation():
    config = ShiftConfig(method="apot", bits=4, activations=8, init="pretrained", options={"scale": "free"})
    result, _ = convert(two_layers(), config, sample=torch.randn(2, 64))
    methods = [m.method for m in result.modules() if isinstance(m, ShiftLayer)]
    assert [(m.power_of_two, m.normalise) for m in methods] == [(False, True)] * 2


@pytest.mark.parametrize("options", [{}, {"normalise": True}, {"normalise": False}, {"alpha": 2.0}])
def test_other_options_of_apot_leave_its_scale_a_power_of_two(options: dict):
    config = ShiftConfig(method="apot", bits=4, activations=8, init="pretrained", options=options)
    result, _ = convert(two_layers(), config, sample=torch.randn(2, 64))
    methods = [m.method for m in result.modules() if isinstance(m, ShiftLayer)]
    assert [(m.power_of_two, m.normalise) for m in methods] == [(True, options.get("normalise", False))] * 2


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_deepshift_has_no_scale_from_scratch_whatever_follows(bits: int):
    for method in ("deepshift_ps", "deepshift_q"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(2304, 10))
        config = ShiftConfig(method=method, bits=bits, init="random", activations="16.16")
        result, _ = convert(net, config, sample=torch.randn(2, 2304), generator=generator())
        levels = result[1].weight.detach().abs().log2()
        assert float(levels.amax()) <= 0
        assert bool((result[1].method.scale() == result[1].method.scale()[0]).all())


def test_the_report_says_whose_format_a_tied_layer_takes():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    net[2].weight = net[0].weight
    rules = (Rule(pattern="0", format="pot3d"), Rule(pattern="2", format="pot2d"))
    config = ShiftConfig(method="nearest", init="pretrained", rules=rules)
    result, report = convert(net, config, sample=torch.randn(2, 8))
    assert "its weight is tied to '0', whose method, format and options it takes" in str(report)
    assert [result[i].method.format.name for i in (0, 2)] == ["pot3d", "pot3d"]


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_reads_as_a_table_and_as_json():
    _, report = convert(build("ResNet"), ShiftConfig(activations=8, keep_last="int8"), sample=batch("ResNet"))
    text = str(report)
    assert "ShiftConv2d pot3d by denseshift" in text
    assert "ActQuant u8, grid from the first data" in text
    assert text.splitlines()[-1] == "7 layers with 3744 weights converted, 0 modules stayed"
    rows = json.loads(report.to_json())["rows"]
    assert {"path", "was", "became", "method", "format", "bits", "weights", "scale", "norm", "note"} <= rows[0].keys()
    with pytest.raises(KeyError):
        report.row("nowhere")


def test_option_names_reach_the_method():
    config = ShiftConfig(options={"surrogate": False})
    result, _ = convert(nn.Linear(3, 2), config)
    assert isinstance(result.method, get_method("denseshift"))
