"""Laws that every registered training method keeps at every bit-width."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import bitshift.nn.methods  # noqa: F401 - fills the registry
from bitshift.nn.method import METHODS, Method, get_method

NAMES = sorted(METHODS)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in NAMES},
    "nearest, learned": ("nearest", {"learn": "scale"}),
    "nearest, learned free": ("nearest", {"learn": "scale", "scale": "free", "granularity": "tensor"}),
    "nearest, progressive": ("nearest", {"learn": "scale", "wide": ("int6", "pot4x2"), "narrow_at": (0.2, 0.5)}),
    "apot, power of two": ("apot", {"scale": "pot", "alpha": "search", "normalise": False}),
}
"""Every method by its name, and those whose options change what trains."""
every_kind = pytest.mark.parametrize("kind", KINDS)
CASES = [(name, bits) for name in NAMES for bits in METHODS[name].bits]
SHAPES = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def per_channel(method: Method) -> Tensor:
    return method.scale().view(-1, *(1,) * (len(method.shape) - 1))


def finished(method: Method) -> Method:
    """At the end of its schedule: what is only partly quantised before (INQ) is quantised then."""
    method.set_progress(1 - 2**-20)
    return method


def start(kind: str, data: st.DataObject) -> Method:
    """A random or pretrained start of a drawn shape and width, at the end of its schedule."""
    name, options = KINDS[kind]
    cls = METHODS[name]
    format = data.draw(st.sampled_from(cls.formats()))
    shape, generator = data.draw(SHAPES), seeded(data.draw(SEEDS))
    if data.draw(st.booleans()):
        return finished(cls.random(shape, format, generator=generator, **options))
    weight = torch.randn(shape, generator=generator) * 2.0 ** data.draw(st.integers(-20, 20))
    return finished(cls.from_float(weight, format, generator=generator, **options))


def shake(method: Method, data: st.DataObject) -> None:
    """Latents as after a wild optimiser step: any size, zeros of both signs, then the projection."""
    generator = seeded(data.draw(SEEDS))
    with torch.no_grad():
        for latent in method.parameters():
            noise = torch.randn(latent.shape, generator=generator) * 2.0 ** data.draw(st.integers(-30, 30))
            latent.copy_(torch.where(torch.rand(latent.shape, generator=generator) < 0.2, noise.sign() * 0.0, noise))
    method.after_step()


def assert_consistent(method: Method) -> None:
    weight, codes = method.weight(), method.codes()
    assert weight.dtype == torch.float32
    assert codes.dtype == torch.uint8
    assert tuple(weight.shape) == tuple(codes.shape) == method.shape
    assert method.scale().shape == method.shape[:1]
    assert bool((method.scale() > 0).all())
    assert bool(torch.isfinite(weight).all())
    levels = method.format.decode(codes.numpy())  # refuses reserved codes
    assert np.array_equal(levels, method.levels().numpy())
    assert torch.equal(weight, method.levels() * per_channel(method))


@every_kind
@given(data=st.data())
def test_weight_is_levels_times_scale_in_training_and_evaluation(kind: str, data: st.DataObject) -> None:
    method = start(kind, data)
    if data.draw(st.booleans()):
        shake(method, data)
    assert_consistent(method.train())
    weight = method.weight()
    assert_consistent(method.eval())
    assert torch.equal(method.weight(), weight)


@every_kind
@given(data=st.data())
def test_gradients_are_finite_and_not_all_zero(kind: str, data: st.DataObject) -> None:
    name, options = KINDS[kind]
    cls = METHODS[name]
    format = data.draw(st.sampled_from(cls.formats()))
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(16, 24)))
    method = cls.random(shape, format, generator=seeded(data.draw(SEEDS)), **options)
    loss = (method.weight() * torch.randn(shape, generator=seeded(data.draw(SEEDS)))).sum() + method.penalty()
    loss.backward()
    grads = [p.grad for p in method.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in grads)
    assert any(bool((g != 0).any()) for g in grads)


@every_kind
@given(data=st.data())
def test_reading_changes_nothing_and_projection_is_idempotent(kind: str, data: st.DataObject) -> None:
    method = start(kind, data)
    shake(method, data)
    before = copy.deepcopy(method.state_dict())
    method.weight()
    method.codes()
    method.penalty()
    distance = method.threshold_distance()
    assert tuple(distance.shape) == method.shape
    assert bool((distance >= 0).all())
    assert bool(torch.isfinite(distance).all())
    method.after_step()
    after = method.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


@every_kind
@given(data=st.data())
def test_state_dict_copy_and_pickle_round_trip(kind: str, data: st.DataObject) -> None:
    method = start(kind, data)
    shake(method, data)
    name, options = KINDS[kind]
    other = METHODS[name].random(method.shape, method.format.name, generator=seeded(0), **options)
    other.load_state_dict(method.state_dict())
    buffer = io.BytesIO()
    torch.save(method, buffer)
    buffer.seek(0)
    for twin in (other, copy.deepcopy(method), torch.load(buffer, weights_only=False)):
        assert torch.equal(twin.codes(), method.codes())
        assert torch.equal(twin.scale(), method.scale())
        assert torch.equal(twin.weight(), method.weight())


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_a_start_repeats_with_its_generator_and_leaves_the_global_one(name: str, data: st.DataObject) -> None:
    cls, shape, seed = METHODS[name], data.draw(SHAPES), data.draw(SEEDS)
    format = data.draw(st.sampled_from(cls.formats()))
    state = torch.get_rng_state()
    one, two = (cls.random(shape, format, generator=seeded(seed)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert torch.equal(state, torch.get_rng_state())


SPECIAL = {
    "zeros": torch.zeros(3, 2, 2),
    "one element": torch.full((1, 1), -0.3),
    "all equal": torch.full((3, 5), 0.77),
    "huge": torch.tensor([[3e38, -1e30], [1.0, -3.4e38]]),
    "denormal": torch.tensor([[1e-40, -1e-45], [1.0, 1e-42]]),
    "all denormal": torch.tensor([[1e-40, -1e-45]]),
    "a zero channel": torch.tensor([[0.0, -0.0], [1.0, -0.4]]),
}


@pytest.mark.parametrize("weight", SPECIAL.values(), ids=SPECIAL.keys())
@pytest.mark.parametrize(("name", "bits"), CASES)
def test_from_float_accepts_special_weights(name: str, bits: int, weight: Tensor) -> None:
    cls = METHODS[name]
    method = finished(cls.from_float(weight, cls.format_for(bits), generator=seeded(1)))
    assert_consistent(method)
    assert bool(torch.isfinite(method.threshold_distance()).all())
    method.weight().backward(torch.ones_like(weight))
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in method.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_a_weight_that_is_not_finite_is_refused_with_its_place(name: str, bad: float) -> None:
    cls = METHODS[name]
    format = cls.formats()[0]
    weight = torch.ones(2, 3)
    weight[1, 2] = bad
    with pytest.raises(ValueError, match=r"weight\[\(1, 2\)\] is"):
        cls.from_float(weight, format)
    with pytest.raises(ValueError, match="has no elements"):
        cls.from_float(torch.ones(0, 3), format)
    method = cls.random((2, 3), format, generator=seeded(1))
    with torch.no_grad():
        next(method.parameters()).view(-1)[-1] = float("nan")
    with pytest.raises(ValueError, match="must be finite"):
        method.codes()


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_the_quantiser_stays_float32_under_autocast_and_after_half(name: str, bits: int) -> None:
    cls = METHODS[name]
    method = finished(cls.random((4, 8), cls.format_for(bits), generator=seeded(2)))
    plain = method.weight()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert method.weight().dtype == torch.float32
        assert torch.equal(method.weight(), plain)
    method.to(torch.bfloat16)
    assert_consistent(method)


@pytest.mark.parametrize("shape", [(6, 4, 3), (6, 4, 3, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_the_layout_in_memory_does_not_matter(name: str, shape: tuple[int, ...]) -> None:
    cls = METHODS[name]
    plain = finished(cls.random(shape, cls.formats()[-1], generator=seeded(4)))
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    grad = torch.randn(shape, generator=seeded(5))
    for method in (plain, last):
        method.weight().backward(grad)
        assert_consistent(method)
    assert torch.equal(plain.codes(), last.codes())
    for a, b in zip(plain.parameters(), last.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_a_weight_of_the_set_starts_as_itself(name: str, bits: int) -> None:
    cls = METHODS[name]
    first = finished(cls.from_float(torch.randn(4, 30, generator=seeded(3)), cls.format_for(bits)))
    options = {} if name in ("uniform", "deepshift_q", "deepshift_ps") else {"scale": first.scale()}
    if name == "apot":  # its unit is the deviation of the weight that it starts with
        size = float(first.weight().detach().std())
        options = {"normalise": False, "alpha": float(first.scale()[0]) * first.format.max_level / size}
    again = cls.from_float(first.weight().detach(), cls.format_for(bits), **options)
    if name == "uniform":  # LSQ's first step follows the mean, not the set
        again.load_state_dict({"latent": first.weight().detach(), "step": first.state_dict()["step"]})
    assert torch.equal(first.codes(), again.codes())


@pytest.mark.parametrize("name", NAMES)
def test_options_are_those_of_both_constructors(name: str) -> None:
    cls = METHODS[name]
    format = cls.formats()[0]
    cls.check_options(cls.options)
    cls.random((2, 2), format, **cls.options)
    cls.from_float(torch.ones(2, 2), format, **cls.options)
    with pytest.raises(ValueError, match="has no option 'no_such'"):
        cls.check_options(["no_such"])
    with pytest.raises(ValueError, match="unknown format"):
        cls.random((2, 2), "pot9")


@pytest.mark.parametrize("name", NAMES)
def test_parameter_groups_hold_every_latent_once(name: str) -> None:
    cls = METHODS[name]
    method = cls.random((2, 2), cls.formats()[0])
    groups = method.param_groups(lr=0.1, weight_decay=0.5)
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in method.parameters())
    torch.optim.SGD(groups, lr=0.1)
    assert method.latents()
    assert all(torch.is_tensor(t) for t in method.latents().values())


def test_widths_that_a_method_lacks_are_refused_by_name() -> None:
    for cls in METHODS.values():
        with pytest.raises(ValueError, match="allowed bits"):
            cls.format_for(17)
    with pytest.raises(ValueError, match="did you mean 'denseshift'"):
        get_method("densshift")


@pytest.mark.slow
def test_two_processes_equal_one_with_the_joint_batch_after_three_steps(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("data_parallel_worker.py")
    runs = [
        subprocess.Popen(
            [sys.executable, str(worker), str(tmp_path), str(rank)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
    one, two, joint = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("rank0", "rank1", "joint"))
    for key, value in one.items():
        assert torch.equal(value, two[key]), key
        # the two half-batch gradients are averaged: one more rounding than the joint sum
        torch.testing.assert_close(value, joint[key], rtol=1e-5, atol=1e-7, msg=lambda m, key=key: f"{key}: {m}")
