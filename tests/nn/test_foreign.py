"""Models that are quantised already, or whose weights are computed: what is taken over, and that it means the same."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.ao.quantization as ao
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.nn.utils import parametrizations

from bitshift.lower import lower
from bitshift.nn import ActQuant, ConvertError, ShiftConfig, convert, freeze
from bitshift.nn.activations import calibrate
from bitshift.nn.foreign import to_float
from bitshift.nn.foreign_range import KnownRange, range_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*reduce_range:UserWarning"),
]
EIGHT = {"method": "uniform", "bits": 8, "init": "pretrained"}  # what int8 weights are, so that little is lost
INTEGER = {**EIGHT, "activations": 8, "multiplier": True}


class Net(nn.Module):
    """A residual sum between quantiser stubs, as torch.ao's eager mode wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.leave = ao.QuantStub(), ao.DeQuantStub()
        self.a, self.norm, self.relu = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        self.b = nn.Conv2d(6, 6, 3, padding=1, groups=3, bias=False)
        self.sum = FloatFunctional()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.a(self.entry(x))))
        x = self.sum.add(x, self.b(x))
        return self.leave(self.fc(x.mean((2, 3))))


def net(seed: int = 0) -> tuple[Net, Tensor]:
    torch.manual_seed(seed)
    model = Net()
    nn.init.normal_(model.norm.weight)
    model.norm.running_var.uniform_(0.5, 2)
    model.norm.running_mean.normal_()
    return model.eval(), torch.randn(6, 2, 5, 5)


def qconfig(per_channel: bool = True) -> ao.QConfig:
    weight = ao.default_per_channel_weight_observer if per_channel else ao.default_weight_observer
    return ao.QConfig(activation=ao.HistogramObserver.with_args(reduce_range=True), weight=weight)


def int8(per_channel: bool = True) -> tuple[nn.Module, Net, Tensor]:
    """An int8 model of torch.ao, the float model, a batch."""
    model, x = net()
    fused = ao.fuse_modules(copy.deepcopy(model), [["a", "norm", "relu"]])
    fused.qconfig = qconfig(per_channel)
    ao.prepare(fused, inplace=True)
    fused(x)
    return ao.convert(fused), model, x


@pytest.mark.parametrize("per_channel", [True, False])
def test_int8_layers_of_torch_become_float_layers_with_their_weights(per_channel):
    quantised, _, x = int8(per_channel)
    with torch.no_grad():
        want = quantised(x)
    plain, notes = to_float(copy.deepcopy(quantised))
    assert not any("quantized" in type(m).__module__ for m in plain.modules() if not isinstance(m, FloatFunctional))
    conv = plain.get_submodule("a.layer")
    assert type(conv) is nn.Conv2d
    assert torch.equal(conv.weight, quantised.a.weight().dequantize())
    assert torch.equal(conv.bias, quantised.a.bias())
    assert torch.equal(plain.get_submodule("fc.layer").weight, quantised.fc.weight().dequantize())
    assert plain.get_submodule("b.layer").bias is None or not plain.get_submodule("b.layer").bias.any()
    assert (
        notes["a.layer"]
        == f"weight dequantised from torch.ao torch.qint8, one scale a {'channel' if per_channel else 'tensor'}"
    )
    with torch.no_grad():  # only the roundings of activations are gone
        assert (plain(x) - want).abs().max() < 0.05 * want.abs().max()


def test_an_int8_model_is_converted_to_an_integer_network_and_the_report_says_whence():
    quantised, _, x = int8()
    before = {k: str(v) for k, v in quantised.state_dict().items()}
    converted, report = convert(quantised, ShiftConfig(**INTEGER), sample=x)
    assert {k: str(v) for k, v in quantised.state_dict().items()} == before
    assert report.row("a.layer").became == "ShiftConv2d"
    assert "dequantised from torch.ao" in report.row("a.layer").note
    dropped = [r for r in report.rows if r.was == "grid of a value"]
    assert [r.path for r in dropped][:2] == ["entry", "a.range"]
    assert all("is no power of two; calibrate(model, batches)" in r.note for r in dropped)
    calibrate(converted, [x])
    converted.eval()
    with torch.no_grad():
        want = quantised(x)
        assert (converted(x) - want).abs().max() < 0.15 * want.abs().max()
    graph = lower(freeze(converted, x))
    assert {n.op for n in graph.nodes} <= {"conv", "linear", "add", "avg_pool", "reshape", "requantize"}


def test_float_activations_take_an_int8_model_too():
    quantised, _, x = int8()
    converted, report = convert(quantised, ShiftConfig(**EIGHT), sample=x)
    assert len(report.converted) == 3
    with torch.no_grad():
        want = quantised(x)
        assert (converted.eval()(x) - want).abs().max() < 0.15 * want.abs().max()  # LSQ starts int8 coarsely


def test_quantisation_aware_layers_give_the_weights_that_they_compute_with():
    model, x = net()
    fused = ao.fuse_modules_qat(copy.deepcopy(model).train(), [["a", "norm", "relu"]])
    fused.qconfig = ao.QConfig(activation=ao.default_fake_quant, weight=ao.default_per_channel_weight_fake_quant)
    ao.prepare_qat(fused, inplace=True)
    for _ in range(3):
        fused(x).square().sum().backward()
    fused.eval()
    plain, notes = to_float(copy.deepcopy(fused))
    assert [type(m).__name__ for m in plain.a] == ["Conv2d", "BatchNorm2d", "ReLU", "KnownRange"]
    assert "weight_fake_quant" in notes["a.layer"]
    for name, module in fused.named_modules():  # activations pass, weights stay rounded
        if isinstance(module, ao.FakeQuantizeBase):
            (module.enable_fake_quant if name.endswith("weight_fake_quant") else module.disable_fake_quant)()
    with torch.no_grad():
        torch.testing.assert_close(plain(x), fused(x), rtol=1e-4, atol=1e-5)
    assert plain.a.layer.weight.grad is None
    assert plain.a.layer.weight.requires_grad


def test_observers_of_a_prepared_model_fall_away_and_tell_their_grids():
    model, x = net()
    model.qconfig = qconfig()
    prepared = ao.prepare(model)
    prepared(x)
    converted, report = convert(prepared, ShiftConfig(**INTEGER), sample=x)
    assert len(report.converted) == 3
    assert not any("hooks" in r.note for r in report.rows)
    calibrate(converted, [x])
    freeze(converted.eval(), x)


def test_a_graph_of_convert_fx_becomes_a_float_graph():
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            y = torch.relu(x + self.b(x))
            return self.fc(torch.cat([x, y], 1).mean((2, 3)))

    torch.manual_seed(0)
    model, x = Plain().eval(), torch.randn(5, 2, 6, 6)
    mapping = ao.QConfigMapping().set_global(qconfig())
    prepared = prepare_fx(model, mapping, (x,))
    prepared(x)
    quantised = convert_fx(prepared)
    with torch.no_grad():
        want = quantised(x)
    converted, report = convert(quantised, ShiftConfig(**INTEGER), sample=x)
    assert len(report.converted) == 3
    assert sum(r.was == "grid of a value" for r in report.rows) >= 4
    calibrate(converted, [x])
    converted.eval()
    with torch.no_grad():
        assert (converted(x) - want).abs().max() < 0.15 * want.abs().max()
    lower(freeze(converted, x))


def test_dynamic_layers_are_taken_over():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    quantised = ao.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    plain, notes = to_float(copy.deepcopy(quantised))
    assert [type(m) for m in plain] == [nn.Linear, nn.ReLU, nn.Linear]
    assert torch.equal(plain[0].weight, quantised[0].weight().dequantize())
    assert len(notes) == 2


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_quantised_table_stays_a_table_and_a_bag_is_refused(kind):
    model = nn.Sequential(kind(12, 8), nn.ReLU(), nn.Linear(8, 5)).eval()
    model[0].qconfig = ao.float_qparams_weight_only_qconfig
    ids = torch.arange(12).view(3, 4)
    quantised = ao.convert(ao.prepare(model))
    if kind is nn.EmbeddingBag:
        with pytest.raises(ConvertError, match=r"module '0' is a quantised EmbeddingBag"):
            to_float(quantised)
        return
    plain, notes = to_float(copy.deepcopy(quantised))
    assert type(plain[0]) is nn.Embedding
    assert "dequantised from torch.ao" in notes["0"]
    torch.testing.assert_close(plain(ids), quantised(ids))


@pytest.mark.parametrize("by_name", [False, True])
def test_a_quantised_concatenation_keeps_its_axis_and_its_grid(by_name):
    class Both(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q = torch.quantize_per_tensor(x, 0.25, 128, torch.quint8)
            if by_name:
                y = torch.ops.quantized.cat([q, q], dim=1, scale=0.5, zero_point=100)
            else:
                y = torch.ops.quantized.cat([q, q], 1, 0.5, 100)
            return y.dequantize()

    x = torch.randn(2, 3, 4)
    plain, _ = to_float(torch.fx.symbolic_trace(Both()))
    assert torch.equal(plain(x), torch.cat([x, x], 1))
    grids = [(m.scale, m.zero_point) for m in plain.modules() if isinstance(m, KnownRange)]
    assert grids == [(0.25, 128), (0.5, 100)]


def test_signed_integers_of_a_graph_stay_signed():
    class Signed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q = torch.quantize_per_tensor(x, scale=0.25, zero_point=0, dtype=torch.qint8)
            return torch.ops.quantized.add_relu(q, q, 0.5, 0).dequantize()

    plain, _ = to_float(torch.fx.symbolic_trace(Signed()))
    grids = [(m.low, m.high) for m in plain.modules() if isinstance(m, KnownRange)]
    assert grids == [(-128, 127), (-128, 127)]


def test_wider_integers_of_a_graph_tell_no_grid():
    class Wide(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.quantize_per_tensor(x, 0.25, 0, torch.qint32).dequantize()

    plain, _ = to_float(torch.fx.symbolic_trace(Wide()))
    assert not any(isinstance(m, KnownRange) for m in plain.modules())


def test_what_has_no_float_counterpart_is_named():
    quantised = ao.quantize_dynamic(nn.Sequential(nn.LSTM(3, 4)), {nn.LSTM}, dtype=torch.qint8)
    with pytest.raises(ConvertError, match=r"module '0' is a quantised LSTM of torch.ao.*convert the float model"):
        convert(quantised, ShiftConfig())


# --- grids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "most", "want"),
    [
        (KnownRange(2.0**-4, 0, 0, 255), 8, "u8.4"),
        (KnownRange(2.0**-5, 128, 0, 255), 8, "s8.5"),
        (KnownRange(0.5, 0, -8, 7), 4, "s4.1"),
        (KnownRange(1.0, 0, 0, 127), 8, "u7.0"),
        (KnownRange(0.05, 0, 0, 255), 8, "no power of two"),
        (KnownRange(0.25, 3, 0, 255), 8, "no type without one"),
        (KnownRange(0.25, 0, 0, 255), 4, "it has 8 bits, not at most 4"),
    ],
)
def test_a_grid_is_taken_over_only_if_we_have_the_very_same(known, most, want):
    quant = known.quantiser(most)
    if isinstance(quant, ActQuant):
        assert quant.describe() == want
    else:
        assert want in quant


class PowerOfTwo(ao.MinMaxObserver):
    """Chooses grids without a zero point and with scales that are powers of two."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        top = torch.maximum(self.max_val.abs(), self.min_val.abs()) / (127 if self.min_val < 0 else 255)
        return torch.exp2(torch.log2(top).ceil()).reshape(1), torch.tensor([128 if self.min_val < 0 else 0])


def test_clean_grids_set_the_quantisers_so_that_nothing_is_left_to_calibrate():
    model, x = net()
    fused = ao.fuse_modules(model, [["a", "norm", "relu"]])
    fused.qconfig = ao.QConfig(activation=PowerOfTwo, weight=ao.default_per_channel_weight_observer)
    ao.prepare(fused, inplace=True)
    fused(x)
    quantised = ao.convert(fused)
    converted, report = convert(quantised, ShiftConfig(**INTEGER), sample=x)
    taken = {r.path: r.quantiser for r in report.rows if r.was == "grid of a value"}
    assert taken.keys() == {"entry", "a.range", "b.range", "sum.activation_post_process", "fc.range"}
    assert taken["entry"][:2] == "s8"
    assert taken["a.range"][:2] == "u8"
    assert taken["entry"] == f"s8.{-int(torch.log2(quantised.entry.scale))}"
    converted.eval()
    quants = [m for m in converted.modules() if isinstance(m, ActQuant)]
    assert all(bool(q.initialised) for q in quants if q.path in taken)
    if all(bool(q.initialised) for q in quants):
        freeze(converted, x)


def test_a_fake_quantiser_that_is_off_or_has_many_scales_tells_no_grid():
    fake = ao.FakeQuantize(observer=ao.MinMaxObserver)
    fake(torch.randn(9))
    assert isinstance(range_of(fake), KnownRange)
    fake.disable_fake_quant()
    assert range_of(fake) is None
    assert range_of(ao.MinMaxObserver()) is None
    assert range_of(nn.ReLU()) is None


# --- computed weights -------------------------------------------------------------------------------------------------


def test_parametrised_weights_are_folded():
    torch.manual_seed(0)
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Conv1d(3, 4, 3)), parametrizations.spectral_norm(nn.Conv1d(4, 2, 1))
    )
    model.eval()
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        want, weight = model(x), model[0].weight
    plain, notes = to_float(copy.deepcopy(model))
    assert [type(m) for m in plain] == [nn.Conv1d, nn.Conv1d]
    assert torch.equal(plain[0].weight, weight)
    assert notes == {"0": "weight computed by _WeightNorm, folded", "1": "weight computed by _SpectralNorm, folded"}
    with torch.no_grad():
        torch.testing.assert_close(plain(x), want)
    _, report = convert(model, ShiftConfig(init="pretrained"))
    assert len(report.converted) == 2


def test_the_old_weight_norm_is_folded_and_one_with_a_gradient_is_refused_with_a_remedy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)))
    with torch.no_grad():
        model[0].weight_g.mul_(2)
        want = model(torch.ones(1, 3))
    plain, notes = to_float(copy.deepcopy(model))
    assert notes == {"0": "weight computed by weight_norm, folded"}
    with torch.no_grad():
        torch.testing.assert_close(plain(torch.ones(1, 3)), want)
    model(torch.ones(1, 3))
    with pytest.raises(ConvertError, match="remove_weight_norm"):
        convert(model, ShiftConfig())


# --- other libraries, by the shape of their classes -------------------------------------------------------------------


class Conv1D(nn.Module):
    """The linear layer of transformers' GPT-2, whose weight lies the other way round."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


def test_a_transposed_linear_layer_is_converted():
    torch.manual_seed(0)
    model, x = nn.Sequential(Conv1D(5, 3), nn.Tanh(), Conv1D(2, 5)), torch.randn(4, 6, 3)
    converted, report = convert(model, ShiftConfig(**EIGHT))
    assert [r.became for r in report.converted] == ["ShiftLinear", "ShiftLinear"]
    assert "weight transposed" in report.row("0").note
    with torch.no_grad():
        want = model(x)
        assert (converted.eval()(x) - want).abs().max() < 0.05 * want.abs().max()


class Rounder(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 4).round() / 4


class QuantLinear(nn.Linear):
    """As brevitas has it: the rounded weight behind a method, in a wrapper with a value."""

    def quant_weight(self) -> object:
        class Result:
            value = (self.weight * 4).round() / 4

        return Result()


class FakeQuantizedLinear(nn.Linear):
    """As torchao has it: a module that rounds the weight."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.weight_fake_quantizer = Rounder()


@pytest.mark.parametrize(("cls", "said"), [(QuantLinear, "brevitas"), (FakeQuantizedLinear, "weight_fake_quantizer")])
def test_rounded_weights_of_other_toolkits_are_asked_for(cls, said):
    torch.manual_seed(0)
    layer = cls(3, 4)
    plain, notes = to_float(nn.Sequential(copy.deepcopy(layer)))
    assert type(plain[0]) is nn.Linear
    assert torch.equal(plain[0].weight, (layer.weight * 4).round() / 4)
    assert torch.equal(plain[0].bias, layer.bias)
    assert said in notes["0"]


class QuantReLU(nn.Module):
    """As brevitas has it: its quantiser tells scale, zero point and bits by methods."""

    def __init__(self, bits: int | None = 8) -> None:
        super().__init__()
        self.act_quant = nn.Module()
        if bits is not None:
            self.act_quant.is_signed = False
            self.act_quant.scale = lambda: torch.tensor(2.0**-6)
            self.act_quant.zero_point = lambda: torch.tensor(0.0)
            self.act_quant.bit_width = lambda: torch.tensor(float(bits))

    def forward(self, x: Tensor) -> object:
        return [x.relu()]  # a value that no other module takes


def test_activations_of_brevitas_become_torchs_and_tell_their_grid():
    torch.manual_seed(0)
    model, x = nn.Sequential(QuantLinear(3, 4), QuantReLU(), QuantLinear(4, 2)), torch.randn(5, 3)
    converted, report = convert(model, ShiftConfig(**INTEGER), sample=x)
    assert report.row("1.range").quantiser == "u8.6"
    assert len(report.converted) == 2
    calibrate(converted, [x * 100])  # sets the input's grid and leaves the one that is known
    assert converted.get_submodule("1.range").describe() == "u8.6"
    freeze(converted.eval(), x)
    assert type(to_float(nn.Sequential(QuantReLU(None)))[0][0]) is nn.ReLU


class BatchNormAct2d(nn.BatchNorm2d):
    """As timm has it: the function, and a place for one in front of it, inside the norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return self.act(self.drop(x))


def test_a_norm_with_its_function_is_taken_apart_for_integer_networks():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(2, 4, 3), BatchNormAct2d(4), nn.Conv2d(4, 3, 1)), torch.randn(3, 2, 6, 6)
    model[1].running_mean.normal_()
    converted, report = convert(model, ShiftConfig(**INTEGER), sample=x)
    assert not report.stayed
    assert report.row("1.norm").became == "(part of 0)"
    calibrate(converted, [x], norms=False)
    with torch.no_grad():
        want = model.eval()(x)
        assert (freeze(converted.eval(), x)(x) - want).abs().max() < 0.15 * want.abs().max()
    kept, _ = convert(model, ShiftConfig(), sample=x)
    assert type(kept[1]) is BatchNormAct2d


def test_shared_layers_stay_shared_and_plain_models_are_not_touched():
    shared = QuantLinear(3, 3)
    plain, _ = to_float(nn.Sequential(shared, nn.ReLU(), shared))
    assert plain[0] is plain[2]
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU()))
    parts = list(model.modules())
    same, notes = to_float(model)
    assert list(same.modules()) == parts
    assert notes == {}
