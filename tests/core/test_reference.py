"""The reference on numbers computed by hand, its inputs, and its exact products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, GraphError, Node, Value
from bitshift.core.ops.quantize import quantize
from bitshift.core.reference import check_inputs, execute
from bitshift.core.windows import convolve, exact_dtype
from strategies import Builder, random_case

S8, S16, S32, F32 = FixedPoint(8, 4), FixedPoint(16, 4), FixedPoint(32, 4), Float32()


def run(
    op: str, x: Any, x_type: Any, out_type: Any, shape: tuple[int, ...], attrs: Any = None, consts: Any = None
) -> list[Any]:
    """One sample through one node."""
    b = Builder()
    x = np.asarray(x, dtype=x_type.dtype)
    y = b.node(op, [b.input(x.shape, x_type)], shape, out_type, attrs, consts)
    return execute(b.graph([y]), {"v0": x[None]})[y][0].tolist()


def test_linear_by_hand() -> None:
    """Levels (1, -2, 8): 3 + 10 + 56 = 69; (69 * 3 + 4) >> 3 = 26, a floor."""
    codes = FORMATS["pot3d"].encode(np.array([[1, -2, 8]]))
    consts = {"mult": np.array([3], np.int32), "offset": np.array([4]), "shift": np.array([3], np.uint8)}
    assert run("linear", [3, -5, 7], S8, S8, (1,), {"format": "pot3d"}, {"codes": codes, **consts}) == [26]


def test_shifts_are_arithmetic() -> None:
    codes = FORMATS["pot1"].encode(np.array([[1]]))
    consts = {"codes": codes, "shift": np.array([1], np.uint8)}
    assert [run("linear", [q], S8, S8, (1,), {"format": "pot1"}, consts)[0] for q in (-3, -1, 1, 3)] == [-2, -1, 0, 1]


def test_ties_round_up() -> None:
    """From a frac of 4 to 3: -3/2, -1/2, 1/2, 3/2 become -1, 0, 1, 2."""
    assert run("requantize", [-3, -1, 1, 3], S8, FixedPoint(8, 3), (4,)) == [-1, 0, 1, 2]


def test_results_saturate_then_clamp() -> None:
    out = FixedPoint(4, 4)
    assert run("requantize", [-128, -8, 7, 127], S8, out, (4,)) == [-8, -8, 7, 7]
    assert run("requantize", [-128, 0, 7, 127], S8, out, (4,), {"clamp": [0, 6]}) == [0, 0, 6, 6]


def test_requantize_to_a_finer_grid_is_a_left_shift() -> None:
    assert run("requantize", [-128, 3], S8, FixedPoint(16, 7), (2,)) == [-1024, 24]


def test_the_residual_is_added_before_the_shift() -> None:
    """(5 * 1 + (3 << 2) + 1) >> 1 = 9."""
    b = Builder()
    x, r = b.input((1,), S8), b.input((1,), S8)
    consts = {
        "codes": np.zeros((1, 1), np.uint8),
        "offset": np.array([1]),
        "shift": np.array([1], np.uint8),
        "res_shift": np.array([2], np.uint8),
    }
    y = b.node("linear", [x, r], (1,), S8, {"format": "pot1"}, consts)
    inputs = {x: np.array([[5]], np.int8), r: np.array([[3]], np.int8)}
    assert execute(b.graph([y]), inputs)[y].tolist() == [[9]]


def test_conv_pads_asymmetrically_and_correlates() -> None:
    """Weights (1, 2) over (0, 1, 2, 3): one zero before, none behind: 1*0 + 2*1, 1*1 + 2*2, ..."""
    codes = FORMATS["pot2d"].encode(np.array([[[1, 2]]]))
    attrs = {"format": "pot2d", "stride": [1], "padding": [[1, 0]], "dilation": [1], "groups": 1}
    assert run("conv", [[1, 2, 3]], S8, S16, (1, 3), attrs, {"codes": codes}) == [[2, 5, 8]]
    attrs["padding"] = [[0, 1]]
    assert run("conv", [[1, 2, 3]], S8, S16, (1, 3), attrs, {"codes": codes}) == [[5, 8, 3]]


def test_average_counts_the_zeros_of_the_padding() -> None:
    attrs = {"kernel": [2], "stride": [2], "padding": [[1, 1]], "mult": 1, "offset": 1, "shift": 1}
    assert run("avg_pool", [[3, 4, 5, 6]], S8, S8, (1, 3), attrs) == [[2, 5, 3]]


def test_max_pool_ignores_the_padding() -> None:
    attrs = {"kernel": [3], "stride": [2], "padding": [[1, 1]], "dilation": [1]}
    assert run("max_pool", [[-5, -7, -9]], S8, S8, (1, 2), attrs) == [[-5, -7]]
    assert run("max_pool", [[-5.0, -7.0, -9.0]], F32, F32, (1, 2), attrs) == [[-5.0, -7.0]]


@pytest.mark.parametrize("rounding", ["half_up", "floor"])
def test_quantize_treats_nan_infinities_and_ties(rounding: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.5, -0.5, 1.5, 1e30, -1e30, 0.49999997], np.float32)
    ties = [1, 0, 2] if rounding == "half_up" else [0, -1, 1]
    assert quantize(x, FixedPoint(8, 0), rounding).tolist() == [0, 127, -128, *ties, 127, -128, 0]
    huge = np.array([1.7e308, -1.7e308, 0.0])
    assert quantize(huge, FixedPoint(8, 64)).tolist() == [127, -128, 0]


def test_dequantize_rounds_to_float32_once() -> None:
    """2**31 - 1 has 31 bits; float32 rounds it to 2**31."""
    assert run("dequantize", [2**31 - 1], FixedPoint(32, 0), F32, (1,)) == [2.0**31]
    assert run("dequantize", [1, -3], FixedPoint(8, 64), F32, (2,)) == [2.0**-64, -3 * 2.0**-64]


def test_argmax_is_the_first_maximum() -> None:
    assert run("argmax", [[3, 9, 9], [-1, -1, -5]], S8, FixedPoint(32, 0), (2,)) == [1, 0]


def test_table_is_indexed_from_the_lowest_integer() -> None:
    table = {"table": np.arange(0, 16, dtype=np.uint8)}
    assert run("table", [-8, 0, 7], FixedPoint(4, 0), FixedPoint(4, 0, False), (3,), {}, table) == [0, 8, 15]


def test_unary_functions_do_not_warn_at_the_ends() -> None:
    for fn in ("sigmoid", "silu", "gelu", "tanh", "hardswish", "hardsigmoid", "gelu_tanh"):
        ends = run("unary", [-1e30, 1e30, -100.0, 100.0], F32, F32, (4,), {"fn": fn})
        assert ends[2] == pytest.approx(0 if fn != "tanh" else -1, abs=1e-6)
        assert ends[3] == pytest.approx(100 if fn in ("silu", "gelu", "hardswish", "gelu_tanh") else 1)


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ({}, r"inputs \[\] given; the graph takes"),
        ({"v0": np.zeros((1, 2), np.int16)}, "is int16; s8.4 is stored as int8"),
        ({"v0": [[1, 2]]}, "is list"),
        ({"v0": np.zeros((2,), np.int8)}, r"shape \(2,\); needed is \('N', 2\)"),
        ({"v0": np.zeros((1, 3), np.int8)}, "shape"),
        ({"v0": np.zeros((1, 2), np.int8), "v9": np.zeros(1)}, "given"),
    ],
)
def test_bad_inputs_are_refused(inputs: dict[str, Any], match: str) -> None:
    b = Builder()
    graph = b.graph([b.node("clamp", [b.input((2,), S8)], (2,), S8, {"lo": 0, "hi": None})])
    with pytest.raises(ValueError, match=match):
        execute(graph, inputs)


def test_integers_beyond_a_narrow_type_are_refused() -> None:
    b = Builder()
    u4 = FixedPoint(4, 0, False)
    graph = b.graph([b.node("clamp", [b.input((2,), u4)], (2,), u4, {"lo": 0, "hi": None})])
    with pytest.raises(ValueError, match=r"holds 3 to 16; u4\.0 goes from 0 to 15"):
        check_inputs(graph, {"v0": np.array([[3, 16]], np.uint8)})


def test_batches_of_different_sizes_are_refused() -> None:
    b = Builder()
    x, y = b.input((1,), S8), b.input((1,), S8)
    graph = b.graph([b.node("add", [x, y], (1,), S8)])
    with pytest.raises(ValueError, match="different sizes"):
        execute(graph, {x: np.zeros((1, 1), np.int8), y: np.zeros((2, 1), np.int8)})


def test_execute_refuses_what_overflows() -> None:
    codes = FORMATS["pot5d"].encode(np.full((1, 600), 2**15))
    values = {"x": Value("x", (600,), S8), "y": Value("y", (1,), S8)}
    node = Node("linear", ("x",), "y", {"format": "pot5d"}, {"codes": "c"})
    with pytest.raises(GraphError, match="exceeds int32"):
        execute(Graph(("x",), ("y",), values, (node,), {"c": codes}), {"x": np.zeros((1, 600), np.int8)})


def test_keep_returns_every_value() -> None:
    case = random_case(5)
    values = execute(case.graph, case.inputs, keep=True)
    assert set(values) == set(case.graph.values)
    outputs = execute(case.graph, case.inputs)
    assert set(outputs) == set(case.graph.outputs)
    assert all(np.array_equal(values[name], outputs[name]) for name in outputs)


@pytest.mark.parametrize(
    ("magnitude", "dtype"),
    [(2**24 - 1, np.float32), (2**24, np.float64), (2**53 - 1, np.float64), (2**53, np.int64), (2**63 - 1, np.int64)],
)
def test_products_are_computed_where_they_are_exact(magnitude: int, dtype: type[np.number]) -> None:
    assert exact_dtype(magnitude) is dtype


def test_sums_beyond_int64_are_refused() -> None:
    with pytest.raises(OverflowError, match="9223372036854775808"):
        exact_dtype(2**63)


@given(st.integers(0, 2**32 - 1), st.sampled_from([20, 24, 30, 40]))
def test_convolutions_are_exact_at_the_edge_of_each_dtype(seed: int, bits: int) -> None:
    """Sums of magnitudes just under 2**24 and 2**53 in float32 and float64 equal int64."""
    rng = np.random.default_rng(seed)
    taps = 16
    largest = (1 << bits) // taps - 1
    x = rng.choice(np.array([-largest, largest, largest - 1, 1]), (2, 4, 6))
    w = rng.choice(np.array([-1, 1]), (3, 4, 4))
    geometry = ([1], [(1, 2)], [1], 1)
    dtype = exact_dtype(taps * largest)
    got = convolve(x.astype(dtype), w.astype(dtype), *geometry)
    assert np.array_equal(got, convolve(x, w, *geometry))


def test_large_batches_are_convolved_in_pieces() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 8, (300, 8, 24, 24)).astype(np.float32)
    w = rng.integers(-8, 8, (4, 8, 3, 3)).astype(np.float32)
    geometry = ([1, 1], [(1, 1), (1, 1)], [1, 1], 1)
    whole = convolve(x, w, *geometry)
    assert np.array_equal(whole[170:171], convolve(x[170:171], w, *geometry))
    assert np.array_equal(whole[-1:], convolve(x[-1:], w, *geometry))
