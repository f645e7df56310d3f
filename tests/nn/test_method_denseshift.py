"""DenseShift: forward, gradient of every latent and initialisation, on all sign patterns."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from bitshift.nn.methods import DenseShift


def straight_through(hard: Tensor, latent: Tensor) -> Tensor:
    return latent + (hard - latent).detach()


def literal_weight(latents: Tensor, surrogate: bool) -> Tensor:
    """The paper's forward, written with plain autograd: sign first, then gates 1 to T."""
    sigma = straight_through(torch.where(latents[0] >= 0, 1.0, -1.0).double(), latents[0])
    exponent = torch.zeros_like(sigma)
    for gate in latents[1:]:
        exponent = (exponent + 1) * straight_through((gate > 0).double(), gate)
    weight = sigma * 2**exponent
    if surrogate:
        backward = sigma * torch.sqrt(exponent + 1)
        weight = backward + (weight - backward).detach()
    return weight


def all_patterns(latents: int) -> Tensor:
    """(L, 2^L) latents of +-0.5, every combination once."""
    return torch.tensor(list(itertools.product([-0.5, 0.5], repeat=latents))).T.contiguous()


@pytest.mark.parametrize(("bits", "levels"), [(2, {1, 2}), (3, {1, 2, 4, 8}), (4, {2**k for k in range(8)})])
def test_all_sign_patterns_give_exactly_the_level_set(bits: int, levels: set[int]) -> None:
    method = DenseShift(all_patterns(2 ** (bits - 1))[:, None], DenseShift.format_for(bits))
    assert set(method.weight().flatten().tolist()) == levels | {-v for v in levels}


def test_three_bit_truth_table_is_a_run_length_code_from_the_outermost_gate() -> None:
    table = {(0, 0, 0): 0, (1, 1, 0): 0, (0, 0, 1): 1, (1, 0, 1): 1, (0, 1, 1): 2, (1, 1, 1): 3}  # (b1, b2, b3) -> S
    for gates, exponent in table.items():
        latents = torch.tensor([1.0, *(2.0 * g - 1 for g in gates)]).view(4, 1, 1)
        assert DenseShift(latents, "pot3d").weight().item() == 2.0**exponent, gates


def test_zero_latents_mean_plus_and_closed_gates() -> None:
    assert DenseShift(torch.zeros(4, 1, 1), "pot3d").weight().item() == 1.0
    assert DenseShift(torch.tensor([-0.0, 1, 1, 1]).view(4, 1, 1), "pot3d").weight().item() == 8.0


@pytest.mark.parametrize("surrogate", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gradient_equals_autograd_of_the_literal_formula_on_all_patterns(bits: int, surrogate: bool) -> None:
    latents = all_patterns(2 ** (bits - 1))[:, None]
    grad = torch.linspace(-2, 3, latents.shape[-1])[None]
    scale = torch.tensor([0.25])
    method = DenseShift(latents, DenseShift.format_for(bits), surrogate=surrogate, scale=scale)
    weight = method.weight()
    weight.backward(grad)
    reference = latents.double().requires_grad_()
    expected = literal_weight(reference, surrogate) * 0.25
    expected.backward(grad.double())
    assert torch.equal(weight.double(), expected)
    # slopes and products are each rounded once to float32
    torch.testing.assert_close(method.stack.grad.double(), reference.grad, rtol=3e-7, atol=0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("exponent", [0, 1, 2, 3])
def test_three_bit_surrogate_gradient_is_the_published_table(exponent: int, sign: float) -> None:
    gates = {0: (-1, -1, -1), 1: (-1, -1, 1), 2: (-1, 1, 1), 3: (1, 1, 1)}[exponent]
    method = DenseShift(torch.tensor([sign, *gates]).view(4, 1, 1), "pot3d")
    method.weight().backward(torch.ones(1, 1))
    d_sign, d1, d2, d3 = method.stack.grad.flatten().tolist()
    assert d_sign == pytest.approx([1, 1.41421356, 1.73205081, 2][exponent])
    d_exponent = sign * [0.5, 0.35355339, 0.28867513, 0.25][exponent]
    s2 = {0: 0, 1: 0, 2: 1, 3: 2}[exponent]
    assert d3 == pytest.approx(d_exponent * (s2 + 1))
    assert d2 == pytest.approx(d_exponent * (gates[0] > 0) + d_exponent if gates[2] > 0 else 0.0)
    assert d1 == pytest.approx(d_exponent if gates[2] > 0 and gates[1] > 0 else 0.0)


def test_gradient_is_not_clipped_far_from_the_threshold() -> None:
    method = DenseShift(torch.full((4, 1, 1), 1e6), "pot3d")
    method.weight().backward(torch.ones(1, 1))
    assert method.stack.grad[0].item() == 2.0


def test_random_start_is_low_variance_normal_for_every_latent() -> None:
    generator = torch.Generator().manual_seed(1)
    method = DenseShift.random((64, 64, 3, 3), "pot3d", generator=generator)
    assert method.stack.shape == (4, 64, 64, 3, 3)
    for latent in method.latents().values():
        n = latent.numel()
        assert abs(latent.mean().item()) < 5 * 1e-3 / math.sqrt(n)
        assert latent.std().item() == pytest.approx(1e-3, rel=5 / math.sqrt(2 * n))
    share = [(method.weight().abs() == 2**k).float().mean().item() for k in range(4)]
    assert share == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 8], abs=0.01)
    wide = DenseShift.random((64, 64), "pot2d", generator=generator, std=0.5)
    assert wide.stack.std().item() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("start", ["margin", "sign_consistent"])
def test_pretrained_start_takes_the_nearest_level(bits: int, start: str) -> None:
    weight = torch.randn(16, 40, generator=torch.Generator().manual_seed(2))
    name = DenseShift.format_for(bits)
    method = DenseShift.from_float(weight, name, start=start, generator=torch.Generator().manual_seed(3))
    expected = method.format.nearest((weight / method.scale()[:, None]).numpy())
    assert torch.equal(method.codes(), torch.from_numpy(expected))


def test_margin_start_is_the_distance_to_the_thresholds_times_eps() -> None:
    method = DenseShift.from_float(torch.tensor([[-5.0]]), "pot3d", scale=torch.ones(1), eps=1e-3)
    expected = [-5.0, (5 - 6) / 4, (5 - 3) / 2, 5 - 1.5]  # sign, gate 1 (innermost), 2, 3
    torch.testing.assert_close(method.stack.flatten(), torch.tensor(expected) * 1e-3)
    assert method.weight().item() == -4.0


def test_sign_consistent_start_gives_hidden_gates_both_signs() -> None:
    method = DenseShift.from_float(
        torch.ones(1, 400),
        "pot3d",
        scale=torch.ones(1),
        start="sign_consistent",
        generator=torch.Generator().manual_seed(4),
    )
    assert (method.stack[3] < 0).all(), "the outermost gate is closed at level 1"
    assert 0.3 < (method.stack[1] > 0).float().mean().item() < 0.7
    assert method.stack.std().item() == pytest.approx(1e-3, rel=0.2)


def test_threshold_distance_ignores_gates_behind_a_closed_one() -> None:
    method = DenseShift(torch.tensor([0.9, 0.1, 0.2, -0.7]).view(4, 1, 1), "pot3d")
    assert method.threshold_distance().item() == pytest.approx(0.7)
    opened = DenseShift(torch.tensor([0.9, 0.1, -0.2, 0.7]).view(4, 1, 1), "pot3d")
    assert opened.threshold_distance().item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DenseShift(torch.zeros(3, 1, 1), "pot3d"), r"pot3d needs \(4, O, ...\)"),
        (lambda: DenseShift.random((2, 2), "pot3"), "does not train format 'pot3'"),
        (lambda: DenseShift.random((2, 2), "pot3d", std=0.0), "std=0.0 must be a positive number"),
        (
            lambda: DenseShift.from_float(torch.ones(2, 2), "pot3d", start="near"),
            "allowed: 'margin', 'sign_consistent'",
        ),
        (lambda: DenseShift.random((2, 2), "pot3d", scale=torch.tensor([1.0, 3.0])), "scale 3.0 of channel 1"),
        (lambda: DenseShift.format_for(5), "allowed bits: 2, 3, 4"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_std_he_starts_with_the_deviation_of_fan_out() -> None:
    method = DenseShift.random((64, 32, 3, 3), "pot3d", std="he", generator=torch.Generator().manual_seed(1))
    assert float(method.stack.detach().std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.01)
    with pytest.raises(ValueError, match="a positive number, or 'he'"):
        DenseShift.random((4, 4), "pot3d", std="large")
