"""DeepShift-PS: forward, its unsymmetric gradients, penalty, projection, starts."""

from __future__ import annotations

import math

import pytest
import torch

from bitshift.nn.methods import DeepShiftPS


def make(shift: list[float], sign: list[float], bits: int = 5, **options: float) -> DeepShiftPS:
    return DeepShiftPS(torch.tensor([shift]), torch.tensor([sign]), DeepShiftPS.format_for(bits), **options)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_the_set_is_zero_and_signed_powers_from_pmin_to_one(bits: int) -> None:
    pmin = -(2 ** (bits - 1) - 2)
    shifts = [float(p) for p in range(pmin, 1)]
    for sign in (-1.0, 0.0, 1.0):
        got = make(shifts, [sign] * len(shifts), bits).weight().flatten().tolist()
        assert got == [sign * 2.0**p for p in shifts]


def test_shift_rounds_half_to_even() -> None:
    assert make([-0.5, -1.5, -2.5, -1.49, -1.51], [1.0] * 5).weight().flatten().tolist() == [1.0, 0.25, 0.25, 0.5, 0.25]


def test_sign_is_zero_within_one_half_inclusive() -> None:
    up = math.nextafter(0.5, 1.0) + 1e-7
    method = make([0.0] * 6, [0.5, -0.5, up, -up, 0.0, 5.0])
    assert method.weight().flatten().tolist() == [0.0, 0.0, 1.0, -1.0, 0.0, 1.0]


def test_shift_is_projected_at_construction_and_after_a_step_only() -> None:
    method = make([1.0, -20.0, -1.25], [1.0] * 3, bits=3)
    assert method.shift.flatten().tolist() == [0.0, -2.0, -1.25]
    with torch.no_grad():
        method.shift.add_(3.0)
        method.sign.mul_(9.0)
    before = method.shift.detach().clone()
    assert method.weight().flatten().tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(method.shift, before)
    method.after_step()
    assert method.shift.flatten().tolist() == [0.0, 0.0, 0.0]
    assert method.sign.flatten().tolist() == [9.0] * 3, "S is never clamped"


def test_gradients_are_unsymmetric() -> None:
    method = make([-3.2, -3.2, -3.2], [1.0, -0.9, 0.3])
    grad = torch.tensor([[2.0, 3.0, 5.0]])
    method.weight().backward(grad)
    ln2 = math.log(2)
    assert method.shift.grad.flatten().tolist() == pytest.approx([2 * 0.125 * ln2, -3 * 0.125 * ln2, 0.0])
    assert torch.equal(method.sign.grad, grad), "dS is g, whatever P"


def test_gradients_equal_autograd_of_the_literal_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    shift = torch.rand(4, 50, generator=generator) * -14
    sign = torch.rand(4, 50, generator=generator) * 3 - 1.5
    grad = torch.randn(4, 50, generator=generator)
    method = DeepShiftPS(shift, sign, "pot5")
    method.weight().backward(grad)
    p, s = shift.double().requires_grad_(), sign.double().requires_grad_()
    rounded = p + (p.round() - p).detach()
    (s.round().clamp(-1, 1).detach() * 2**rounded).backward(grad.double())
    torch.testing.assert_close(method.shift.grad.double(), p.grad, rtol=1e-6, atol=0)
    (s + (s.round().sign() - s).detach()).backward(grad.double())
    assert torch.equal(method.sign.grad.double(), s.grad)


def test_penalty_is_the_l2_of_the_unrounded_powers_whatever_the_sign() -> None:
    method = make([0.0, -1.0, -2.5], [1.0, 0.0, -1.0], weight_decay=0.2)
    penalty = method.penalty()
    assert penalty.item() == pytest.approx(0.1 * (1 + 0.25 + 2**-5))
    penalty.backward()
    # d/dP of (wd/2) 4^P
    assert method.shift.grad.flatten().tolist() == pytest.approx([0.2 * math.log(2) * 4**p for p in (0, -1, -2.5)])
    assert method.sign.grad is None
    assert make([0.0], [1.0]).weight_decay == 1e-4


def test_latents_get_no_decay_and_the_sign_its_own_rate() -> None:
    plain = make([0.0], [1.0]).param_groups(lr=0.1, weight_decay=1e-4)
    assert [(g["lr"], g["weight_decay"]) for g in plain] == [(0.1, 0.0), (0.1, 0.0)]
    method = make([0.0], [1.0], lr_sign=0.0)
    groups = method.param_groups(lr=0.1, weight_decay=1e-4)
    assert [(g["params"][0] is p, g["lr"]) for g, p in zip(groups, (method.shift, method.sign), strict=True)] == [
        (True, 0.1),
        (True, 0.0),
    ]


def test_random_start_is_uniform_and_differs_between_convolution_and_linear() -> None:
    conv = DeepShiftPS.random((32, 32, 3, 3), "pot5", generator=torch.Generator().manual_seed(2))
    assert conv.shift.min().item() == pytest.approx(-10, abs=0.01)
    assert conv.shift.max().item() == pytest.approx(-1, abs=0.01)
    assert (conv.weight() == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    linear = DeepShiftPS.random((100, 100), "pot5", generator=torch.Generator().manual_seed(2))
    assert linear.shift.min().item() == pytest.approx(-14, abs=0.01)
    assert linear.shift.max().item() == pytest.approx(0, abs=0.01)


def test_from_float_rounds_in_the_log_domain_and_keeps_zero() -> None:
    method = DeepShiftPS.from_float(torch.tensor([[0.7, -0.72, 0.0, 5.0, -1e-9]]), "pot5")
    assert method.shift.flatten().tolist() == [-1.0, 0.0, -14.0, 0.0, -14.0]
    assert method.sign.flatten().tolist() == [1.0, -1.0, 0.0, 1.0, -1.0]
    assert method.codes().flatten().tolist() == [14, 31, 0, 15, 17]


def test_a_given_scale_moves_the_set() -> None:
    method = DeepShiftPS.from_float(torch.tensor([[7.0, 2.2, 0.0]]), "pot3", scale=torch.tensor([2.0]))
    assert method.weight().flatten().tolist() == [8.0, 2.0, 0.0]
    method.weight().backward(torch.ones(1, 3))
    assert method.sign.grad.flatten().tolist() == [8.0] * 3
    assert method.shift.grad.flatten().tolist() == pytest.approx([8 * math.log(2), 2 * math.log(2), 0.0])


def test_threshold_distance_takes_the_nearer_of_sign_and_shift() -> None:
    method = make([-1.4, -1.4, 0.0, -14.0], [1.0, 0.2, 1.0, 3.0])
    assert method.threshold_distance().flatten().tolist() == pytest.approx([0.1, 0.3, 0.5, 0.5])


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="weight_decay=-1"):
        make([0.0], [1.0], weight_decay=-1)
    with pytest.raises(ValueError, match="lr_sign=-1"):
        make([0.0], [1.0], lr_sign=-1)
    with pytest.raises(ValueError, match="must have one shape"):
        DeepShiftPS(torch.zeros(1, 2), torch.zeros(2, 1), "pot5")


def test_a_searched_scale_brings_a_small_pretrained_weight_into_the_set() -> None:
    weight = torch.randn(4, 200, generator=torch.Generator().manual_seed(3)) * 0.02
    plain = DeepShiftPS.from_float(weight, "pot3")
    method = DeepShiftPS.from_float(weight, "pot3", scale="search")
    errors = [(m.weight() - weight).square().sum().item() for m in (method, plain)]
    assert errors[0] < 0.1 * weight.square().sum().item() < errors[1]
    zero = weight.abs() < method.scale()[:, None] / 2
    assert bool(zero.any())
    assert torch.equal(method.weight() == 0, zero)
    with pytest.raises(ValueError, match="allowed: None, 'search'"):
        DeepShiftPS.from_float(weight, "pot3", scale="best")
