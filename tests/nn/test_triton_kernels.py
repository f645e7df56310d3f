"""Triton's kernels against the formulas, in Triton's interpreter on the CPU or on a GPU.

Without a GPU, with triton installed: ``TRITON_INTERPRET=1 python -m pytest tests/nn/test_triton_kernels.py``; and the
same without that variable, which compiles every kernel for a GPU that need not be there.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bitshift.nn import ActQuant, kernels
from bitshift.nn.kernels import cpu
from bitshift.nn.kernels.cpu import Levels
from bitshift.nn.latents import rounded_sgd, rounding_key
from bitshift.nn.method import Method, get_method

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_TRITON = importlib.util.find_spec("triton") is not None
runs = pytest.mark.skipif(
    not (_TRITON and (_INTERPRETED or torch.cuda.is_available())),
    reason="needs triton, and a GPU or TRITON_INTERPRET=1",
)
DEVICE = "cpu" if _INTERPRETED else "cuda"
METHODS = [
    ("denseshift", 2, {}), ("denseshift", 3, {}), ("denseshift", 4, {}), ("s3", 3, {"alpha": 0.0}),
    ("nearest", 3, {}), ("nearest", 4, {"scale": "free"}), ("uniform", 3, {}),
    ("uniform", 4, {"granularity": "tensor"}), ("deepshift_q", 5, {}), ("deepshift_ps", 4, {"weight_decay": 0.0}),
]  # fmt: skip


def numbers(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2
    flat, special = x.flatten(), torch.tensor([0.0, -0.0, 0.5, -0.5, 1.5, -0.25, 0.25, 1e30, -1e30])
    flat[: len(special)] = special[: flat.numel()]
    return flat.view(shape).to(DEVICE)


def both(monkeypatch: pytest.MonkeyPatch, compute) -> tuple[list[Tensor], list[Tensor]]:
    """What ``compute`` gives with Triton's kernels and with the formulas."""
    from bitshift.nn.kernels import gpu

    out = []
    for module in (gpu, None):
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "native", None)
            for user in (
                "activations",
                "ste",
                "methods.uniform",
                "methods.deepshift_q",
                "methods.deepshift_ps",
                "latents",
            ):
                patch.setattr(f"bitshift.nn.{user}.fused", lambda *_, module=module: module)
            out.append(compute())
    return out[0], out[1]


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "bits", "options"), METHODS)
def test_weights_and_gradients(monkeypatch, name, bits, options, dtype):
    cls = get_method(name)
    for shape in ((7, 3, 3, 3), (2, 1501)):
        made = cls.random(shape, cls.format_for(bits), generator=torch.Generator().manual_seed(0), **options).to(DEVICE)
        with torch.no_grad():
            for latent in made.parameters():
                if latent.numel() >= 63:
                    latent.flatten()[:9] = numbers(9)
        made.after_step()
        made = made.to(dtype)
        grad = numbers(*shape, seed=5).clamp(-9, 9)

        def step(made: Method = made, grad: Tensor = grad) -> list[Tensor]:
            made.zero_grad()
            weight = made.weight()
            weight.backward(grad)
            return [weight.detach(), *(p.grad for p in made.parameters() if p.grad is not None)]

        fused, plain = both(monkeypatch, step)
        assert len(fused) == len(plain) > 1
        for a, b in zip(fused, plain, strict=True):
            if a.numel() < 63:  # sums over many weights
                torch.testing.assert_close(a, b, rtol=2e-2 if dtype == torch.bfloat16 else 2e-5, atol=1e-4)
            else:
                assert torch.equal(a, b)


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("bits", "signed", "t"), [(8, False, -3.3), (4, True, -1.0)])
def test_the_activation_quantiser(monkeypatch, dtype, bits, signed, t):
    quant = ActQuant(bits, signed=signed).train().to(DEVICE)
    with torch.no_grad():
        quant.log2_step.fill_(t)
        quant.initialised.fill_(True)
    data, g = numbers(3, 4, 9, 31).to(dtype), numbers(3, 4, 9, 31, seed=2).clamp(-9, 9).to(dtype)

    def step() -> list[Tensor]:
        quant.zero_grad()
        x = data.clone().requires_grad_()
        y = quant(x)
        y.backward(g)
        assert x.grad is not None
        assert quant.log2_step.grad is not None
        return [y.detach(), x.grad, quant.log2_step.grad]

    fused, plain = both(monkeypatch, step)
    assert torch.equal(fused[0], plain[0])
    assert torch.equal(fused[1], plain[1])
    torch.testing.assert_close(fused[2], plain[2], rtol=2e-2 if dtype == torch.bfloat16 else 1e-3, atol=1e-3)


@runs
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("factor", [0.0, 0.9])
def test_the_rounded_step(monkeypatch, nesterov, factor):
    def steps() -> list[Tensor]:
        latent, momentum, grad = (numbers(3000, seed=s).bfloat16() for s in (1, 2, 3))
        for step in range(3):
            rounded_sgd(
                grad, latent, momentum if factor else None, lr=0.01, factor=factor, decay=1e-4, nesterov=nesterov,
                key=rounding_key(1, 2, step),
            )  # fmt: skip
        return [latent, momentum]

    fused, plain = both(monkeypatch, steps)
    for a, b in zip(fused, plain, strict=True):
        assert torch.equal(a, b)


def gate_latents() -> tuple[Tensor, Tensor, Tensor]:
    """Latents, scales and values of a gated weight of two latents."""
    return numbers(2, 4, 30), torch.ones(4, device=DEVICE), torch.arange(4.0, device=DEVICE)


LAUNCHES = {
    "_grid_forward": lambda gpu: gpu.grid_forward(numbers(40), torch.ones((), device=DEVICE), 0, 7),
    "_grid_backward": lambda gpu: gpu.grid_backward(numbers(40), numbers(40), torch.ones((), device=DEVICE), 0, 7),
    "_gate_forward": lambda gpu: gpu.gate_forward(*gate_latents()),
    "_gate_backward": lambda gpu: gpu.gate_backward(
        numbers(4, 30), torch.zeros(4, 30, dtype=torch.uint8, device=DEVICE), torch.ones(4, device=DEVICE),
        torch.ones(2, 4, device=DEVICE), torch.float32,
    ),
    "_level_forward": lambda gpu: gpu.level_forward(numbers(4, 30), torch.ones(4, device=DEVICE), Levels(top=3.0)),
    "_level_backward": lambda gpu: gpu.level_backward(
        numbers(4, 30), numbers(4, 30), torch.ones(4, device=DEVICE), Levels(top=3.0), learned=True
    ),
    "_power_forward": lambda gpu: gpu.power_forward(
        numbers(4, 30), torch.ones(4, device=DEVICE), torch.full((4,), 8.0, device=DEVICE)
    ),
    "_shift_sign_forward": lambda gpu: gpu.shift_sign_forward(
        numbers(4, 30), numbers(4, 30), torch.zeros(4, dtype=torch.int32, device=DEVICE), -7
    ),
    "_shift_sign_backward": lambda gpu: gpu.shift_sign_backward(
        numbers(4, 30), numbers(4, 30), numbers(4, 30), torch.ones(4, device=DEVICE)
    ),
    "_rounded_sgd": lambda gpu: gpu.rounded_sgd(
        numbers(40), numbers(40).bfloat16(), None, lr=0.1, factor=0.0, decay=0.0, nesterov=False, key=1
    ),
}  # fmt: skip


@runs
@pytest.mark.parametrize("name", sorted(LAUNCHES))
def test_a_kernel_is_launched_on_the_device_where_its_tensor_lies(monkeypatch, name):
    from bitshift.nn.kernels import gpu

    events: list[object] = []

    @contextmanager
    def device_of(tensor: Tensor):
        events.append(tensor.device.type)
        yield
        events.append("back")

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]):
            return lambda *_, **__: events.append("launch")

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(gpu, name, Kernel())
    LAUNCHES[name](gpu)
    assert events == [DEVICE, "launch", "back"]


@runs
def test_every_kernel_that_is_launched_has_its_case_here():
    from bitshift.nn.kernels import gpu

    functions = {n for n in gpu.__all__ if n != "dense"}
    assert {name.removeprefix("_") for name in LAUNCHES} == functions


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", sorted(LAUNCHES))
def test_kernels_run_on_a_device_that_is_not_the_current_one(monkeypatch, name):
    from bitshift.nn.kernels import gpu

    here = LAUNCHES[name](gpu)
    monkeypatch.setattr(f"{__name__}.DEVICE", "cuda:1")
    there = LAUNCHES[name](gpu)
    for a, b in zip(tree_leaves(here), tree_leaves(there), strict=True):
        assert not isinstance(b, Tensor) or (b.device.index == 1 and torch.equal(a.cpu(), b.cpu()))


def test_tensors_of_different_devices_are_left_to_the_formulas():
    meta = torch.zeros(3, device="meta")
    assert not kernels._plain((torch.zeros(3), meta), "cpu")
    assert not kernels._plain((meta, torch.zeros(3)), "cpu")
    assert kernels._plain((torch.zeros(3), torch.zeros(2)), "cpu")


@runs
def test_cuda_tensors_find_the_kernels():
    found = kernels.fused(torch.zeros(3, device=DEVICE))
    assert found is (cpu if cpu.native is not None else None) if _INTERPRETED else kernels._gpu()


@pytest.mark.skipif(not _TRITON or _INTERPRETED, reason="needs triton, without TRITON_INTERPRET")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_kernel_compiles_for_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton import compile as build  # pyright: ignore[reportMissingImports]
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
    from triton.compiler import ASTSource  # pyright: ignore[reportMissingImports]

    from bitshift.nn.kernels import gpu

    f, n, r = "*fp32", "i32", "fp32"
    for x in ("*fp32", "*bf16"):
        cases = [
            (gpu._grid_forward, [x, x, f, r, r, n], {}),
            (gpu._grid_backward, [x, x, x, f, f, r, r, n], {}),
            (gpu._gate_forward, [x, f, f, f, "*u8", n, n], {"COUNT": 4}),
            (gpu._gate_backward, [f, "*u8", f, f, x, n, n], {"COUNT": 8}),
            (gpu._level_forward, [x, f, f, f, f, n, n, r], {"COUNT": 0}),
            (gpu._level_forward, [x, f, f, f, f, n, n, r], {"COUNT": 8}),
            (gpu._level_backward, [f, x, f, f, f, x, f, n, n, r], {"COUNT": 0, "LEARNED": True}),
            (gpu._level_backward, [f, x, f, f, f, x, f, n, n, r], {"COUNT": 8, "LEARNED": False}),
            (gpu._power_forward, [x, f, f, f, n, n], {}),
            (gpu._shift_sign_forward, [x, x, "*i32", f, r, n, n], {}),
            (gpu._shift_sign_backward, [f, f, f, x, x, n, n], {}),
        ]
        if x == "*bf16":
            cases += [
                (gpu._rounded_sgd, [x, x, x, r, r, r, key, n], {"MOMENTUM": True, "NESTEROV": nesterov})
                for key, nesterov in (("i32", True), ("i64", False))
            ]
        for kernel, types, fixed in cases:
            fixed = {**fixed, "BLOCK": gpu.BLOCK}
            names = kernel.arg_names
            signature = dict(zip(names, [*types, *["constexpr"] * len(fixed)], strict=True))
            constants = {(names.index(name),): value for name, value in fixed.items()}
            source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
            assert build(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]
