"""Scales that train: LSQ's gradient, powers of two with hysteresis, and the bits that narrow."""

from __future__ import annotations

import copy
from math import log, sqrt

import pytest
import torch
from torch import Tensor

from bitshift.core.formats import FORMATS
from bitshift.nn.learned_scale import HYSTERESIS, LearnedScale
from bitshift.nn.methods import Nearest
from bitshift.nn.scale_search import search_free_scale, search_pot_scale


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight(shape: tuple[int, ...] = (6, 40), seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed)) * torch.linspace(0.02, 1, shape[0]).view(
        -1, *[1] * (len(shape) - 1)
    )


def lsq(latent: Tensor, scale: Tensor, format: str, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The formula of the docs, by autograd of its straight-through form: d latent, d scale without the factor."""
    latent, scale = latent.detach().clone().requires_grad_(), scale.detach().clone().requires_grad_()
    top = FORMATS[format].max_level
    v = latent / scale[:, None]
    levels = torch.tensor(sorted(FORMATS[format].valid_levels), dtype=torch.float32)
    clipped = v.clamp(-top, top)
    distance = (v.detach()[..., None] - levels).abs()
    level = levels[levels.numel() - 1 - distance.flip(-1).argmin(-1)]  # ties to the upper level
    out = (clipped + (level - clipped).detach()) * scale[:, None]
    out.backward(grad)
    assert latent.grad is not None
    assert scale.grad is not None
    return latent.grad, scale.grad


@pytest.mark.parametrize("format", ["pot2d", "pot3", "pot3d", "pot4x2", "int3", "pot4"])
@pytest.mark.parametrize("kind", ["free", "pot"])
def test_gradients_are_those_of_lsq(format: str, kind: str) -> None:
    method = Nearest.from_float(weight(), format, scale=kind, learn="scale")
    grad = torch.randn(6, 40, generator=seeded(1))
    method.weight().backward(grad)
    d_latent, d_scale = lsq(method.latent, method.scale(), format, grad)
    factor = 1 / sqrt(40 * FORMATS[format].max_level)
    assert method.learned is not None
    expected = d_scale * factor
    if kind == "pot":
        expected = expected / (method.scale() * log(2))
    torch.testing.assert_close(method.latent.grad, d_latent)
    torch.testing.assert_close(method.learned.value.grad, expected, rtol=1e-4, atol=1e-6)


def test_one_scale_for_the_tensor_sums_over_all_channels() -> None:
    method = Nearest.from_float(weight(), "pot3d", scale="free", learn="scale", granularity="tensor")
    grad = torch.randn(6, 40, generator=seeded(1))
    method.weight().backward(grad)
    _, d_scale = lsq(method.latent, method.scale(), "pot3d", grad)
    assert method.learned is not None
    assert method.learned.value.shape == (1,)
    torch.testing.assert_close(method.learned.value.grad, d_scale.sum().view(1) / sqrt(240 * 8), rtol=1e-4, atol=1e-6)


def test_the_start_is_the_searched_scale() -> None:
    for kind, search in (("pot", search_pot_scale), ("free", search_free_scale)):
        fixed = Nearest.from_float(weight(), "pot3d", scale=kind)
        learned = Nearest.from_float(weight(), "pot3d", scale=kind, learn="scale")
        assert torch.equal(learned.scale(), search(weight(), FORMATS["pot3d"]))
        assert torch.equal(learned.weight(), fixed.weight())
        assert torch.equal(learned.codes(), fixed.codes())


def test_a_free_and_a_power_of_two_scale_move_by_the_same_ratio() -> None:
    start = search_pot_scale(weight(), FORMATS["pot3d"])
    methods = [Nearest.from_float(weight(), "pot3d", scale=s, learn="scale") for s in (start, start * 1.0000001)]
    assert [m.kind for m in methods] == ["pot", "free"]
    moved = []
    for method in methods:
        assert method.learned is not None
        optimizer = torch.optim.SGD(method.param_groups(lr=1e-4, weight_decay=0.0), lr=1e-4)
        method.weight().backward(torch.randn(6, 40, generator=seeded(3)))
        optimizer.step()
        value = method.learned.value.detach()
        moved.append((value - start.log2()) * log(2) if method.kind == "pot" else value / start - 1)
    torch.testing.assert_close(moved[0], moved[1], rtol=0.02, atol=1e-6)


def test_an_exponent_changes_late_and_does_not_flap() -> None:
    scale = LearnedScale(torch.tensor([0.25]), power_of_two=True, factor=1.0)
    seen = []
    for t in (-2.0, -1.45, -1.31, -1.29, -1.5, -1.6, -1.69, -1.71, -2.5, -2.69, -2.71):
        with torch.no_grad():
            scale.value.fill_(t)
        scale.after_step()
        seen.append(int(scale.exponent))
    assert pytest.approx(0.2) == HYSTERESIS
    assert seen == [-2, -2, -2, -1, -1, -1, -1, -2, -2, -2, -3]
    assert scale().item() == 0.125


def test_scales_have_no_weight_decay_and_stay_positive() -> None:
    for kind in ("free", "pot"):
        method = Nearest.from_float(weight(), "pot3d", scale=kind, learn="scale")
        assert method.learned is not None
        decay = {id(p): g["weight_decay"] for g in method.param_groups(lr=0.1, weight_decay=0.5) for p in g["params"]}
        assert decay == {id(method.latent): 0.5, id(method.learned.value): 0.0}
        with torch.no_grad():
            method.learned.value.fill_(-1e9)
        method.after_step()
        assert bool((method.scale() > 0).all())


@pytest.mark.parametrize("kind", ["free", "pot"])
def test_a_scale_that_is_far_off_trains_back(kind: str) -> None:
    target = weight((4, 200), seed=5)
    start = search_pot_scale(target, FORMATS["pot3d"]) * 8
    if kind == "free":
        start = start * 1.01
    method = Nearest.from_float(target, "pot3d", scale=start, learn="scale")
    optimizer = torch.optim.SGD(method.param_groups(lr=0.02, weight_decay=0.0), lr=0.02, momentum=0.9)
    before = (method.weight() - target).square().sum().item()
    for _ in range(300):
        optimizer.zero_grad()
        (method.weight() - target).square().sum().backward()
        optimizer.step()
        method.after_step()
    assert (method.weight() - target).square().sum().item() < 0.05 * before
    assert bool((method.scale() < start).all())


def test_bits_narrow_at_their_time_with_the_latent_kept_and_the_scale_searched_anew() -> None:
    for learn in ("none", "scale"):
        method = Nearest.from_float(weight(), "pot3d", wide="pot4x2", narrow_at=0.3, learn=learn)
        plain = Nearest.from_float(weight(), "pot4x2", learn=learn)
        assert method.format.name == "pot4x2"
        assert torch.equal(method.weight(), plain.weight())
        with torch.no_grad():
            method.latent.mul_(1.3)
        latent = method.latent
        for fraction in (0.0, 0.29):
            method.set_progress(fraction)
            assert method.format.name == "pot4x2"
        method.set_progress(0.3)
        assert method.format.name == "pot3d"
        assert method.latent is latent
        fresh = Nearest.from_float(latent.detach(), "pot3d", learn=learn)
        assert torch.equal(method.weight(), fresh.weight())
        assert torch.equal(method.codes(), fresh.codes())
        if method.learned is not None and fresh.learned is not None:
            assert method.learned.factor == fresh.learned.factor
            with torch.no_grad():
                method.learned.value.add_(0.1)
        method.set_progress(0.0)  # never back, and no second search
        assert method.format.name == "pot3d"
        if method.learned is not None and fresh.learned is not None:
            assert torch.equal(method.learned.value, fresh.learned.value + 0.1)


def test_a_state_from_the_narrow_part_is_taken_up_there() -> None:
    options = {"wide": ("int6", "pot4x2"), "narrow_at": (0.2, 0.5), "scale": "free", "learn": "scale"}
    method = Nearest.from_float(weight(), "pot3d", **options)
    method.set_progress(0.21)
    assert method.format.name == "pot4x2"
    twin = Nearest.from_float(weight(seed=7), "pot3d", **options)
    twin.load_state_dict(method.state_dict())
    for one in (twin, copy.deepcopy(method)):
        assert one.format.name == "pot4x2"
        assert torch.equal(one.weight(), method.weight())
        one.set_progress(0.5)
        assert one.format.name == "pot3d"
        assert one.learned is not None
        assert one.learned.factor == 1 / sqrt(40 * 8)
    # a run that is resumed behind both changes enters the last set at once
    late = Nearest.from_float(weight(), "pot3d", **options)
    assert "int6, (6, 40), pot4x2 from 0.2, pot3d from 0.5" in repr(late)
    late.set_progress(0.9)
    assert late.format.name == "pot3d"


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="allowed: 'none', 'scale'"):
        Nearest.from_float(weight(), "pot3d", learn="all")
    with pytest.raises(ValueError, match="one rising fraction of the run"):
        Nearest.from_float(weight(), "pot3d", wide="pot4x2")
    with pytest.raises(ValueError, match="one rising fraction of the run"):
        Nearest.from_float(weight(), "pot3d", wide=("int8", "pot4x2"), narrow_at=(0.5, 0.3))
    with pytest.raises(ValueError, match="did you mean 'pot4x2'"):
        Nearest.from_float(weight(), "pot3d", wide="pot4x22", narrow_at=0.3)
    with pytest.raises(ValueError, match="differ between channels"):
        Nearest.from_float(weight((2, 4)), "pot3d", scale=torch.tensor([1.0, 2.0]), granularity="tensor")
