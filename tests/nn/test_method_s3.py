"""S3: forward, gradient of every latent, regulariser and both initialisations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from bitshift.nn.methods import S3


def straight_through(hard: Tensor, latent: Tensor) -> Tensor:
    return latent + (hard - latent).detach()


def literal_weight(latents: Tensor) -> Tensor:
    """The paper's forward, written with plain autograd: sign, sparse, then gates 1 to T."""
    sigma = straight_through(torch.where(latents[0] >= 0, 1.0, -1.0).double(), latents[0])
    z = straight_through((latents[1] > 0).double(), latents[1])
    exponent = torch.zeros_like(sigma)
    for gate in latents[2:]:
        exponent = (exponent + 1) * straight_through((gate > 0).double(), gate)
    return sigma * z * 2**exponent


def all_patterns(latents: int) -> Tensor:
    return torch.tensor(list(itertools.product([-0.5, 0.5], repeat=latents))).T.contiguous()


@pytest.mark.parametrize(("bits", "levels"), [(2, {1}), (3, {1, 2, 4}), (4, {2**k for k in range(7)})])
def test_all_sign_patterns_give_exactly_the_level_set(bits: int, levels: set[int]) -> None:
    method = S3(all_patterns(2 ** (bits - 1))[:, None], S3.format_for(bits))
    assert set(method.weight().flatten().tolist()) == {0} | levels | {-v for v in levels}


@pytest.mark.parametrize(("outer", "inner", "exponent"), [(-1, -1, 0), (-1, 1, 0), (1, -1, 1), (1, 1, 2)])
def test_three_bit_truth_table(outer: float, inner: float, exponent: int) -> None:
    for sign in (1.0, -1.0):
        method = S3(torch.tensor([sign, 1.0, inner, outer]).view(4, 1, 1), "pot3")
        assert method.weight().item() == sign * 2**exponent


def test_zero_latents_give_a_zero_weight_and_a_zero_sign_means_plus() -> None:
    assert S3(torch.zeros(4, 1, 1), "pot3").weight().item() == 0.0
    assert S3(torch.tensor([0.0, 1, 0, 0]).view(4, 1, 1), "pot3").weight().item() == 1.0


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gradient_equals_autograd_of_the_literal_formula_on_all_patterns(bits: int) -> None:
    latents = all_patterns(2 ** (bits - 1))[:, None]
    grad = torch.linspace(-2, 3, latents.shape[-1])[None]
    method = S3(latents, S3.format_for(bits), scale=torch.tensor([0.5]))
    weight = method.weight()
    weight.backward(grad)
    reference = latents.double().requires_grad_()
    expected = literal_weight(reference) * 0.5
    expected.backward(grad.double())
    assert torch.equal(weight.double(), expected)
    torch.testing.assert_close(method.stack.grad.double(), reference.grad, rtol=3e-7, atol=0)


def test_a_zero_weight_passes_gradient_to_its_sparse_latent_only() -> None:
    method = S3(torch.tensor([-1.0, -1.0, 1.0, 1.0]).view(4, 1, 1), "pot3")
    method.weight().backward(torch.full((1, 1), 3.0))
    assert method.stack.grad.flatten().tolist() == [0.0, 3.0 * -1 * 4, 0.0, 0.0]


def test_hand_computed_gradient_of_minus_two() -> None:
    method = S3(torch.tensor([-1.0, 1.0, -1.0, 1.0]).view(4, 1, 1), "pot3")  # b1 = 0, b2 = 1: S = 1
    method.weight().backward(torch.ones(1, 1))
    ds = -2 * math.log(2)
    assert method.stack.grad.flatten().tolist() == pytest.approx([2.0, -2.0, ds * 1, ds * 1])


def test_penalty_is_an_unnormalised_sum_over_the_negative_sparse_latents() -> None:
    latents = torch.full((4, 2, 2), -7.0)
    latents[1] = torch.tensor([[-0.5, 0.25], [0.0, -2.0]])
    method = S3(latents, "pot3", alpha=0.1)
    penalty = method.penalty()
    assert penalty.item() == pytest.approx(0.25)
    penalty.backward()
    expected = torch.zeros(4, 2, 2)
    expected[1] = torch.tensor([[-0.1, 0.0], [0.0, -0.1]])
    torch.testing.assert_close(method.stack.grad, expected)
    assert S3(latents, "pot3").alpha == 1e-5


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_random_starts_are_he_fan_out(bits: int) -> None:
    shape, name = (32, 48, 3, 3), S3.format_for(bits)
    std = math.sqrt(2 / (9 * 32))
    symmetric = S3.random(shape, name, generator=torch.Generator().manual_seed(5))
    for latent in symmetric.latents().values():
        assert latent.std().item() == pytest.approx(std, rel=0.05)
        assert (latent > 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    dense = S3.random(shape, name, init="dense", generator=torch.Generator().manual_seed(5))
    assert (dense.stack[1] > 0).all()
    assert (dense.stack[2:] < 0).all()
    assert (dense.weight().abs() == 1).all()
    assert torch.equal(dense.stack.abs(), symmetric.stack.abs())


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("start", ["margin", "sign_consistent"])
def test_pretrained_start_takes_the_nearest_level(bits: int, start: str) -> None:
    weight = torch.randn(16, 40, generator=torch.Generator().manual_seed(6))
    method = S3.from_float(weight, S3.format_for(bits), start=start, generator=torch.Generator().manual_seed(7))
    expected = method.format.nearest((weight / method.scale()[:, None]).numpy())
    assert torch.equal(method.codes(), torch.from_numpy(expected))


def test_threshold_distance_of_a_zero_weight_is_that_of_its_sparse_latent() -> None:
    method = S3(torch.tensor([0.1, -0.4, 0.2, 0.3]).view(4, 1, 1), "pot3")
    assert method.threshold_distance().item() == pytest.approx(0.4)


def test_unknown_starts_are_refused() -> None:
    with pytest.raises(ValueError, match="allowed: 'symmetric'"):
        S3.random((2, 2), "pot3", init="sparse")
    with pytest.raises(ValueError, match="allowed: 'margin', 'sign_consistent'"):
        S3.from_float(torch.ones(2, 2), "pot3", start="dense")
    with pytest.raises(ValueError, match="alpha=-1"):
        S3.random((2, 2), "pot3", alpha=-1)
