"""Shift layers against torch's own, and against the integers that they stand for."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import FORMATS, get_format
from bitshift.nn import ActQuant, AffineNorm, FixedPointQuant, ShiftConv1d, ShiftConv2d, ShiftLinear, ShiftNorm
from bitshift.nn.layers.base import IntegerError, flip_table, integer_form
from bitshift.nn.layers.conv import pad_pairs
from bitshift.nn.layers.pool import AvgPool, divisor
from bitshift.nn.method import get_method


def weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nearest(w: Tensor, form: str = "pot3d", **options):
    return get_method("nearest").from_float(w, form, **options)


def quantiser(bits: int, frac: int, *, signed: bool) -> ActQuant:
    quant = ActQuant(bits, signed=signed)
    with torch.no_grad():
        quant.log2_step.fill_(-frac)
        quant.initialised.fill_(True)
    return quant.eval()


CONVS = [
    {"stride": 2, "padding": 1},
    {"padding": "same", "dilation": 2},
    {"padding": "valid", "stride": (2, 1)},
    {"groups": 2, "padding": (0, 2)},
    {"groups": 4, "padding": 1},
]


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("norm", [None, AffineNorm, ShiftNorm])
def test_a_moved_module_trains_and_evaluates_in_its_type(kind, norm):
    layer = ShiftConv2d(nearest(weight(8, 4, 3, 3)), bias=weight(8, seed=1), norm=norm and norm(8))
    plain = copy.deepcopy(layer)
    layer = layer.to(kind)
    x = weight(2, 4, 9, 8, seed=2).to(kind)
    y, want = layer(x), plain(x.float())
    y.square().sum().backward()
    assert y.dtype == kind
    assert layer.method.latent.grad.dtype == kind
    assert bool(layer.method.latent.grad.any())
    torch.testing.assert_close(y.float(), want, rtol=2**-6, atol=2**-4 if kind == torch.bfloat16 else 1e-5)
    assert layer.eval()(x).dtype == kind


@pytest.mark.parametrize("window", CONVS)
def test_conv2d_trains_as_torch_with_the_effective_weight(window):
    groups = window.get("groups", 1)
    method = nearest(weight(8, 4 // groups, 3, 3))
    layer = ShiftConv2d(method, bias=weight(8, seed=1), **window)
    theirs = nn.Conv2d(4, 8, 3, **window)
    x = weight(2, 4, 9, 8, seed=2)
    with torch.no_grad():
        theirs.weight.copy_(method.weight())
        theirs.bias.copy_(layer.bias)
        torch.testing.assert_close(layer.train()(x), theirs(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(layer.eval()(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_conv1d_and_linear_train_as_torch():
    method = nearest(weight(6, 3, 5))
    x = weight(2, 3, 17, seed=2)
    with torch.no_grad():
        want = F.conv1d(x, method.weight(), stride=2, padding=2)
        torch.testing.assert_close(ShiftConv1d(method, stride=2, padding=2)(x), want)
        method = nearest(weight(6, 5))
        x = weight(2, 7, 5, seed=3)
        torch.testing.assert_close(ShiftLinear(method)(x), F.linear(x, method.weight()))


def test_asymmetric_padding_is_before_and_after_each_axis():
    method = nearest(weight(2, 1, 3, 2))
    x = weight(1, 1, 5, 5)
    layer = ShiftConv2d(method, padding=((1, 0), (2, 3)))
    with torch.no_grad():
        want = F.conv2d(F.pad(x, (2, 3, 1, 0)), method.weight())
        torch.testing.assert_close(layer(x), want)
    assert pad_pairs("same", [4, 3], [1, 1], [1, 2]) == [1, 2, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding_mode": "reflect"}, "padding_mode='reflect'"),
        ({"padding": "same", "stride": 2}, "needs stride 1"),
        ({"padding": "full"}, "'same' and 'valid'"),
        ({"padding": -1}, "count of zeros"),
        ({"groups": 3}, "groups=3"),
        ({"stride": 0}, "stride=0"),
        ({"bias": torch.zeros(7)}, r"needs \(8,\)"),
        ({"norm": ShiftNorm(7)}, "norm of 7 channels"),
    ],
)
def test_unsupported_windows_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShiftConv2d(nearest(weight(8, 4, 3, 3)), **arguments)


def test_a_weight_of_the_wrong_rank_is_refused():
    with pytest.raises(ValueError, match=r"\(O, I\)"):
        ShiftLinear(nearest(weight(8, 4, 3, 3)))
    with pytest.raises(ValueError, match="3 axes"):
        ShiftConv1d(nearest(weight(8, 4, 3, 3)))


def test_an_unbatched_image_is_taken():
    layer = ShiftConv2d(nearest(weight(8, 4, 3, 3))).eval()
    layer.set_input(quantiser(8, 0, signed=True))
    x = weight(2, 4, 6, 6).mul(9).round()
    with torch.no_grad():
        assert torch.equal(layer(x[0]), layer(x)[0])


# --- integer evaluation -----------------------------------------------------------------------------------------------


def integers(layer: ShiftConv2d, q: Tensor) -> Tensor:
    """int64: rule 4 without its rounding, on codes and constants only."""
    form = layer.integer_form()
    levels = torch.from_numpy(get_format(form.format).table[form.codes.numpy()])
    columns = F.unfold(q.double(), layer.kernel_size, padding=layer.padding[0]).long()
    acc = (levels.flatten(1)[None, :, :, None] * columns[:, None]).sum(2)
    out = acc * form.mult.long()[:, None] + form.offset[:, None]
    return out.view(q.shape[0], -1, *q.shape[2:])


def norms(kind: str) -> nn.Module | None:
    if kind == "none":
        return None
    norm = AffineNorm(5) if kind == "affine" else ShiftNorm(5, learn_scale=kind == "shift")
    with torch.no_grad():
        norm.running_mean.copy_(weight(5, seed=4))
        norm.running_var.copy_(weight(5, seed=5).abs() + 0.1)
        norm.bias.copy_(weight(5, seed=6))
        if kind == "affine":
            norm.weight.copy_(torch.tensor([1.5, -0.7, 0.0, 3.0, -1e-4]))
        elif kind == "shift":
            norm.log2_gain.copy_(torch.tensor([0.0, 2.3, -1.2, 0.4, -3.0]))
    return norm


@pytest.mark.parametrize("kind", ["none", "affine", "shift", "folded"])
@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"pot6", "pot6d"}))
def test_integer_evaluation_is_the_int64_formula(kind, form):
    options = {"scale": "free"} if form.startswith("int") else {}
    method = nearest(weight(5, 3, 3, 3, seed=7), form, **options)
    layer = ShiftConv2d(method, padding=1, bias=weight(5, seed=8), norm=norms(kind)).eval()
    layer.set_input(quantiser(8, 4, signed=True))
    q = torch.randint(-128, 128, (2, 3, 6, 5), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = layer(q * 2.0**-4)
    assert y.dtype == torch.float64
    frac = layer.integer_form().frac.double().view(-1, 1, 1)
    assert torch.equal(y * 2.0**frac, integers(layer, q).double())


@pytest.mark.parametrize("kind", ["none", "affine", "shift", "folded"])
def test_integer_evaluation_is_close_to_the_float_one(kind):
    layer = ShiftConv2d(nearest(weight(5, 3, 3, 3, seed=7)), padding=1, bias=weight(5, seed=8), norm=norms(kind)).eval()
    layer.set_input(quantiser(8, 4, signed=False))
    q = torch.randint(0, 256, (2, 3, 6, 5), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got, want = layer(q * 2.0**-4), layer._float(q * 2.0**-4)
    form = layer.integer_form()
    step = 2.0 ** -float(form.frac[0])
    # One rounding of the offset, half a unit of mult on every gain, float32 rounding of the float evaluation.
    room = 0.5 * step * (1 + form.acc_bound.max()) if kind == "affine" else 0.5 * step
    assert float((got - want).abs().max()) <= float(room) + 1e-4


def test_a_negative_gain_flips_the_codes():
    form = get_format("pot3")
    codes = torch.arange(8, dtype=torch.uint8)[torch.tensor([0, 1, 2, 3, 5, 6, 7, 0])].view(2, 4)
    gain = torch.tensor([-0.5, 0.5], dtype=torch.float64)
    result = integer_form(codes, gain, torch.zeros(2, dtype=torch.float64), form, FixedPoint(8, 0))
    levels = form.table[result.codes.numpy()]
    assert levels[0].tolist() == (-form.table[codes[0].numpy()]).tolist()
    assert levels[1].tolist() == form.table[codes[1].numpy()].tolist()


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_flipping_twice_is_the_identity(form):
    table = flip_table(get_format(form))
    assert [table[table[c]] for c in range(len(table))] == list(range(len(table)))


@given(
    gains=st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=6),
    shift=st.floats(-50, 50),
    bits=st.integers(2, 8),
    frac=st.integers(-3, 9),
)
def test_sixteen_bit_multipliers_hold_their_relative_error(gains, shift, bits, frac):
    gain = torch.tensor(gains, dtype=torch.float64)
    codes = torch.zeros(len(gains), 3, dtype=torch.uint8)
    offset = torch.full_like(gain, shift)
    form = integer_form(codes, gain, offset, get_format("pot3d"), FixedPoint(bits, frac))
    scale = 2.0 ** (frac - form.frac.double())
    error = (form.mult.double() * scale - gain).abs()
    if bool((torch.frexp(gain)[0] == 0.5).all()):
        assert bool((error <= gain.max() * 2.0**-8).all())
    else:
        assert bool((error <= gain.max() * 2.0**-15).all())
    assert 1 <= int(form.mult.min()) <= int(form.mult.max()) <= 65535
    assert bool(((form.offset * 2.0 ** -form.frac.double() - shift).abs() <= 0.5 * 2.0 ** -form.frac.double()).all())


def test_powers_of_two_are_kept_exactly_and_a_dead_channel_is_raised():
    gain = torch.tensor([2.0**-3, 2.0**-7, 2.0**-60], dtype=torch.float64)
    codes = torch.zeros(3, 2, dtype=torch.uint8)
    form = integer_form(codes, gain, torch.zeros(3, dtype=torch.float64), get_format("pot3d"), FixedPoint(8, 5))
    assert form.mult.tolist() == [2**15, 2**11, 1]
    assert form.frac.tolist() == [5 + 3 + 15] * 3


@pytest.mark.parametrize(("fit_int32", "mult"), [(False, [2**12, 1]), (True, [2**8, 1])])
def test_only_sums_that_stay_int32_raise_gains_for_the_room_of_the_accumulator(fit_int32, mult):
    codes = torch.zeros(2, 2**15, dtype=torch.uint8)  # sums of 2**15 * 127 leave 8 bits of int32
    gain = torch.tensor([1.0, 2.0**-12], dtype=torch.float64)
    form = get_format("pot3d")
    result = integer_form(codes, gain, torch.zeros_like(gain), form, FixedPoint(8, 5), fit_int32=fit_int32)
    assert result.mult.tolist() == mult
    assert result.misfit.tolist() == [False, fit_int32]


def test_a_gain_beside_a_far_larger_one_is_marked_as_misfit_but_zero_is_not():
    gain = torch.tensor([300.0, 4e-5, 0.0, 0.01], dtype=torch.float64)
    codes = torch.zeros(4, 2, dtype=torch.uint8)
    form = integer_form(codes, gain, torch.zeros_like(gain), get_format("pot3d"), FixedPoint(8, 5))
    assert form.misfit.tolist() == [False, True, False, False]


def test_a_bias_too_large_for_the_grid_is_refused_with_its_channel():
    codes = torch.zeros(3, 2, dtype=torch.uint8)
    shift = torch.tensor([0.0, 1e14, 0.0], dtype=torch.float64)
    with pytest.raises(IntegerError, match="channel 1"):
        integer_form(codes, torch.full_like(shift, 2.0**-9), shift, get_format("pot3d"), FixedPoint(8, 5))


def test_evaluation_changes_no_state_and_needs_no_gradient():
    layer = ShiftConv2d(nearest(weight(5, 3, 3, 3)), norm=norms("shift")).eval()
    layer.set_input(quantiser(8, 4, signed=True))
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    x = (weight(2, 3, 5, 5) * 16).round() / 16
    with torch.no_grad():
        layer(x)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_gradients_pass_through_evaluation_unchanged_in_value():
    layer = ShiftConv2d(nearest(weight(5, 3, 3, 3)), norm=norms("affine")).eval()
    layer.set_input(quantiser(8, 4, signed=True))
    x = ((weight(2, 3, 5, 5) * 16).round() / 16).requires_grad_()
    y = layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), y)
    y.square().sum().backward()
    assert float(layer.method.latent.grad.abs().sum()) > 0
    assert float(x.grad.abs().sum()) > 0


def test_fixed_point_layers_round_input_and_bias():
    quant = FixedPointQuant("3.5")
    layer = ShiftLinear(nearest(torch.eye(2)), bias=torch.tensor([0.999 / 32, 0.0]), input_quant=quant)
    x = torch.tensor([[0.04, -0.01]])
    want = quant(x) @ layer.weight.T
    torch.testing.assert_close(layer(x), want)
    torch.testing.assert_close(layer.eval()(x), want)
    with pytest.raises(ValueError, match="float layer"):
        layer.set_input(quantiser(8, 0, signed=True))


def test_copies_of_a_layer_with_its_quantiser_stay_connected():
    model = nn.ModuleDict({"quant": quantiser(8, 4, signed=True), "fc": ShiftLinear(nearest(weight(3, 4)))})
    model["fc"].set_input(model["quant"])
    other = copy.deepcopy(model)
    assert other["fc"]._input[0] is other["quant"]
    assert "fc._input" not in "".join(model.state_dict())


# --- average pooling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("area", "want"), [(1, 0), (4, 2), (9, 3), (49, 6), (36, 5), (64, 6), (12, 4), (11, 3), (6, 3)]
)
def test_a_multiplication_free_divisor_is_the_nearest_power_of_two_in_ratio(area, want):
    assert divisor(area, power_of_two=True) == (1, want)


def test_other_divisors_have_sixteen_bits():
    for area in range(1, 500):
        mult, shift = divisor(area, power_of_two=False)
        assert 1 <= mult <= 65535
        assert abs(mult * 2.0**-shift * area - 1) <= 2.0**-15


@pytest.mark.parametrize("free", [False, True])
def test_pooling_trains_and_evaluates_alike(free):
    x = torch.randint(0, 16, (2, 3, 6, 6), generator=torch.Generator().manual_seed(0)) / 4
    pool = AvgPool([3, 2], stride=[2, 2], padding=[1, 0], power_of_two=free)
    torch.testing.assert_close(pool.train()(x).double(), pool.eval()(x), rtol=1e-4, atol=1e-5)
    factor = 6 / 8 if free else 1.0
    torch.testing.assert_close(pool.train()(x), F.avg_pool2d(x, (3, 2), 2, (1, 0)) * factor, rtol=2.0**-15, atol=1e-5)
    everything = AvgPool(None, power_of_two=free)
    torch.testing.assert_close(everything.train()(x).double(), everything.eval()(x), rtol=1e-4, atol=1e-5)
