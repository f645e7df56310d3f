"""Frozen layers on the engine's kernels: the float path's bits, and the float path where the engine cannot serve."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from bitshift import ShiftConfig, convert, freeze
from bitshift.backends import engine
from bitshift.core.formats import FORMATS, get_format
from bitshift.nn import native, ops
from nn_models import LeNet, ResNet

pytestmark = pytest.mark.skipif(engine.available() is not None, reason=str(engine.available()))
RANGES = {"u6": (0, 63), "u8": (0, 255), "s7": (-64, 63), "s8": (-128, 127)}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """No layer of another test."""
    native._layers.clear()
    yield
    native._layers.clear()


def codes_of(format: str, shape: tuple[int, ...], seed: int) -> Tensor:
    fmt = get_format(format)
    allowed = torch.tensor([c for c in range(1 << fmt.bits) if c not in fmt.reserved], dtype=torch.uint8)
    return allowed[torch.randint(len(allowed), shape, generator=torch.Generator().manual_seed(seed))]


def grid(shape: tuple[int, ...], frac: int, kind: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random integers of ``kind``, its ends among them, as floats on the grid ``2**-frac``."""
    lo, hi = RANGES[kind]
    q = torch.randint(lo, hi + 1, shape, generator=torch.Generator().manual_seed(seed))
    q.view(-1)[:2] = torch.tensor([lo, hi])
    return (q.double() * 2.0**-frac).to(dtype)


def vectors(channels: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randint(-65535, 65536, (channels,), generator=g, dtype=torch.int32),
        torch.randint(-(2**40), 2**40, (channels,), generator=g),
        torch.randint(-5, 30, (channels,), generator=g, dtype=torch.int32),
    )


def same_conv(x: Tensor, codes: Tensor, format: str, frac: int, window: Any, *, wide: bool = True) -> None:
    """The engine takes the call, and gives the float path's bits."""
    call = (x, codes, *vectors(codes.shape[0], 7), format, frac, *window, wide)
    got = native.conv(*call)
    assert got is not None
    want = ops.exact_conv(*call)
    assert got.dtype == want.dtype
    assert torch.equal(got, want)
    assert torch.equal(torch.ops.bitshift.conv(*call), want)


@pytest.mark.parametrize("format", sorted(f for f in FORMATS if FORMATS[f].bits <= 5 or f == "int8"))
@pytest.mark.parametrize("kind", sorted(RANGES))
def test_every_format_and_range_gives_the_float_paths_bits(format: str, kind: str) -> None:
    codes = codes_of(format, (8, 4, 3, 3), 1)
    same_conv(grid((2, 4, 9, 8), 5, kind), codes, format, 5, ([1, 1], [1, 1, 1, 1], [1, 1], 1))


@pytest.mark.parametrize("seed", range(24))
def test_random_windows_groups_and_batches_give_the_float_paths_bits(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)

    def pick(*values: int) -> int:
        return values[int(torch.randint(len(values), (), generator=g))]

    axes, groups = pick(1, 2), pick(1, 1, 2, 4)
    i, o = groups * pick(1, 3, 8), groups * pick(1, 2, 16)
    kernel = [pick(1, 2, 3, 5) for _ in range(axes)]
    stride, dilation = [pick(1, 1, 2) for _ in kernel], [pick(1, 1, 2) for _ in kernel]
    padding = [pick(0, 1, 2) for _ in range(2 * axes)]
    shape = (pick(1, 2, 7), i, *(pick(9, 12, 15) for _ in kernel))
    frac, kind = pick(-3, 0, 7), list(RANGES)[pick(0, 1, 2, 3)]
    x = grid(shape, frac, kind, seed, (torch.float32, torch.float64)[pick(0, 1)])
    format = ("pot1", "pot2", "pot3d", "pot4d", "pot5")[pick(0, 1, 2, 3, 4)]
    codes = codes_of(format, (o, i // groups, *kernel), seed)
    same_conv(x, codes, format, frac, (stride, padding, dilation, groups), wide=bool(seed % 2))


@pytest.mark.parametrize("seed", range(12))
def test_random_transposed_windows_and_volumes_give_the_float_paths_bits(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)

    def pick(*values: int) -> int:
        return values[int(torch.randint(len(values), (), generator=g))]

    axes, groups = 1 + seed % 3, pick(1, 1, 2)
    stride, dilation = [pick(1, 2, 3) for _ in range(axes)], [pick(1, 1, 2) for _ in range(axes)]
    extra = [pick(0, s - 1) for s in stride]
    kernel = [pick(2, 3, 4) for _ in range(axes)]
    sides = [pick(0, 1) for _ in range(2 * axes)]
    x = grid((pick(1, 3), 4 * groups, *(pick(3, 5) for _ in range(axes))), 3, pick_kind(seed), seed)
    codes = codes_of("pot4x2", (3 * groups, 4, *kernel), seed)
    call = (x, codes, *vectors(3 * groups, 7), "pot4x2", 3, stride, sides, extra, dilation, groups, True)
    got = native.conv_transpose(*call)
    assert got is not None
    assert torch.equal(got, ops.exact_conv_transpose(*call))
    assert torch.equal(torch.ops.bitshift.conv_transpose(*call), got)
    if axes == 3:
        same_conv(x, codes, "pot4x2", 3, ([1, 2, 1], [1] * 6, [1, 1, 1], groups))


def pick_kind(seed: int) -> str:
    return sorted(RANGES)[seed % len(RANGES)]


@pytest.mark.parametrize("shape", [(40,), (1, 40), (3, 40), (2, 5, 40), (33, 40)])
@pytest.mark.parametrize("wide", [True, False])
def test_linear_takes_any_leading_axes(shape: tuple[int, ...], wide: bool) -> None:
    call = (grid(shape, 2, "s8"), codes_of("pot4", (21, 40), 3), *vectors(21, 4), "pot4", 2, wide)
    got, want = native.linear(*call), ops.exact_linear(*call)
    assert got is not None
    assert torch.equal(got, want)
    assert torch.equal(torch.ops.bitshift.linear(*call), want)


def small(x: Tensor, format: str = "pot3d", frac: int = 0) -> tuple[Any, ...]:
    """A call of a 3x3 convolution on ``x`` (N, 4, H, W)."""
    return (x, codes_of(format, (6, 4, 3, 3), 2), *vectors(6, 5), format, frac, [1, 1], [1, 1, 1, 1], [1, 1], 1, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 0.5,  # between the integers
        lambda x: x * 2,  # 9 bits
        lambda x: torch.where(x > 60, torch.tensor(2.0**40), x),
        lambda x: torch.where(x > 60, -x, x) * 2,  # neither signed nor unsigned bytes
        lambda x: x[:0],
        lambda x: x.to(torch.bfloat16),
    ],
)
def test_what_is_no_8_bit_integer_goes_the_float_way(change: Any) -> None:
    call = small(change(grid((2, 4, 5, 5), 0, "u8")))
    assert native.conv(*call) is None
    got = torch.ops.bitshift.conv(*call)
    torch.testing.assert_close(got, ops.exact_conv(*call), rtol=0, atol=0, equal_nan=True)


def test_nan_is_refused_as_by_the_float_way() -> None:
    call = small(torch.full((1, 4, 5, 5), float("nan")))
    assert native.conv(*call) is None
    with pytest.raises(OverflowError, match="not an integer network's input"):
        torch.ops.bitshift.conv(*call)


def test_sums_beyond_int32_go_the_float_way() -> None:
    x = torch.full((1, 600), 255.0)
    codes = torch.full((1, 600), int(get_format("pot5d").nearest(torch.tensor(32768.0).numpy())), dtype=torch.uint8)
    call = (
        x,
        codes,
        torch.ones(1, dtype=torch.int32),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int32),
    )
    assert native.linear(*call, "pot5d", 0, True) is None
    assert torch.ops.bitshift.linear(*call, "pot5d", 0, True).item() == 600 * 255 * 32768


def test_inputs_of_any_layout_are_read_right() -> None:
    x = grid((3, 4, 6, 8), 3, "s8")
    call = small(x, frac=3)
    want = ops.exact_conv(*call)
    for other in (
        x.contiguous(memory_format=torch.channels_last),
        torch.stack([x, x], -1)[..., 0],
        x.double(),
        x.clone().requires_grad_(),
        torch.nn.Parameter(x),
    ):
        with torch.no_grad():
            assert native.conv(other, *call[1:]) is not None
            assert torch.equal(torch.ops.bitshift.conv(other, *call[1:]), want)
    with torch.inference_mode():
        assert torch.equal(torch.ops.bitshift.conv(*call), want)


def test_tensors_that_count_no_changes_are_not_cached() -> None:
    with torch.inference_mode():
        call = small(grid((1, 4, 5, 5), 0, "u8"))
        assert native.conv(*call) is None
        assert torch.equal(torch.ops.bitshift.conv(*call), ops.exact_conv(*call))


@pytest.mark.parametrize("which", [1, 2, 3, 4])
def test_a_change_of_a_tensor_in_place_is_seen(which: int) -> None:
    call = small(grid((1, 4, 5, 5), 0, "u8"))
    before = torch.ops.bitshift.conv(*call)
    call[which].copy_(call[which].flip(0))
    got = torch.ops.bitshift.conv(*call)
    assert torch.equal(got, ops.exact_conv(*call))
    assert not torch.equal(got, before)


@pytest.mark.parametrize("which", [1, 2, 3, 4])
def test_other_data_of_a_tensor_are_seen(which: int) -> None:
    call = small(grid((1, 4, 5, 5), 0, "u8"))
    before = torch.ops.bitshift.conv(*call)
    old = call[which].clone()
    call[which].data = call[which].flip(0)
    got = torch.ops.bitshift.conv(*call)
    assert torch.equal(got, ops.exact_conv(*call))
    assert not torch.equal(got, before)
    for data in (old, old.flip(0)):  # the second may lie where the first lay when the layer was packed
        call[which].data = torch.zeros_like(old)
        call[which].data = data.clone()
        assert torch.equal(torch.ops.bitshift.conv(*call), ops.exact_conv(*call))


@pytest.mark.parametrize("which", [1, 2, 3, 4])
@pytest.mark.parametrize("write", [lambda t, new: t.data.copy_(new), lambda t, new: t.numpy().__setitem__(..., new)])
def test_a_write_that_torch_does_not_count_is_seen_once_the_layers_are_forgotten(which: int, write: Any) -> None:
    call = small(grid((1, 4, 5, 5), 0, "u8"))
    before = torch.ops.bitshift.conv(*call)
    write(call[which], call[which].flip(0).clone())
    native.forget()
    got = torch.ops.bitshift.conv(*call)
    assert torch.equal(got, ops.exact_conv(*call))
    assert not torch.equal(got, before)


def test_a_layer_goes_with_its_codes_and_never_serves_others() -> None:
    x, vector = grid((1, 4, 5, 5), 0, "u8"), vectors(6, 5)
    for seed in range(40):  # ids and addresses of freed tensors come back
        codes = codes_of("pot3d", (6, 4, 3, 3), seed)
        call = (x, codes, *vector, "pot3d", 0, [1, 1], [1, 1, 1, 1], [1, 1], 1, True)
        assert torch.equal(torch.ops.bitshift.conv(*call), ops.exact_conv(*call))
        assert len(native._layers) == 1
        del codes, call
        assert not native._layers


def test_a_layer_keeps_few_models_whatever_the_shapes() -> None:
    call = small(grid((1, 4, 5, 5), 0, "u8"))
    for size in range(3, 30):
        x = grid((1, 4, size, 5), 0, "u8", size)
        assert torch.equal(torch.ops.bitshift.conv(x, *call[1:]), ops.exact_conv(x, *call[1:]))
    (layer,) = native._layers.values()
    assert len(layer.models) == native._MAX_VARIANTS


def test_inputs_of_growing_range_settle_on_one_type() -> None:
    call = small(grid((1, 4, 5, 5), 0, "u6"))
    for kind in ("u6", "u8", "u6", "s8", "u6", "u8", "s7"):
        x = grid((1, 4, 5, 5), 0, kind, 3)
        assert torch.equal(torch.ops.bitshift.conv(x, *call[1:]), ops.exact_conv(x, *call[1:]))
    (layer,) = native._layers.values()
    assert {key[1] for key in layer.models} <= set(range(len(native._TYPES)))
    assert layer.kind is None  # -128 to 255: each call takes the type that fits it
    assert (layer.lo, layer.hi) == (-128, 255)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rounding", ["half_up", "floor"])
@pytest.mark.parametrize(("bits", "signed"), [(2, True), (8, True), (8, False), (16, True), (24, False)])
def test_quantize_in_one_pass_gives_the_same_bits(dtype: torch.dtype, rounding: str, bits: int, signed: bool) -> None:
    g = torch.Generator().manual_seed(bits)
    for frac in (-60, -3, 0, 7, 60):
        x = torch.randn(4099, generator=g, dtype=torch.float64) * 2.0 ** (bits - 1 - frac)
        ties = (torch.arange(-300, 300).double() + 0.5) * 2.0**-frac
        ends = torch.tensor(
            [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e308, -1e308, 5e-324], dtype=torch.float64
        )
        for values in (x, ties, torch.nextafter(ties, ties - 1), ends):
            x = values.to(dtype)
            got = native.quantize(x, bits, frac, signed, rounding)
            assert got is not None
            assert torch.equal(got, ops.exact_quantize(x, bits, frac, signed, rounding))


# ---- whole networks --------------------------------------------------------------------------------------------------


def frozen(make: type = ResNet, activations: int = 8) -> tuple[torch.nn.Module, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(6, *make.shape, generator=torch.Generator().manual_seed(1))
    model, _ = convert(make(), ShiftConfig(method="nearest", bits=3, activations=activations), sample=x)
    model.train()
    with torch.no_grad():
        model(x)
    return freeze(model.eval(), x), x


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the engine took each integer layer that was called."""
    seen: list[bool] = []
    real = native._run

    def counted(*args: Any) -> Tensor | None:
        y = real(*args)
        seen.append(y is not None)
        return y

    monkeypatch.setattr(native, "_run", counted)
    return seen


def by_floats(monkeypatch: pytest.MonkeyPatch, model: torch.nn.Module, x: Tensor) -> Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(native, "_native", None)
        return model(x)


@pytest.mark.parametrize("make", [LeNet, ResNet])
def test_a_frozen_network_runs_its_layers_on_the_engine(
    make: type, calls: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = frozen(make)
    want = by_floats(monkeypatch, model, x)
    calls.clear()
    assert torch.equal(model(x), want)
    assert calls
    assert all(calls)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_network_calls_the_engine_in_one_graph(
    backend: str, calls: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = frozen()
    want = by_floats(monkeypatch, model, x)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    calls.clear()
    with torch.no_grad():
        assert torch.equal(compiled(x), want)
        assert torch.equal(compiled(x), want)
    assert calls
    assert all(calls)


def test_an_exported_network_calls_the_engine(calls: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = frozen()
    want = by_floats(monkeypatch, model, x)
    shapes = ({0: torch.export.Dim("batch", min=2, max=64)},)
    program = torch.export.export(model, (x,), dynamic_shapes=shapes, strict=False).module()
    calls.clear()
    assert torch.equal(program(x), want)
    assert torch.equal(program(x[:3]), want[:3])
    assert calls
    assert all(calls)


def test_backward_through_an_operator_still_says_that_there_is_none() -> None:
    call = small(grid((1, 4, 5, 5), 0, "u8").requires_grad_())
    with pytest.raises(RuntimeError, match=r"no autograd formula|does not require grad"):
        torch.ops.bitshift.conv(*call).sum().backward()


# ---- threads and processes -------------------------------------------------------------------------------------------


def test_threads_may_share_a_network_beside_torchs_own() -> None:
    model, x = frozen()
    want = model(x)

    def work(_: int) -> bool:
        return all(
            torch.equal(model(x), want) and bool((torch.randn(64, 64) @ torch.eye(64)).isfinite().all())
            for _ in range(15)
        )

    native._layers.clear()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@pytest.mark.parametrize("threads", [1, 2])
def test_torchs_thread_count_bounds_the_engines(threads: int) -> None:
    call = small(grid((1, 4, 5, 5), 0, "u8"))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(torch.ops.bitshift.conv(*call), ops.exact_conv(*call))
    finally:
        torch.set_num_threads(before)
    (layer,) = native._layers.values()
    assert [model.threads for model, _ in layer.models.values()] == [threads]


def _in_child(call: tuple[Any, ...], want: Tensor, queue: Any) -> None:
    torch.set_num_threads(1)
    queue.put(bool(torch.equal(torch.ops.bitshift.conv(*call), want)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_may_go_on() -> None:
    call = small(grid((1, 4, 5, 5), 0, "u8"))
    want = torch.ops.bitshift.conv(*call)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(call, want, queue))
    child.start()
    assert queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0


def test_the_environment_switches_the_engine_off() -> None:
    code = (
        "from bitshift.nn import native, ops; import torch; x = torch.ones(1, 4, 5, 5); assert native._native is None"
    )
    environment = {**os.environ, "BITSHIFT_TORCH_ENGINE": "off"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
