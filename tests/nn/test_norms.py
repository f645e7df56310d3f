"""AffineNorm is batch normalisation; ShiftNorm multiplies by powers of two, in training as in evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitshift.nn import AffineNorm, ShiftNorm


def data(seed: int = 0, shape: tuple[int, ...] = (6, 5, 4, 3)) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.1, 1.0, 3.0, 8.0, 0.7]).view(-1, *[1] * (len(shape) - 2))
    return torch.randn(shape, generator=g) * scale + scale


@pytest.mark.parametrize("momentum", [0.1, None])
def test_affine_norm_is_batch_norm_in_training_and_evaluation(momentum):
    ours, theirs = AffineNorm(5, momentum=momentum), nn.BatchNorm2d(5, momentum=momentum)
    with torch.no_grad():
        for m in (ours, theirs):
            m.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0]))
            m.bias.copy_(torch.arange(5.0))
    for seed in range(3):
        torch.testing.assert_close(ours(data(seed)), theirs(data(seed)))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(ours.eval()(data(9)), theirs.eval()(data(9)), rtol=1e-5, atol=1e-5)


def test_shift_norm_takes_the_power_of_two_nearest_to_the_deviation():
    norm = ShiftNorm(5)
    x = data()
    y = norm(x)
    sigma = x.transpose(0, 1).flatten(1).std(1)
    gain = 2.0 ** torch.floor(-torch.log2(sigma) + 0.5)
    want = (x - x.mean((0, 2, 3), keepdim=True)) * gain.view(-1, 1, 1)
    torch.testing.assert_close(y, want)
    assert torch.equal(norm.exponent().float(), gain.log2())


def test_the_learned_gain_moves_the_exponent():
    norm = ShiftNorm(5)
    norm(data())
    before = norm.exponent()
    with torch.no_grad():
        norm.log2_gain += torch.tensor([2.0, -1.0, 0.0, 3.0, -4.0])
    assert (norm.exponent() - before).tolist() == [2, -1, 0, 3, -4]


@pytest.mark.parametrize("learn_scale", [True, False])
def test_training_and_evaluation_use_the_same_power_of_two(learn_scale):
    norm = ShiftNorm(5, learn_scale=learn_scale)
    for seed in range(20):
        norm(data(seed))
    gain = norm.gain_shift()[0]
    x = data(3)
    y = norm.eval()(x)
    slope = (y[0] - y[1]) / (x[0] - x[1])
    torch.testing.assert_close(slope, gain.float().view(-1, 1, 1).expand_as(slope), rtol=1e-3, atol=0)
    assert torch.equal(gain, 2.0 ** norm.exponent().double())
    assert learn_scale or bool((gain == 1).all())


def test_the_first_batch_sets_the_running_statistics():
    norm = ShiftNorm(5)
    x = data()
    norm(x)
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, x.transpose(0, 1).flatten(1).var(1))


def test_evaluation_changes_nothing():
    norm = ShiftNorm(5)
    norm(data())
    norm.eval()
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    norm(data(1))
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])


def test_gradients_without_gain_are_those_of_mean_removal():
    norm = ShiftNorm(5, learn_scale=False)
    x = data().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    (norm(x) * weights).sum().backward()
    reference = data().requires_grad_()
    bias = torch.zeros(5, requires_grad=True)
    ((reference - reference.mean((0, 2, 3), keepdim=True) + bias.view(-1, 1, 1)) * weights).sum().backward()
    torch.testing.assert_close(x.grad, reference.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.bias.grad, bias.grad)


def test_gradients_with_gain_are_those_of_batch_norm_at_that_gain():
    """Straight through the rounding of log2: 2**e stands where batch norm has gamma / sigma."""
    norm = ShiftNorm(5, eps=0.0)
    x = data().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    (norm(x) * weights).sum().backward()
    e = norm.exponent()
    reference = data().double().requires_grad_()
    t = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    mean = reference.mean((0, 2, 3), keepdim=True)
    sigma = reference.var((0, 2, 3), correction=0).sqrt()
    smooth = t - sigma.log2()  # its gradient, at the value e
    gain = torch.exp2(e + (smooth - smooth.detach()))
    ((reference - mean) * gain.view(-1, 1, 1) * weights).sum().backward()
    torch.testing.assert_close(x.grad, reference.grad.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.log2_gain.grad, t.grad.float(), rtol=1e-4, atol=1e-4)


def test_scaling_the_input_by_a_power_of_two_changes_nothing():
    a, b = ShiftNorm(5), ShiftNorm(5)
    torch.testing.assert_close(a(data()), b(data() * 1024), rtol=1e-5, atol=1e-5)


def test_a_constant_channel_stays_finite():
    norm = ShiftNorm(2)
    x = torch.ones(4, 2, 3, 3, requires_grad=True)
    norm(x).sum().backward()
    assert bool(x.grad.isfinite().all())
    assert bool(norm.gain_shift()[0].isfinite().all())


@pytest.mark.parametrize("shape", [(8, 5), (8, 5, 7)])
def test_norms_work_without_and_with_one_spatial_axis(shape):
    x = data(0, shape)
    for norm in (AffineNorm(5), ShiftNorm(5)):
        assert norm(x).shape == x.shape
        torch.testing.assert_close(norm(x).mean([0, *range(2, x.dim())]), torch.zeros(5), rtol=0, atol=1e-5)


def test_mixed_precision_keeps_the_dtype_and_float32_statistics():
    norm = ShiftNorm(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(data().bfloat16())
    assert y.dtype == torch.bfloat16
    assert norm.running_var.dtype == torch.float32


TYPES = (torch.float32, torch.float64, torch.bfloat16)
ROUNDING = {torch.float32: 2.0**-22, torch.float64: 2.0**-50, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.mark.parametrize("norm", [AffineNorm, ShiftNorm])
@pytest.mark.parametrize("moved", TYPES)
@pytest.mark.parametrize("given", [*TYPES, torch.float16])
def test_every_type_of_module_and_input_computes_and_keeps_the_input_s_type(norm, moved, given):
    layer, wide = norm(5).to(moved), norm(5).double()
    x = data().to(given).requires_grad_()
    exact = x.detach().double().requires_grad_()
    upstream = data(7).to(given)
    y, want = layer(x), wide(exact)
    y.backward(upstream)
    want.backward(upstream.double())
    # a statistic in float32 is off by its own rounding, and deviations are up to twice a gain
    within = {"rtol": 8 * ROUNDING[given], "atol": 8 * max(ROUNDING[given], ROUNDING[torch.float32])}
    assert y.dtype == x.grad.dtype == given
    torch.testing.assert_close(y.double(), want, **within)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=within["rtol"], atol=40 * within["atol"])
    torch.testing.assert_close(layer.running_mean.double(), wide.running_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.running_var.double(), wide.running_var, rtol=1e-6, atol=0)
    y = layer.eval()(x)
    assert y.dtype == given
    torch.testing.assert_close(y.double(), wide.eval()(exact), **within)


@pytest.mark.parametrize("norm", [AffineNorm, ShiftNorm])
def test_a_module_in_half_precision_loses_no_update_of_its_statistics(norm):
    half, full = norm(1).bfloat16().half(), norm(1)
    for seed in range(60):  # means around 100 +- 0.1: a bfloat16 there has steps of 0.5
        x = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) + 100
        half(x)
        full(x)
    assert half.running_mean.dtype == half.running_var.dtype == torch.float32
    torch.testing.assert_close(half.running_mean, full.running_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(half.running_var, full.running_var, rtol=1e-6, atol=0)


def test_moving_to_half_precision_does_not_round_the_statistics():
    norm = ShiftNorm(5)
    norm(data())
    before = norm.running_mean.clone()
    assert torch.equal(norm.bfloat16().running_mean, before)
    assert norm.double().running_mean.dtype == torch.float64
    assert norm.double().half().running_mean.dtype == torch.float64


def test_no_channels_are_refused():
    with pytest.raises(ValueError, match="0 channels"):
        ShiftNorm(0)
