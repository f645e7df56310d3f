"""The custom ops against int64 arithmetic, under opcheck, export and autocast."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bitshift.core.formats import FORMATS, get_format
from bitshift.nn import ops


def valid_codes(format: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    fmt = get_format(format)
    codes = torch.tensor([c for c in range(1 << fmt.bits) if c not in fmt.reserved], dtype=torch.uint8)
    return codes[torch.randint(len(codes), shape, generator=generator)]


def int_conv(q: np.ndarray, w: np.ndarray, stride, padding, dilation, groups) -> np.ndarray:
    """Plain int64 convolution with two spatial axes."""
    q = np.pad(q, ((0, 0), (0, 0), (padding[0], padding[1]), (padding[2], padding[3])))
    n, _, h, width = q.shape
    o, i, kh, kw = w.shape
    oh = (h - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (width - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    out = np.zeros((n, o, oh, ow), dtype=np.int64)
    for c, a, b in itertools.product(range(o), range(oh), range(ow)):
        first = c // (o // groups) * i
        top, left = a * stride[0], b * stride[1]
        rows, cols = top + dilation[0] * np.arange(kh), left + dilation[1] * np.arange(kw)
        out[:, c, a, b] = (q[:, first : first + i][:, :, rows][:, :, :, cols] * w[c]).sum((1, 2, 3))
    return out


@pytest.mark.parametrize("format", ["pot1", "pot2", "pot3d", "pot4d", "pot4x2", "pot5d", "int8"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv_is_the_int64_convolution(format, groups):
    g = torch.Generator().manual_seed(1)
    q = torch.randint(-128, 128, (2, 4, 7, 6), generator=g)
    codes = valid_codes(format, (8, 4 // groups, 3, 2), g)
    mult = torch.randint(1, 65536, (8,), generator=g, dtype=torch.int32)
    offset = torch.randint(-(2**40), 2**40, (8,), generator=g)
    frac = torch.randint(-5, 30, (8,), generator=g, dtype=torch.int32)
    y = torch.ops.bitshift.conv(
        q * 2.0**-5, codes, mult, offset, frac, format, 5, [2, 1], [1, 0, 2, 1], [1, 2], groups, True
    )
    levels = get_format(format).table[codes.numpy()]
    acc = int_conv(q.numpy(), levels, (2, 1), (1, 0, 2, 1), (1, 2), groups)
    want = acc * mult.numpy()[:, None, None].astype(np.int64) + offset.numpy()[:, None, None]
    got = y.numpy() * 2.0 ** frac.numpy().astype(float)[:, None, None]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_linear_is_the_int64_product_at_the_ends_of_the_range(format):
    g = torch.Generator().manual_seed(2)
    codes = valid_codes(format, (5, 40), g)
    x = torch.where(torch.rand(3, 2, 40, generator=g) < 0.5, -128.0, 127.0)
    one, zero = torch.ones(5, dtype=torch.int32), torch.zeros(5, dtype=torch.int64)
    y = torch.ops.bitshift.linear(x, codes, one, zero, torch.zeros(5, dtype=torch.int32), format, 0, True)
    want = np.einsum("nki,oi->nko", x.numpy().astype(np.int64), get_format(format).table[codes.numpy()])
    np.testing.assert_array_equal(y.numpy(), want)


def test_sums_just_over_the_float32_limit_stay_exact():
    x = torch.full((1, 257), 255.0)
    codes = torch.full((1, 257), get_format("pot5d").nearest(np.array(32768.0)).item(), dtype=torch.uint8)
    x[0, 0] = 254.0
    codes[0, 0] = get_format("pot5d").nearest(np.array(1.0)).item()
    args = (torch.ones(1, dtype=torch.int32), torch.tensor([1]), torch.zeros(1, dtype=torch.int32), "pot5d", 0, True)
    assert torch.ops.bitshift.linear(x, codes, *args).item() == 256 * 255 * 32768 + 254 + 1


def test_autocast_and_relaxed_matmul_precision_change_nothing():
    g = torch.Generator().manual_seed(3)
    q = torch.randint(-128, 128, (2, 3, 8, 8), generator=g).float()
    codes = valid_codes("pot3d", (4, 3, 3, 3), g)
    args = (torch.ones(4, dtype=torch.int32), torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int32))
    call = (q, codes, *args, "pot3d", 0, [1, 1], [1, 1, 1, 1], [1, 1], 1, True)
    want = torch.ops.bitshift.conv(*call)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = torch.ops.bitshift.conv(*call)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(want, got)


def test_quantize_rounds_half_up_saturates_and_maps_nan_to_zero():
    x = torch.tensor([-0.5, 0.5, 1.5, 0.49999997, -1.5, 1e30, float("inf"), float("-inf"), float("nan")])
    got = torch.ops.bitshift.quantize(x, 4, 0, True, "half_up")
    assert got.tolist() == [0.0, 1.0, 2.0, 0.0, -1.0, 7.0, 7.0, -8.0, 0.0]
    assert torch.ops.bitshift.quantize(torch.tensor([-0.3, 0.3, 9.9]), 4, 1, False, "floor").tolist() == [0.0, 0.0, 7.5]
    with pytest.raises((ValueError, RuntimeError), match="half_up"):
        torch.ops.bitshift.quantize(x, 4, 0, True, "even")


@pytest.mark.parametrize("spatial", [1, 2])
def test_avg_pool_sums_then_multiplies(spatial):
    g = torch.Generator().manual_seed(4)
    q = torch.randint(0, 256, (2, 3, 9, 8)[: 2 + spatial], generator=g)
    kernel, stride, padding = [3, 2][:spatial], [2, 1][:spatial], [1, 0, 0, 1][: 2 * spatial]
    got = torch.ops.bitshift.avg_pool(q * 0.25, kernel, stride, padding, 5, 7, True)
    w = np.ones((1, 1, *([3, 2] if spatial == 2 else [3, 1])), dtype=np.int64)
    flat = q.reshape(-1, 1, *q.shape[2:], *([1] if spatial == 1 else [])).numpy()
    pads = padding if spatial == 2 else [*padding, 0, 0]
    want = int_conv(flat, w, (2, 1), pads, (1, 1), 1).reshape(got.shape) * 0.25 * 5 / 128
    np.testing.assert_array_equal(got.numpy(), want)


def test_table_looks_up_by_the_integer():
    table = torch.arange(16, dtype=torch.int32) * 3
    x = torch.tensor([-8.0, 0.0, 7.0]) / 4
    assert torch.ops.bitshift.table(x, table, 2, True, 1).tolist() == [0.0, 12.0, 22.5]
    assert torch.ops.bitshift.table(-x[:1] * 0 + 3.75, table, 2, False, 0).tolist() == [45.0]


def test_float_ops_equal_plain_convolutions():
    g = torch.Generator().manual_seed(5)
    x = torch.randn(2, 4, 9, generator=g)
    codes, scale, bias = (
        valid_codes("pot4", (6, 2, 3), g),
        torch.rand(6, generator=g) + 0.1,
        torch.randn(6, generator=g),
    )
    levels = torch.from_numpy(get_format("pot4").table[codes.numpy()]).float()
    y = torch.ops.bitshift.conv_float(x, codes, scale, bias, "pot4", [2], [1, 2], [1], 2)
    want = F.conv1d(F.pad(x, (1, 2)), levels, stride=2, groups=2) * scale[:, None] + bias[:, None]
    torch.testing.assert_close(y, want, rtol=0, atol=0)
    codes = valid_codes("pot4", (6, 9), g)
    y = torch.ops.bitshift.linear_float(x, codes, scale, bias, "pot4")
    levels = torch.from_numpy(get_format("pot4").table[codes.numpy()]).float()
    torch.testing.assert_close(y, F.linear(x, levels) * scale + bias, rtol=0, atol=0)


def sample_calls():
    g = torch.Generator().manual_seed(6)
    ints = (torch.ones(4, dtype=torch.int32), torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int32))
    floats = (torch.ones(4), torch.zeros(4))
    image, row = torch.ones(2, 2, 5, 5), torch.ones(2, 3, 6)
    c4, c2 = valid_codes("pot3d", (4, 2, 3, 3), g), valid_codes("pot3d", (4, 6), g)
    return {
        "conv": (image, c4, *ints, "pot3d", 0, [2, 1], [0, 1, 1, 1], [1, 1], 1, True),
        "linear": (row, c2, *ints, "pot3d", 0, False),
        "conv_float": (image, c4, *floats, "pot3d", [1, 1], [1, 1, 0, 0], [1, 1], 1),
        "linear_float": (row, c2, *floats, "pot3d"),
        "quantize": (image, 8, 3, True, "half_up"),
        "avg_pool": (image, [2, 2], [2, 2], [0, 1, 0, 0], 1, 2, True),
        "table": (image, torch.zeros(256, dtype=torch.int32), 2, True, 3),
    }


@pytest.mark.parametrize("name", ["conv", "linear", "conv_float", "linear_float", "quantize", "avg_pool", "table"])
def test_op_passes_opcheck(name):
    torch.library.opcheck(getattr(torch.ops.bitshift, name).default, sample_calls()[name])


def test_bounds_beyond_float64_are_refused():
    with pytest.raises(OverflowError, match="2\\*\\*53"):
        ops.exact_dtype(torch.tensor([2.0**40]), torch.full((1, 1), 2.0**20))
