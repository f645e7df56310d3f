"""DeepShift-Q: log-domain rounding, projection, identity gradient, stochastic rounding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bitshift.nn.methods import DeepShiftQ


def weights(values: list[float], bits: int = 5) -> list[float]:
    return DeepShiftQ(torch.tensor([values]), DeepShiftQ.format_for(bits)).weight().flatten().tolist()


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_the_set_is_signed_powers_from_pmin_to_one(bits: int) -> None:
    pmin = -(2 ** (bits - 1) - 1)
    powers = [2.0**p for p in range(pmin, 1)]
    assert weights(powers + [-v for v in powers], bits) == powers + [-v for v in powers]
    method = DeepShiftQ(torch.ones(1, 1), DeepShiftQ.format_for(bits))
    assert method.scale().tolist() == [2.0**pmin]
    assert method.format.max_level * 2.0**pmin == 1.0


def test_rounding_is_in_the_log_domain() -> None:
    assert weights([0.7, 0.72, -0.7, -0.72]) == [0.5, 1.0, -0.5, -1.0]
    assert weights([0.35, 0.36, 1.5 * 2**-4]) == [0.25, 0.5, 2.0**-3], "the midpoint 1.5 * 2^k is above 2^(k + 1/2)"


@pytest.mark.parametrize("k", [-15, -8, -3, -1])
def test_the_boundary_is_between_the_two_floats_around_the_irrational_one(k: int) -> None:
    below = np.float32(math.sqrt(2)) * np.float32(2.0**k)  # float32(sqrt 2) is below sqrt 2
    assert float(below) < math.sqrt(2) * 2**k < float(np.nextafter(below, np.float32(2)))
    assert weights([float(below), float(np.nextafter(below, np.float32(2)))]) == [2.0**k, 2.0 ** (k + 1)]


def test_every_rounding_equals_the_definition_in_float64() -> None:
    values = torch.rand(20_000, generator=torch.Generator().manual_seed(1)).mul(-15).exp2()
    expected = torch.exp2(torch.log2(values.double()).round())
    assert torch.equal(DeepShiftQ(values[None], "pot5d").weight()[0].double(), expected)


def test_values_beyond_the_ends_are_projected_at_construction_and_after_a_step() -> None:
    method = DeepShiftQ(torch.tensor([[3.0, -3.0, 1e-9, -1e-9, 0.3]]), "pot3d")
    expected = [1.0, -1.0, 0.125, -0.125, 0.3]
    assert method.latent.flatten().tolist() == pytest.approx(expected)
    with torch.no_grad():
        method.latent.mul_(4).add_(torch.tensor([0, 0, -0.4, 0.4, 0]))
    before = method.latent.detach().clone()
    method.weight()
    assert torch.equal(method.latent, before), "the forward writes nothing"
    method.after_step()
    assert method.latent.flatten().tolist() == pytest.approx([1.0, -1.0, 0.125, -0.125, 1.0])


def test_an_exactly_zero_latent_counts_as_the_smallest_level_of_its_sign_bit() -> None:
    method = DeepShiftQ(torch.ones(1, 2), "pot5d")
    with torch.no_grad():
        method.latent.copy_(torch.tensor([[0.0, -0.0]]))
    assert method.weight().flatten().tolist() == [2.0**-15, -(2.0**-15)]
    assert method.levels().flatten().tolist() == [1, -1]
    method.after_step()
    assert method.latent.flatten().tolist() == [2.0**-15, -(2.0**-15)]


def test_gradient_is_the_identity_without_a_mask() -> None:
    method = DeepShiftQ(torch.ones(1, 4), "pot4d")
    with torch.no_grad():
        method.latent.copy_(torch.tensor([[5.0, -0.3, 1e-12, 0.0]]))
    grad = torch.tensor([[1.0, -2.0, 3.0, 4.0]])
    method.weight().backward(grad)
    assert torch.equal(method.latent.grad, grad)


def test_there_is_no_penalty_and_decay_acts_on_the_latent() -> None:
    method = DeepShiftQ.random((4, 4), "pot5d")
    assert method.penalty().item() == 0
    assert method.param_groups(lr=0.1, weight_decay=1e-4) == [
        {"params": [method.latent], "lr": 0.1, "weight_decay": 1e-4}
    ]


def test_random_start_is_uniform_in_one_over_sqrt_fan_in() -> None:
    method = DeepShiftQ.random((64, 16, 3, 3), "pot5d", generator=torch.Generator().manual_seed(2))
    bound = 1 / math.sqrt(144)
    assert method.latent.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert method.latent.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_from_float_keeps_a_weight_inside_the_range_and_copies_it() -> None:
    weight = torch.tensor([[0.3, -0.01]])
    method = DeepShiftQ.from_float(weight, "pot5d")
    assert torch.equal(method.latent, weight)
    weight.zero_()
    assert method.latent[0, 0].item() == pytest.approx(0.3)


def test_a_given_scale_moves_the_set_and_keeps_the_unit_of_the_latent() -> None:
    method = DeepShiftQ.from_float(torch.tensor([[100.0, 0.1], [3.0, 0.1]]), "pot3d", scale=torch.tensor([16.0, 0.5]))
    assert method.weight().tolist() == [[128.0, 16.0], [4.0, 0.5]]
    assert method.codes().tolist() == [[3, 0], [3, 0]]


def test_stochastic_rounding_is_unbiased_in_the_log_domain_and_pure() -> None:
    generator = torch.Generator().manual_seed(3)
    latent = torch.full((1, 40_000), 2.0**-2.3)
    method = DeepShiftQ.from_float(latent, "pot5d", stochastic=True, generator=generator)
    first = method.weight()
    assert torch.equal(first, method.weight())
    assert set(first.unique().tolist()) == {0.125, 0.25}
    assert torch.log2(first).mean().item() == pytest.approx(-2.3, abs=0.02)
    assert torch.equal(first, method.levels() * method.scale()[:, None])
    method.after_step()
    assert not torch.equal(first, method.weight())
    method.eval()
    assert (method.weight() == 0.25).all(), "evaluation rounds to the nearest"


def test_stochastic_rounding_continues_from_a_state_dict() -> None:
    method = DeepShiftQ.random((8, 8), "pot5d", stochastic=True, generator=torch.Generator().manual_seed(4))
    method.after_step()
    other = DeepShiftQ.random((8, 8), "pot5d", stochastic=True, generator=torch.Generator().manual_seed(5))
    other.load_state_dict(method.state_dict())
    for _ in range(2):
        assert torch.equal(other.weight(), method.weight())
        other.after_step()
        method.after_step()


def test_threshold_distance_is_to_the_nearest_boundary_or_to_zero() -> None:
    root = math.sqrt(0.5)
    method = DeepShiftQ(torch.tensor([[1.0, 0.75, -0.6, 0.126]]), "pot3d")
    expected = [1 - root, 0.75 - root, root - 0.6, 0.125 * math.sqrt(2) - 0.126]
    assert method.threshold_distance().flatten().tolist() == pytest.approx(expected, rel=1e-5)
    two = DeepShiftQ(torch.tensor([[0.5]]), "pot2d")
    assert two.threshold_distance().item() == pytest.approx(root - 0.5, rel=1e-5)


def test_a_searched_scale_brings_a_small_pretrained_weight_into_the_set() -> None:
    weight = torch.randn(4, 200, generator=torch.Generator().manual_seed(3)) * 0.02
    plain = DeepShiftQ.from_float(weight, "pot3d")
    method = DeepShiftQ.from_float(weight, "pot3d", scale="search")
    errors = [(m.weight() - weight).square().sum().item() for m in (method, plain)]
    assert errors[0] < 0.1 * weight.square().sum().item() < errors[1]
    with pytest.raises(ValueError, match="allowed: None, 'search'"):
        DeepShiftQ.from_float(weight, "pot3d", scale="best")
