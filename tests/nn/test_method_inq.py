"""INQ: its sets, the order in which weights are fixed, and that what is fixed stays."""

from __future__ import annotations

import copy
from math import floor, log2

import pytest
import torch

from bitshift.nn.methods import INQ
from bitshift.nn.methods.inq import least_exponent


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pretrained(bits: int = 5, shape: tuple[int, ...] = (8, 25), **options) -> INQ:
    return INQ.from_float(torch.randn(shape, generator=seeded(0)) * 0.1, f"pot{bits}", **options)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
@pytest.mark.parametrize("top", [1.0, 1.49, 1.500001, 1.51, 0.750001, 0.7499, 0.0123, 37.0])
def test_the_set_of_a_layer_is_the_papers(bits, top):
    n1 = floor(log2(4 * top / 3))
    assert least_exponent(torch.tensor([-top, 0.0]), bits) == n1 + 1 - 2 ** (bits - 2)
    exponents = range(n1 + 1 - 2 ** (bits - 2), n1 + 1)
    expected = {0.0, *(2.0**n for n in exponents), *(-(2.0**n) for n in exponents)}
    spread = torch.linspace(-top, top, 20001).view(1, -1)
    method = INQ.from_float(spread, f"pot{bits}")
    method.set_progress(0.99)
    assert set(method.weight().flatten().tolist()) == expected
    # the paper's rule: between neighbours a < b the boundary is (a + b) / 2, zero takes |w| below half the least
    levels = torch.tensor(sorted(expected))
    distance = (spread - method.weight()).abs()
    assert torch.allclose(distance[0], (spread.T - levels).abs().amin(1), atol=1e-6)


def test_the_largest_weights_are_fixed_first_at_their_nearest_level():
    method = pretrained()
    before = method.weight().detach().clone()
    assert torch.equal(before, method.latent)  # nothing is fixed before the run begins
    assert method.fixed_share == 0
    method.set_progress(0.0)
    after = method.weight().detach()
    changed = method.fixed != 255
    assert int(changed.sum()) == 100
    assert before.abs()[changed].min() >= before.abs()[~changed].max()
    assert torch.equal(after[~changed], before[~changed])
    assert torch.equal(after[changed], (method.levels() * method.scale()[:, None])[changed])


@pytest.mark.parametrize(
    ("fraction", "share"), [(0, 0.5), (0.33, 0.5), (1 / 3, 0.75), (0.66, 0.75), (2 / 3, 0.875), (0.95, 1), (0.999, 1)]
)
def test_shares_follow_the_fraction_and_never_go_back(fraction, share):
    method = pretrained()
    method.set_progress(fraction)
    assert method.fixed_share == share
    held = method.fixed.clone()
    method.set_progress(0.0)
    method.set_progress(fraction)
    assert torch.equal(method.fixed, held)


def test_fixed_weights_have_no_gradient_and_stay_under_momentum_and_weight_decay():
    method = pretrained()
    optimizer = torch.optim.SGD(method.param_groups(lr=0.1, weight_decay=0.1), lr=0.1, momentum=0.9)
    for step in range(40):
        method.set_progress(step / 40)
        fixed, before = method.fixed != 255, method.weight().detach().clone()
        optimizer.zero_grad()
        (method.weight() - torch.randn(8, 25, generator=seeded(step))).square().sum().backward()
        assert bool((method.latent.grad[fixed] == 0).all())
        assert step >= 38 or bool((method.latent.grad[~fixed] != 0).all())
        optimizer.step()
        method.after_step()
        assert torch.equal(method.weight()[fixed], before[fixed])
        assert torch.equal(method.latent[fixed], before[fixed])
        assert step >= 38 or not torch.equal(method.weight(), before)
    assert method.fixed_share == 1


def test_codes_before_the_end_are_those_of_the_nearest_levels():
    method = pretrained(3)
    method.set_progress(0.0)
    with torch.no_grad():
        method.latent.add_(torch.randn(8, 25, generator=seeded(9)))  # far outside the table too
    method.after_step()
    value = method.weight().detach() / method.scale()[:, None]
    allowed = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    nearest = allowed[(value[..., None] - allowed).abs().argmin(-1)]
    assert torch.equal(method.levels(), nearest)
    assert torch.isfinite(method.threshold_distance()).all()


def test_a_state_in_the_middle_of_the_schedule_continues():
    one = pretrained()
    one.set_progress(0.35)
    two = pretrained(shape=(8, 25))
    two.load_state_dict(one.state_dict())
    three = copy.deepcopy(one)
    for method in (one, two, three):
        method.set_progress(0.36)  # the same stage: nothing moves
        assert method.fixed_share == 0.75
        with torch.no_grad():
            method.latent.mul_(0.9)
        method.after_step()
        method.set_progress(0.6)
    assert torch.equal(one.fixed, two.fixed)
    assert torch.equal(one.fixed, three.fixed)
    assert torch.equal(one.weight(), two.weight())


def test_other_portions_and_bad_ones():
    method = pretrained(portions=(0.2, 1.0), at=(0.1, 0.5))
    method.set_progress(0.05)
    assert method.fixed_share == 0
    method.set_progress(0.1)
    assert method.fixed_share == 0.2
    method.set_progress(0.5)
    assert method.fixed_share == 1
    with pytest.raises(ValueError, match="end with 1"):
        pretrained(portions=(0.5, 0.9), at=(0.0, 0.5))
    with pytest.raises(ValueError, match="rising fractions of the run"):
        pretrained(portions=(0.5, 1.0), at=(0.0, 1.0))
    with pytest.raises(ValueError, match="allowed bits: 2, 3, 4, 5"):
        INQ.format_for(6)
