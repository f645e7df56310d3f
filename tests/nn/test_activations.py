"""Activation quantisers: values, ties, gradients, calibration, and the papers' fixed point."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from bitshift.nn import ActQuant, FixedPointQuant, ShiftConfig, calibrate, convert
from bitshift.nn.activations import best_log2_step
from nn_models import batch, build


def ready(bits: int, *, signed: bool, t: float) -> ActQuant:
    quant = ActQuant(bits, signed=signed)
    with torch.no_grad():
        quant.log2_step.fill_(t)
        quant.initialised.fill_(True)
    return quant


@pytest.mark.parametrize("mode", [True, False])
def test_ties_go_up_and_ends_saturate(mode):
    quant = ready(3, signed=True, t=-1.0).train(mode)
    x = torch.tensor([-9.0, -2.25, -1.75, -0.25, 0.0, 0.25, 0.75, 1.25, 9.0])
    assert quant(x).tolist() == [-2.0, -2.0, -1.5, 0.0, 0.0, 0.5, 1.0, 1.5, 1.5]
    unsigned = ready(2, signed=False, t=0.0).train(mode)
    assert unsigned(torch.tensor([-1.0, 0.49, 0.5, 2.5, 7.0])).tolist() == [0.0, 0.0, 1.0, 3.0, 3.0]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [False, True])
def test_training_and_evaluation_give_the_same_grid(bits, signed):
    quant = ready(bits, signed=signed, t=-3.4)
    x = torch.randn(500, generator=torch.Generator().manual_seed(bits)) * 4
    y = quant.train()(x).detach()
    assert torch.equal(y, quant.eval()(x))
    q = y * 2.0**quant.grid.frac
    assert quant.grid.frac == 3
    assert torch.equal(q, q.round())
    assert float(q.min()) >= quant.grid.lo
    assert float(q.max()) <= quant.grid.hi


def test_gradients_are_the_clipped_straight_through_and_the_lsq_step():
    quant = ready(3, signed=True, t=-1.2)  # step 1/2, range -2 .. 1.5
    x = torch.tensor([-5.0, -0.3, 0.4, 1.1, 3.0], requires_grad=True)
    g = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    (quant.train()(x) * g).sum().backward()
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]
    v = torch.tensor([-5.0, -0.3, 0.4, 1.1, 3.0]) / 0.5
    slope = torch.tensor([-4.0, -1.0 - v[1], 1.0 - v[2], 2.0 - v[3], 3.0])
    want = (g * slope).sum() * 0.5 * math.log(2) / math.sqrt(5 * 3)
    torch.testing.assert_close(quant.log2_step.grad, want)


def test_a_too_small_step_is_enlarged_by_its_gradient():
    """Descent on the squared error moves t towards the step that covers the data."""
    quant = ready(4, signed=True, t=-6.0)
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(quant.parameters(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        (quant(x) - x).square().mean().mul(30).backward()
        optimizer.step()
    assert round(float(quant.log2_step.detach())) in (best_log2_step(x, 4, True), best_log2_step(x, 4, True) - 1)


def test_the_first_training_batch_sets_the_step():
    quant = ActQuant(8, signed=True)
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    quant(x)
    assert bool(quant.initialised)
    assert float(quant.log2_step.detach()) == best_log2_step(x, 8, True)
    quant(x * 100)
    assert float(quant.log2_step.detach()) == best_log2_step(x, 8, True)


def test_best_step_is_the_best_of_all_powers_of_two():
    g = torch.Generator().manual_seed(4)
    for bits, signed in [(2, True), (4, False), (8, True)]:
        x = torch.randn(1000, generator=g).abs() if not signed else torch.randn(1000, generator=g) * 7

        def error(t: int, x=x, bits=bits, signed=signed) -> float:
            quant = ready(bits, signed=signed, t=float(t)).eval()
            return float((quant(x) - x).double().square().sum())

        assert error(best_log2_step(x, bits, signed)) == min(error(t) for t in range(-20, 10))
    assert best_log2_step(torch.zeros(5), 8, True) == 0
    assert best_log2_step(torch.zeros(0), 8, True) == 0


def test_evaluation_before_any_data_names_the_quantiser_and_the_way_out():
    quant = ActQuant(8, signed=True).eval()
    quant.path = "relu_quant"
    with pytest.raises(RuntimeError, match=r"'relu_quant' has no scale yet.*calibrate"):
        quant(torch.ones(3))


def test_a_loaded_state_dict_counts_as_initialised():
    source, target = ready(8, signed=True, t=-5.0), ActQuant(8, signed=True)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.eval()(torch.ones(1) / 3), source.eval()(torch.ones(1) / 3))


@pytest.mark.parametrize("bits", [1, 9])
def test_other_widths_are_refused(bits):
    with pytest.raises(ValueError, match="2 to 8"):
        ActQuant(bits, signed=True)


def test_low_precision_activations_keep_their_dtype_in_training():
    quant = ready(8, signed=False, t=-4.0)
    x = torch.rand(100).bfloat16().requires_grad_()
    y = quant(x)
    y.float().sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16


def test_evaluation_is_exact_on_wide_values_and_still_differentiable():
    quant = ready(8, signed=True, t=0.0).eval()
    x = torch.tensor([0.5 - 2.0**-40, 0.5], dtype=torch.float64, requires_grad=True)
    y = quant(x)
    assert y.tolist() == [0.0, 1.0]
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


# --- calibration ------------------------------------------------------------------------------------------------------


def test_calibration_sets_every_quantiser_and_restores_the_modes():
    model, _ = convert(build("ResNet"), ShiftConfig(activations=8, init="pretrained"), sample=batch("ResNet"))
    model.train()
    model.get_submodule("layer1").eval()
    flags = {name: m.training for name, m in model.named_modules()}
    calibrate(model, [(batch("ResNet", 8, seed=s), "label") for s in range(3)])
    assert {name: m.training for name, m in model.named_modules()} == flags
    quants = [m for m in model.modules() if isinstance(m, ActQuant)]
    assert len(quants) > 5
    assert all(bool(q.initialised) for q in quants)
    model.eval()(batch("ResNet"))


def test_calibration_brings_a_rounded_network_close_to_its_float_twin():
    """8-bit weights and activations after calibration: outputs within a tenth of the float network's spread."""
    twin = build("ResNet").eval()
    config = ShiftConfig(method="uniform", bits=8, activations=8, init="pretrained", multiplier=True)
    model, _ = convert(twin, config, sample=batch("ResNet"))
    calibrate(model, [batch("ResNet", 32, seed=s) for s in range(4)], norms=False)
    x = batch("ResNet", 64, seed=77)
    with torch.no_grad():
        want, got = twin(x), model.eval()(x).float()
    assert float((want - got).std()) < 0.1 * float(want.std())


def test_calibration_averages_the_norms_over_its_batches():
    model, _ = convert(build("ResNet"), ShiftConfig(activations=8, multiplier=True), sample=batch("ResNet"))
    norm = model.get_submodule("conv1").norm
    before = norm.running_mean.clone()
    untouched = copy.deepcopy(model)
    calibrate(model, [batch("ResNet", 8)])
    calibrate(untouched, [batch("ResNet", 8)], norms=False)
    assert not torch.equal(norm.running_mean, before)
    assert torch.equal(untouched.get_submodule("conv1").norm.running_mean, before)
    assert norm.momentum == 0.1
    x = batch("ResNet", 8)
    with torch.no_grad():
        y = model.get_submodule("conv1")._convolve(x, model.get_submodule("conv1").weight)
    torch.testing.assert_close(norm.running_mean, y.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_calibration_needs_a_batch():
    model, _ = convert(build("LeNet"), ShiftConfig(activations=8))
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(model, [])


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(4, 5)

    def forward(self, left, right):
        return torch.relu(self.norm(self.a(left)) + self.b(right))


@pytest.mark.parametrize("wrapped", [False, True])
def test_calibration_takes_as_many_inputs_as_forward_and_leaves_the_label(wrapped):
    x = torch.randn(16, 6), torch.randn(16, 4)
    config = ShiftConfig(method="nearest", bits=4, activations=8, init="pretrained")
    model, _ = convert(TwoInputs().eval(), config, sample=x)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, left, right, scale=None):
            return self.inner(left, right) if scale is None else self.inner(left, right) * scale

    whole = Outer() if wrapped else model
    with pytest.raises(ValueError, match=r"batch 0 holds 1 of the 2 inputs of \w+\.forward"):
        calibrate(whole, [x[0]])
    calibrate(whole, [(*x, torch.zeros(16))])
    assert all(m.initialised for m in whole.modules() if isinstance(m, ActQuant))


def test_calibration_leaves_a_float_model_alone():
    model = nn.Linear(2, 2)
    assert calibrate(model, []) is model


# --- the papers' fixed point ------------------------------------------------------------------------------------------


def test_fixed_point_rounds_down_and_clamps_at_the_papers_limits():
    quant = FixedPointQuant("3.5")
    x = torch.tensor([0.99 / 32, -0.01 / 32, 1.0, 3.5, 99.0, -99.0])
    assert quant(x).tolist() == [0.0, -1 / 32, 1.0, 3.0, 3.0, -4.0]
    assert FixedPointQuant("3.5", upper="full")(x).tolist() == [0.0, -1 / 32, 1.0, 3.5, 4 - 1 / 32, -4.0]


def test_fixed_point_has_the_identity_gradient_also_where_it_clamps():
    x = torch.tensor([0.3, 99.0, -99.0], requires_grad=True)
    (FixedPointQuant("3.5")(x) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0, 3.0]


def test_thirty_two_bits_round_at_two_to_the_minus_16():
    x = torch.tensor([1.0 + 2.0**-17, -(2.0**-18)])
    assert FixedPointQuant("16.16")(x).tolist() == [1.0, -(2.0**-16)]


@pytest.mark.parametrize("spec", ["16", "1.7", "20.20", "a.b", "-3.5", "0.0"])
def test_malformed_fixed_points_are_refused(spec):
    with pytest.raises(ValueError, match="fixed point"):
        FixedPointQuant(spec)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("signed", [False, True])
def test_the_range_ends_belong_to_the_range(dtype, signed):
    quant = ready(4, signed=signed, t=-2.0)
    lo, hi = (-8, 7) if signed else (0, 15)
    x = torch.tensor([lo - 0.25, lo, lo + 1, 0, hi - 1, hi, hi + 0.25], dtype=dtype).div(4).requires_grad_()
    quant(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_gradients_do_not_depend_on_the_memory_layout():
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    g = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        quant = ready(3, signed=True, t=-1.0)
        v = x.clone(memory_format=layout).requires_grad_()
        quant(v).backward(g)
        results.append((v.grad, quant.log2_step.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])
