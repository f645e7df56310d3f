"""APoT: its level sets, the gradients of the authors' code, and the constant size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitshift.nn import ShiftConfig, convert, freeze
from bitshift.nn.activations import calibrate
from bitshift.nn.methods import APoT


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pretrained(bits: int = 4, **options) -> APoT:
    weight = torch.randn(6, 50, generator=seeded(0)) * 0.07 + 0.01
    return APoT.from_float(weight, APoT.format_for(bits), **options)


GRIDS = {
    3: {0, 1 / 2, 1 / 4, 1 / 8},
    4: {a + b for a in (0, 1 / 2, 1 / 4, 1 / 16) for b in (0, 1 / 8)},
    5: {a + b for a in (0, 2**-1, 2**-3, 2**-5) for b in (0, 2**-2, 2**-4, 2**-6)},
}


@pytest.mark.parametrize("bits", GRIDS)
def test_levels_over_the_clip_are_the_papers(bits: int) -> None:
    spread = torch.linspace(-1, 1, 4001).view(1, -1)
    method = APoT.from_float(spread, APoT.format_for(bits), alpha=1.5)
    found = (method.weight() / (1.5 * method.size)).abs().unique()
    grid = torch.tensor(sorted(GRIDS[bits]))
    torch.testing.assert_close(found, grid / grid.max())


def reference(latent: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """The paper's weight from its formulas, straight through as its code says: no clip for the latent."""
    u = (latent - latent.detach().mean()) / latent.detach().std()
    grid = torch.tensor(sorted(GRIDS[bits]))
    grid = grid / grid.max()
    v = (u / alpha).detach()
    q = grid[(v.abs().clamp(max=1)[..., None] - grid).abs().argmin(-1)] * v.sign()
    through_alpha = torch.where(v.abs() > 1, v.sign(), q - v)
    return alpha.detach() * q + (u - u.detach()) + through_alpha * (alpha - alpha.detach())


@pytest.mark.parametrize("bits", GRIDS)
@pytest.mark.parametrize("alpha", [3.0, 1.0])
def test_weight_and_gradients_are_those_of_the_formulas_times_the_size(bits: int, alpha: float) -> None:
    method = pretrained(bits, alpha=alpha)
    latent = method.latent.detach().clone().requires_grad_()
    clip = torch.tensor(alpha, requires_grad=True)
    expected = reference(latent, clip, bits)
    torch.testing.assert_close(method.weight(), expected * method.size)
    grad = torch.randn(6, 50, generator=seeded(1))
    method.weight().backward(grad)
    (expected * method.size).backward(grad)
    torch.testing.assert_close(method.latent.grad, latent.grad)
    torch.testing.assert_close(method.alpha.grad, clip.grad, rtol=1e-4, atol=1e-6)


def test_size_cancels_behind_a_norm_so_that_training_is_the_papers() -> None:
    moved = []
    for factor in (1.0, 8.0):  # the paper's weights have deviation 1; ours here 0.07 and 0.56
        method = pretrained()
        with torch.no_grad():
            method.size.mul_(factor)
        norm = nn.BatchNorm1d(6, eps=1e-12)
        x = torch.randn(32, 50, generator=seeded(2))
        (norm(x @ method.weight().T) * torch.randn(32, 6, generator=seeded(3))).sum().backward()
        assert method.latent.grad is not None
        assert method.alpha.grad is not None
        moved.append((method.latent.grad, method.alpha.grad))
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-3, atol=1e-5)


def test_the_size_is_that_of_the_start_while_the_latent_grows() -> None:
    method = pretrained()
    before = method.weight().detach().clone()
    torch.testing.assert_close(method.size, method.latent.std())
    with torch.no_grad():
        method.latent.mul_(2).add_(0.5)
    torch.testing.assert_close(method.weight(), before)


def test_alpha_has_its_own_rate_and_no_decay() -> None:
    (latent, alpha) = pretrained(lr_alpha=0.02).param_groups(lr=0.04, weight_decay=1e-4)
    assert (latent["lr"], latent["weight_decay"]) == (0.04, 1e-4)
    assert (alpha["lr"], alpha["weight_decay"]) == (0.02, 0.0)
    assert pretrained().param_groups(lr=0.04, weight_decay=1e-4)[1]["lr"] == 0.04


def test_a_searched_clip_is_better_than_three_deviations_and_a_power_of_two_is_one() -> None:
    errors = {}
    for name, options in {"three": {}, "search": {"alpha": "search"}}.items():
        method = pretrained(4, normalise=False, **options)
        errors[name] = (method.weight() - method.latent).square().sum().item()
    assert errors["search"] < errors["three"]
    method = pretrained(4, scale="pot")
    assert bool((torch.frexp(method.scale())[0] == 0.5).all())
    free = pretrained(4).scale()[0]
    assert 2**-0.5 <= float(method.scale()[0] / free) <= 2**0.5


def test_the_power_of_two_follows_alpha_with_hysteresis() -> None:
    method = pretrained(4, scale="pot", alpha=1.0)
    start = int(method.exponent)
    base = float((method.size / 10).log2())  # log2 of the free scale at alpha 1
    seen = []
    for octaves in (0.45, 0.65, 0.75, 0.5, 0.35, 0.25):
        with torch.no_grad():
            method.alpha.fill_(2 ** (start + octaves - base))
        method.after_step()
        seen.append(int(method.exponent) - start)
    assert seen == [0, 0, 1, 1, 1, 0]


def test_the_clip_stays_positive_and_bad_options_are_named() -> None:
    method = pretrained()
    with torch.no_grad():
        method.alpha.fill_(-3)
    method.after_step()
    assert method.alpha.item() > 0
    with pytest.raises(ValueError, match="allowed: 'free', 'pot'"):
        pretrained(scale="best")
    with pytest.raises(ValueError, match="'search'"):
        pretrained(alpha="best")
    with pytest.raises(ValueError, match="alpha=-1"):
        pretrained(alpha=-1.0)
    with pytest.raises(ValueError, match="allowed bits: 2, 3, 4, 5"):
        APoT.format_for(6)


@pytest.mark.parametrize("multiplier", [True, False])
def test_an_integer_network_freezes_with_it(multiplier: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    x = torch.randn(8, 3, 6, 6, generator=seeded(1))
    net(x)
    options = {} if multiplier else {"scale": "pot", "normalise": False}
    config = ShiftConfig(
        method="apot", bits=4, activations=8, multiplier=multiplier, init="pretrained", options=options
    )
    model, _ = convert(net.eval(), config, sample=x)

    frozen = freeze(calibrate(model, [x]), x)
    assert frozen.is_integer
    assert frozen(x).shape == (8, 4)
