"""Latents in bfloat16: rounding without bias, the same bits everywhere, steps that a resumed run repeats."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from bitshift.nn import ShiftConfig, convert
from bitshift.nn import methods as _filled  # noqa: F401 - fills the registry
from bitshift.nn.kernels import cpu
from bitshift.nn.latents import RoundedSGD, keep_in_bfloat16, noise, rounded, rounded_sgd, rounding_key
from bitshift.nn.method import METHODS, Method, get_method


def numbers(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def test_rounding_takes_a_neighbour_and_has_the_right_mean():
    value = torch.full((200_000,), 1.0 + 2.0**-7 * 0.3)  # bfloat16 has 1 and 1 + 2**-7
    got = rounded(value, noise(len(value), 7, value.device) & 0xFFFF).float()
    assert set(got.tolist()) == {1.0, 1.0 + 2.0**-7}
    share = float((got > 1).double().mean())
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / len(value)) ** 0.5
    exact = torch.tensor([0.0, -0.0, 1.5, -3.0, float("inf"), -float("inf"), float("nan")])
    again = rounded(exact, torch.full((7,), 0xFFFF)).float()
    assert again[:6].tolist() == exact[:6].tolist()
    assert again[6].isnan()
    assert torch.equal(again[:2].signbit(), exact[:2].signbit())


def test_the_noise_of_two_steps_and_of_two_parameters_is_unrelated():
    places = ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))
    bits = [noise(1 << 16, rounding_key(*at), torch.device("cpu")).double() for at in places]
    table = torch.corrcoef(torch.stack(bits)) - torch.eye(4)
    assert float(table.abs().max()) < 5 / 256


@pytest.mark.skipif(cpu.native is None, reason="the compiled module is not built")
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("factor", [0.0, 0.9])
def test_the_compiled_step_has_the_bits_of_the_formula(monkeypatch, nesterov, factor):
    for seed, count in enumerate((1, 17, 4099, 70001)):
        results = []
        for native in (cpu.native, None):
            monkeypatch.setattr(cpu, "native", native)
            latent, momentum = numbers(count, seed).bfloat16(), numbers(count, seed + 9).bfloat16()
            grad = numbers(count, seed + 5).bfloat16()
            latent[0], grad[-1] = float("nan"), float("inf")
            for step in range(3):
                rounded_sgd(
                    grad, latent, momentum if factor else None, lr=0.01, factor=factor, decay=1e-4, nesterov=nesterov,
                    key=rounding_key(1, 2, step),
                )  # fmt: skip
            results.append((latent.view(torch.int16), momentum.view(torch.int16)))
        monkeypatch.undo()
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])


def test_small_steps_add_up_where_rounding_to_nearest_stands_still():
    start = torch.ones(4000, dtype=torch.bfloat16)
    stochastic, nearest = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = RoundedSGD([stochastic], lr=1e-4), torch.optim.SGD([nearest], lr=1e-4)
    for _ in range(500):
        for p, optimizer in zip((stochastic, nearest), optimizers, strict=True):
            p.grad = torch.ones_like(p)
            optimizer.step()
    assert bool((nearest == 1).all())
    assert abs(float(stochastic.detach().double().mean()) - 0.95) < 2e-3


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_trains_bfloat16_latents(name):
    cls = get_method(name)
    bits = 3 if 3 in cls.bits else cls.bits[0]
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    config = ShiftConfig(method=name, bits=bits, init="pretrained", latents="bfloat16")
    model, _ = convert(model, config, generator=torch.Generator().manual_seed(0))
    methods = [m for m in model.modules() if isinstance(m, Method)]
    assert methods
    assert all(p.dtype == torch.bfloat16 for m in methods for p in m.parameters(recurse=False) if p.numel() >= 24)
    x = numbers(60, 0).view(10, 6)
    optimizer = RoundedSGD(model.parameters(), lr=0.01, momentum=0.9)
    before = copy.deepcopy(model.state_dict())
    for method in methods:
        method.set_progress(0.0)
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(x).square().mean() + sum(m.penalty() for m in methods)
        loss.backward()
        optimizer.step()
        for method in methods:
            method.after_step()
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())
    for method in methods:
        assert method.weight().dtype == torch.float32
        if name != "inq":  # partly float until the last portion
            shape = (-1, *(1,) * (len(method.shape) - 1))
            assert torch.equal(method.weight(), method.levels() * method.scale().view(shape))


@pytest.mark.parametrize("option", [{"maximize": True}, {"momentum": 0.9, "dampening": 0.5}])
def test_what_the_optimiser_would_ignore_is_refused(option):
    with pytest.raises(ValueError, match="no dampening and no maximize"):
        RoundedSGD([nn.Parameter(torch.ones(3, dtype=torch.bfloat16))], lr=0.1, **option)


def test_a_resumed_optimiser_repeats_the_undisturbed_run():
    def made() -> tuple[nn.Parameter, nn.Parameter, RoundedSGD]:
        a, b = nn.Parameter(numbers(300, 1).bfloat16()), nn.Parameter(numbers(9, 2))
        return a, b, RoundedSGD([a, b], lr=0.01, momentum=0.9, weight_decay=1e-3, seed=5, fused=True)

    def steps(a: nn.Parameter, b: nn.Parameter, optimizer: RoundedSGD, places: range) -> None:
        for place in places:
            a.grad, b.grad = numbers(300, 10 + place).bfloat16(), numbers(9, 20 + place)
            optimizer.step()
            assert a.grad is not None

    whole = made()
    steps(*whole, range(6))
    first = made()
    steps(*first, range(3))
    second = made()
    with torch.no_grad():
        second[0].copy_(first[0])
        second[1].copy_(first[1])
    second[2].load_state_dict(first[2].state_dict())
    steps(*second, range(3, 6))
    assert torch.equal(whole[0], second[0])
    assert torch.equal(whole[1], second[1])
    assert whole[2].state[whole[0]]["momentum_buffer"].dtype == torch.bfloat16


def test_scales_and_float_layers_keep_float32():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    config = ShiftConfig(method="uniform", bits=4, keep_last="float")
    model = keep_in_bfloat16(convert(model, config)[0])
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    assert kinds.pop("0.method.latent") == torch.bfloat16
    assert set(kinds.values()) == {torch.float32}
    with pytest.raises(ValueError, match="latents='half'"):
        ShiftConfig(latents="half")  # pyright: ignore[reportArgumentType]


def test_a_step_whose_gradients_overflowed_in_float16_is_left_out_whole():
    half, single = nn.Parameter(torch.ones(4, dtype=torch.bfloat16)), nn.Parameter(torch.ones(4))
    optimizer = RoundedSGD([half, single], lr=0.1, momentum=0.9, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for gradient, scale in ((float("inf"), 4.0), (1.0, 4.0)):
        for p in (half, single):
            p.grad = torch.full_like(p, gradient) * scaler.get_scale()
        scaler.scale(torch.zeros(()))  # as a loss, which starts the scaler
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == scale
        moved = gradient == 1.0
        assert [bool((p == 1).all()) for p in (half, single)] == [not moved] * 2
    assert torch.allclose(half.float(), torch.tensor(0.9), atol=2**-8)
