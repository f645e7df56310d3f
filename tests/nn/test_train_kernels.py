"""The compiled training kernels against the formulas in PyTorch that they stand in for."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bitshift.nn import ActQuant
from bitshift.nn.kernels import cpu, on_cpu
from bitshift.nn.method import Method, get_method
from bitshift.nn.norms import ShiftNorm

needs_module = pytest.mark.skipif(cpu.native is None, reason="the compiled module is not built")
LAYOUTS = ("contiguous", "channels_last", "holes", "permuted")
SHAPES = ((2, 3, 5, 7), (4, 16, 8, 8), (1, 1, 1, 1), (3, 300, 2, 2), (5, 2, 33, 31))


def values(shape: tuple[int, ...], layout: str, dtype: torch.dtype, seed: int, *, odd: bool = True) -> Tensor:
    """Normal numbers with ties, both zeros, infinities and (``odd``) NaNs among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * 3
    special = [0.0, -0.0, 0.25, -0.25, 0.75, 1.25, -1.75, 1e30, -1e30, 1e-40, -1e-40]
    special += [math.inf, -math.inf, math.nan] if odd else []
    flat = x.flatten()
    at = torch.randint(flat.numel(), (min(len(special), flat.numel()),), generator=generator)
    flat[at] = torch.tensor(special[: len(at)])
    x = flat.view(shape).to(dtype)
    if layout == "channels_last" and len(shape) == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "holes":
        return torch.stack([x, x], -1)[..., 0]
    if layout == "permuted":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    return x


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal including the signs of zeros; NaNs of any kind are equal."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    nan = a.isnan()
    raw = torch.int32 if a.dtype == torch.float32 else torch.int16
    equal = a.contiguous().view(raw) == b.contiguous().view(raw)
    return bool(torch.equal(nan, b.isnan()) and (equal | nan).all())


def both(monkeypatch: pytest.MonkeyPatch, compute) -> tuple[list[Tensor], list[Tensor]]:
    """What ``compute`` gives with the compiled module and without it."""
    fused = compute()
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "native", None)
        plain = compute()
    return fused, plain


@needs_module
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("bits", "signed", "t"), [(8, False, -3.3), (8, True, -1.0), (4, True, 0.2), (2, False, 1.0)])
def test_the_activation_quantiser_has_the_bits_of_the_formula(monkeypatch, dtype, layout, bits, signed, t):
    for seed, shape in enumerate(SHAPES):
        quant = ActQuant(bits, signed=signed).train()
        with torch.no_grad():
            quant.log2_step.fill_(t)
            quant.initialised.fill_(True)
        finite = values(shape, layout, dtype, seed, odd=False)
        g = values(shape, LAYOUTS[seed % 4], dtype, seed + 100, odd=False).clamp(-9, 9)

        def step(data: Tensor, g: Tensor = g, quant: ActQuant = quant) -> list[Tensor]:
            x = data.detach().requires_grad_()
            quant.log2_step.grad = None
            y = quant(x)
            y.backward(g)
            assert x.grad is not None
            assert quant.log2_step.grad is not None
            return [y.detach(), x.grad, quant.log2_step.grad.clone()]

        fused, plain = both(monkeypatch, lambda data=finite, step=step: step(data))
        assert same_bits(fused[0], plain[0])
        assert same_bits(fused[1], plain[1])
        # The formula subtracts two sums; a slope of 1e30 is clipped out of both.
        torch.testing.assert_close(fused[2], plain[2], rtol=2e-2 if dtype == torch.bfloat16 else 1e-3, atol=1e-3)
        odd = values(shape, layout, dtype, seed)
        fused, plain = both(monkeypatch, lambda odd=odd, quant=quant: [quant(odd).detach()])
        assert same_bits(fused[0], plain[0])


@needs_module
@pytest.mark.parametrize("learn_scale", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_norm_agrees_with_the_formula(monkeypatch, layout, dtype, learn_scale):
    for seed, shape in enumerate(((4, 16, 8, 8), (3, 300, 2, 2), (5, 2, 33, 31), (40, 7))):
        data = values(shape, layout, torch.float32, seed, odd=False).clamp(-9, 9)
        data = (data + torch.arange(shape[1]).view(1, -1, *[1] * (len(shape) - 2))).to(dtype)
        g = values(shape, LAYOUTS[seed % 4], dtype, seed + 50, odd=False).clamp(-9, 9)

        def step(data: Tensor = data, g: Tensor = g, channels: int = shape[1]) -> list[Tensor]:
            norm = ShiftNorm(channels, learn_scale=learn_scale).train()
            with torch.no_grad():
                norm.running_mean.normal_(generator=torch.Generator().manual_seed(1))
                norm.bias.normal_(generator=torch.Generator().manual_seed(2))
            x = data.detach().requires_grad_()
            y = norm(x)
            assert y.dtype == data.dtype
            y.backward(g)
            assert x.grad is not None
            assert norm.bias.grad is not None
            gains = [] if norm.log2_gain is None or norm.log2_gain.grad is None else [norm.log2_gain.grad]
            return [norm.running_mean, norm.running_var, y.detach(), x.grad, norm.bias.grad, *gains]

        fused, plain = both(monkeypatch, step)
        for name, a, b in zip(("mean", "var", "y", "dx", "bias", "gain"), fused, plain, strict=False):
            close = 2e-2 if a.dtype == torch.bfloat16 else 2e-5
            torch.testing.assert_close(
                a, b, rtol=close, atol=close * float(b.abs().max()), msg=lambda m, n=name: f"{n}: {m}"
            )


@needs_module
def test_a_mean_far_from_the_running_one_keeps_the_variance(monkeypatch):
    data = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0)) + 1e4

    def variance() -> list[Tensor]:
        norm = ShiftNorm(4).train()
        norm(data)
        return [norm.running_var]

    fused, plain = both(monkeypatch, variance)
    torch.testing.assert_close(fused[0], plain[0], rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_sums_read_a_shift_of_any_type(dtype):
    x = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    shift = torch.arange(5.0)
    sums = cpu.channel_sums(x, x, shift, centre_a=True)
    assert all(map(torch.equal, sums, cpu.channel_sums(x, x, shift.to(dtype), centre_a=True)))


def test_traced_and_foreign_tensors_are_left_to_the_formulas():
    assert not on_cpu(torch.zeros(2, dtype=torch.float64))
    assert not on_cpu(torch.zeros(2, device="meta"))
    with torch._subclasses.FakeTensorMode():
        assert not on_cpu(torch.zeros(2))
    assert on_cpu(torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)) == (cpu.native is not None)


METHODS = [
    ("denseshift", 2, {}), ("denseshift", 3, {}), ("denseshift", 4, {}), ("denseshift", 3, {"surrogate": False}),
    ("s3", 2, {}), ("s3", 3, {}), ("s3", 4, {"alpha": 0.3}), ("s3", 3, {"alpha": 0.0}),
    ("nearest", 2, {}), ("nearest", 3, {}), ("nearest", 4, {}), ("nearest", 6, {}), ("nearest", 4, {"scale": "free"}),
    ("nearest", 3, {"learn": "scale"}), ("nearest", 4, {"learn": "scale", "scale": "free"}),
    ("nearest", 3, {"learn": "scale", "granularity": "tensor"}),
    ("uniform", 2, {}), ("uniform", 3, {}), ("uniform", 8, {}), ("uniform", 4, {"granularity": "tensor"}),
    ("uniform", 4, {"step": "pot"}), ("deepshift_q", 3, {}), ("deepshift_q", 5, {}),
    ("deepshift_ps", 3, {}), ("deepshift_ps", 5, {"weight_decay": 0.1}), ("deepshift_ps", 4, {"weight_decay": 0.0}),
]  # fmt: skip


def awkward(latent: Tensor, seed: int) -> Tensor:
    """Latents with ties, both zeros and numbers at both ends of float32 among them."""
    flat = latent.detach().clone().flatten()
    special = [0.0, -0.0, 0.5, -0.5, 1.5, -1.5, 1e-40, -1e-40, 1e30, -1e30, 0.25, -0.75]
    at = torch.randperm(flat.numel(), generator=torch.Generator().manual_seed(seed))[: len(special)]
    flat[at] = torch.tensor(special[: len(at)], dtype=flat.dtype)
    return flat.view(latent.shape)


def penalty_of(options: dict[str, Any], name: str) -> float:
    """The weight of the regulariser."""
    return float(options.get({"s3": "alpha", "deepshift_ps": "weight_decay"}[name], 1.0))


@needs_module
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "bits", "options"), METHODS)
def test_weights_and_gradients_have_the_bits_of_the_formulas(monkeypatch, name, bits, options, dtype):
    cls = get_method(name)
    for seed, shape in enumerate(((7, 3, 3, 3), (1, 1), (5, 1031), (33, 2, 1, 1))):
        made = cls.random(shape, cls.format_for(bits), generator=torch.Generator().manual_seed(seed), **options)
        with torch.no_grad():
            for latent in made.parameters():
                if latent.numel() >= math.prod(shape):
                    latent.copy_(awkward(latent, seed))
        made.after_step()
        made = made.to(dtype)
        grad = values(shape, LAYOUTS[seed % 4], torch.float32, seed + 9, odd=False).clamp(-9, 9)

        def step(made: Method = made, grad: Tensor = grad) -> list[Tensor]:
            made.zero_grad()
            weight = made.weight()
            penalty = made.penalty()
            torch.autograd.backward(
                [(weight * grad).sum(), penalty] if penalty.requires_grad else [(weight * grad).sum()]
            )
            return [weight.detach(), penalty.detach(), *(p.grad for p in made.parameters() if p.grad is not None)]

        fused, plain = both(monkeypatch, step)
        assert len(fused) == len(plain) > 2
        assert same_bits(fused[0], plain[0])
        torch.testing.assert_close(fused[1], plain[1], rtol=1e-5, atol=1e-30)
        # gradients that autograd adds up, rounding each, and sums over many weights
        added = name in ("s3", "deepshift_ps") and bool(penalty_of(options, name))
        for a, b in zip(fused[2:], plain[2:], strict=True):
            if a.numel() < math.prod(shape) or (added and (dtype == torch.bfloat16 or name == "deepshift_ps")):
                torch.testing.assert_close(
                    a, b, rtol=2e-2 if dtype == torch.bfloat16 else 2e-5, atol=4e-3 if dtype == torch.bfloat16 else 1e-5
                )
            else:
                assert torch.equal(a, b)  # -0 + 0 is where autograd adds two gradients


@needs_module
@pytest.mark.parametrize("name", ["s3", "deepshift_ps"])
def test_a_penalty_computed_on_the_way_is_used_once_and_never_stale(name):
    cls = get_method(name)
    method = cls.random((4, 6), cls.format_for(3), generator=torch.Generator().manual_seed(0))
    weight = method.weight()
    first, second = method.penalty(), method.penalty()
    torch.testing.assert_close(first, second)
    weight.sum().backward()
    (first * 2).backward()  # its own backward, after the weight's
    apart = [p.grad.clone() for p in method.parameters() if p.grad is not None]
    method.zero_grad()
    (method.weight().sum() + 2 * method.penalty()).backward()
    for a, b in zip(apart, [p.grad for p in method.parameters()], strict=True):
        torch.testing.assert_close(a, b)
    method.weight()
    with torch.no_grad():
        next(method.parameters()).sub_(1)
    method.after_step()
    with torch.no_grad():
        want = method.penalty()
    torch.testing.assert_close(method.penalty().detach(), want)
    method.weight()
    copy.deepcopy(method)
    with torch.no_grad():
        assert not method.penalty().requires_grad


@needs_module
def test_several_threads_give_the_same_bits():
    shape, before = (256, 64, 3, 3), torch.get_num_threads()
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    results: list[list[Tensor]] = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = []
            for name, bits in (("denseshift", 3), ("nearest", 4), ("deepshift_q", 4), ("deepshift_ps", 4)):
                cls = get_method(name)
                method = cls.random(shape, cls.format_for(bits), generator=torch.Generator().manual_seed(0))
                weight = method.weight()
                weight.backward(grad)
                out += [weight.detach(), *(p.grad for p in method.parameters() if p.grad is not None)]
            results.append(out)
    finally:
        torch.set_num_threads(before)
    assert all(same_bits(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # torch's own, of every autograd function
def test_a_weight_compiles_and_exports_as_its_formula():
    method = get_method("denseshift").random((3, 4), "pot3d", generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(method.weight, backend="aot_eager", fullgraph=True)
    weight = compiled()
    assert torch.equal(weight.detach(), method.weight().detach())
    weight.backward(torch.ones(3, 4))
    (got,) = (p.grad for p in method.parameters())
    assert got is not None
    method.zero_grad()
    method.weight().backward(torch.ones(3, 4))
    (want,) = (p.grad for p in method.parameters())
    assert want is not None
    assert torch.equal(got, want)
