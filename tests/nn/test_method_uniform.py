"""Uniform: LSQ forward, both gradients, start, power-of-two step."""

from __future__ import annotations

import math

import pytest
import torch

from bitshift.nn.methods import Uniform


def make(values: list[float], bits: int, step: float, *, power_of_two: bool = False) -> Uniform:
    return Uniform(torch.tensor([values]), f"int{bits}", step=torch.tensor([step]), power_of_two=power_of_two)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_set_is_symmetric(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    values = [float(v) for v in range(-top - 3, top + 4)]
    got = make([v * 0.5 for v in values], bits, 0.5).weight().flatten().tolist()
    assert got == [min(max(v, -top), top) * 0.5 for v in values]


def test_ties_go_up() -> None:
    assert make([0.5, -0.5, 1.5, -1.5, 2.49], 4, 1.0).weight().flatten().tolist() == [1.0, 0.0, 2.0, -1.0, 2.0]


def test_latent_gradient_is_clipped_straight_through() -> None:
    method = make([3.0, -3.0, 3.01, -3.01, 0.2], 3, 1.0)
    method.weight().backward(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    assert method.latent.grad.flatten().tolist() == [1.0, 2.0, 0.0, 0.0, 5.0]


def test_step_gradient_is_that_of_lsq() -> None:
    method = make([0.4, -1.2, 9.0, -9.0], 3, 0.5)  # v = 0.8, -2.4, 18, -18; Q = 3
    grad = [1.0, 10.0, 100.0, 1000.0]
    method.weight().backward(torch.tensor([grad]))
    bracket = [1 - 0.8, -2 + 2.4, 3.0, -3.0]
    expected = sum(g * b for g, b in zip(grad, bracket, strict=True)) / math.sqrt(4 * 3)
    assert method.step.grad.item() == pytest.approx(expected, rel=1e-5)


def test_step_gradient_is_per_channel_or_shared() -> None:
    weight = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(1))
    grad = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(2))
    per = Uniform(weight, "int4", step=torch.full((3,), 0.2))
    shared = Uniform(weight, "int4", step=torch.full((1,), 0.2))
    per.weight().backward(grad)
    shared.weight().backward(grad)
    assert per.factor == pytest.approx(1 / math.sqrt(10 * 7))
    assert shared.factor == pytest.approx(1 / math.sqrt(30 * 7))
    total = (per.step.grad / per.factor).sum() * shared.factor
    torch.testing.assert_close(shared.step.grad, total[None])
    assert shared.scale().shape == (3,)


def test_power_of_two_step_rounds_in_the_log_domain_straight_through() -> None:
    method = make([1.0, 0.3], 4, 0.3, power_of_two=True)
    assert method.scale().tolist() == [0.25]
    assert method.weight().flatten().tolist() == [1.0, 0.25]
    method.weight().backward(torch.ones(1, 2))
    free = make([1.0, 0.3], 4, 0.25)
    free.weight().backward(torch.ones(1, 2))
    assert torch.equal(method.step.grad, free.step.grad)


def test_start_is_twice_the_mean_magnitude_over_sqrt_q() -> None:
    weight = torch.tensor([[1.0, -3.0], [0.5, 0.5], [0.0, 0.0]])
    method = Uniform.from_float(weight, "int3")
    expected = [2 * 2 / math.sqrt(3), 2 * 0.5 / math.sqrt(3), 2 * 2 / math.sqrt(3)]
    assert method.step.tolist() == pytest.approx(expected)
    tensor = Uniform.from_float(weight, "int3", granularity="tensor")
    assert tensor.step.tolist() == pytest.approx([2 * 5 / 6 / math.sqrt(3)])


def test_the_step_stays_positive_and_gets_no_decay() -> None:
    method = make([1.0], 4, 0.5)
    groups = method.param_groups(lr=0.1, weight_decay=0.01)
    assert [
        (g["params"][0] is p, g["weight_decay"]) for g, p in zip(groups, (method.latent, method.step), strict=True)
    ] == [
        (True, 0.01),
        (True, 0.0),
    ]
    with torch.no_grad():
        method.step.fill_(-1.0)
    method.after_step()
    assert method.step.item() > 0


def test_the_step_has_a_rate_of_its_own() -> None:
    for given, found in ((None, 0.1), (0.002, 0.002), (0.0, 0.0)):
        method = Uniform.random((2, 3), "int4", lr_step=given)
        assert [g["lr"] for g in method.param_groups(lr=0.1, weight_decay=0.0)] == [0.1, found]


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"lr_step=-0\.1 must be None, 0 or a positive number"):
        Uniform.from_float(torch.ones(2, 2), "int4", lr_step=-0.1)
    with pytest.raises(ValueError, match="allowed: 'free', 'pot'"):
        Uniform.from_float(torch.ones(2, 2), "int4", step="learned")
    with pytest.raises(ValueError, match="expected positive finite numbers"):
        make([1.0], 4, -1.0)
    with pytest.raises(ValueError, match="does not train format 'pot3d'"):
        Uniform.from_float(torch.ones(2, 2), "pot3d")
