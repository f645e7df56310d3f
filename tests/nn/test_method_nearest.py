"""Nearest: rounding for every format, searched scales, clipped gradient."""

from __future__ import annotations

import pytest
import torch

from bitshift.core.formats import FORMATS
from bitshift.nn.methods import Nearest


@pytest.mark.parametrize("name", FORMATS)
def test_codes_equal_the_formats_own_nearest(name: str) -> None:
    weight = torch.randn(8, 30, generator=torch.Generator().manual_seed(1))
    method = Nearest.from_float(weight, name)
    expected = FORMATS[name].nearest((weight / method.scale()[:, None]).numpy())
    assert torch.equal(method.codes(), torch.from_numpy(expected))
    assert torch.equal(method.weight(), method.levels() * method.scale()[:, None])


def test_ties_go_to_the_upper_level_and_ends_saturate() -> None:
    method = Nearest(torch.tensor([[1.5, -1.5, 3.0, 6.0, 0.0, 99.0, -99.0]]), "pot3d", scale=torch.ones(1))
    assert method.weight().flatten().tolist() == [2.0, -1.0, 4.0, 8.0, 1.0, 8.0, -8.0]


def test_gradient_passes_up_to_the_largest_level_inclusive() -> None:
    method = Nearest(torch.tensor([[4.0, -4.0, 4.001, -9.0, 0.1]]), "pot3d", scale=torch.tensor([0.5]))
    grad = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    method.weight().backward(grad)
    assert method.latent.grad.flatten().tolist() == [1.0, 2.0, 0.0, 0.0, 5.0]


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_a_free_scale_is_never_worse_than_a_power_of_two(granularity: str) -> None:
    weight = torch.randn(8, 200, generator=torch.Generator().manual_seed(2)) * torch.linspace(0.1, 3, 8)[:, None]
    error = {}
    for scale in ("pot", "free"):
        method = Nearest.from_float(weight, "pot4x2", scale=scale, granularity=granularity)
        assert len(method.scale().unique()) == 1 or granularity == "channel"
        error[scale] = (method.weight() - weight).square().sum().item()
    assert error["free"] < error["pot"]


def test_default_formats_follow_the_bits() -> None:
    assert [Nearest.format_for(b) for b in range(1, 7)] == ["pot1", "pot2d", "pot3d", "pot4x2", "pot5d", "pot6d"]
    with pytest.raises(ValueError, match="allowed bits: 1 to 6"):
        Nearest.format_for(7)


def test_bad_scales_are_named() -> None:
    with pytest.raises(ValueError, match="allowed: 'pot', 'free'"):
        Nearest.from_float(torch.ones(2, 2), "pot3d", scale="best")
    with pytest.raises(ValueError, match="expected 2 positive finite numbers"):
        Nearest(torch.ones(2, 2), "pot3d", scale=torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="allowed: 'channel', 'tensor'"):
        Nearest.from_float(torch.ones(2, 2), "pot3d", granularity="row")


def test_a_step_along_the_gradient_reduces_the_distance_to_a_target() -> None:
    target = torch.randn(4, 50, generator=torch.Generator().manual_seed(3))
    method = Nearest.random((4, 50), "pot3d", generator=torch.Generator().manual_seed(4), scale=torch.full((4,), 0.25))
    start = (method.weight() - target).square().sum().item()
    for _ in range(200):
        method.latent.grad = None
        (method.weight() - target).square().sum().backward()
        with torch.no_grad():
            method.latent.sub_(method.latent.grad, alpha=0.05)
    assert (method.weight() - target).square().sum().item() < 0.1 * start


def test_threshold_distance_is_to_the_nearest_midpoint() -> None:
    method = Nearest(torch.tensor([[0.1, -3.2, 20.0, 2.0]]), "pot3d", scale=torch.tensor([0.5]))
    # v = 0.2, -6.4, 40, 4: midpoints 0, -6, 6, 3
    assert method.threshold_distance().flatten().tolist() == pytest.approx([0.1, 0.2, 17.0, 0.5], rel=1e-5)
