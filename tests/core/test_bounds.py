"""Accumulator bounds, ranges through a graph, and the refusals."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from bitshift.core.bounds import check_bounds, input_ranges
from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, GraphError, Node, Value
from bitshift.core.ops import weighted
from bitshift.core.ops.conv_transpose import periods_of, phase_sums
from bitshift.core.ops.weighted import accumulator_range, signed_sums
from bitshift.core.reference import execute
from strategies import Builder

S8, U8, S32 = FixedPoint(8, 7), FixedPoint(8, 7, False), FixedPoint(32, 7)


def linear(levels: list[list[int]], x: FixedPoint, out: FixedPoint, format: str = "pot5d", **consts: object) -> Graph:
    """One layer 'fc' from levels."""
    codes = FORMATS[format].encode(np.array(levels))
    b = Builder()
    name = b.input((codes.shape[1],), x)
    arrays = {role: np.asarray(array) for role, array in consts.items()}
    values = {**b.values, "y": Value("y", (codes.shape[0],), out)}
    names = {"codes": "codes", **{role: role for role in arrays}}
    node = Node("linear", (name,), "y", {"format": format}, names, "fc")
    return Graph((name,), ("y",), values, (node,), {"codes": codes, **arrays})


def test_the_bound_uses_codes_and_the_asymmetric_range() -> None:
    """Unsigned inputs: the positive levels alone give the top, the negative ones alone the bottom."""
    bound = check_bounds(linear([[1, 2, -4], [-8, -8, -8]], U8, S32, "pot3d"))["y"]
    assert (bound.acc, bound.channel) == (24 * 255, 1)
    assert bound.raw == bound.range == (-24 * 255, 3 * 255)
    assert bound.fits32


def test_signed_inputs_reach_their_lowest_integer() -> None:
    bound = check_bounds(linear([[1, 2, -4]], S8, S32, "pot3d"))["y"]
    assert bound.raw == (-3 * 128 - 4 * 127, 3 * 127 + 4 * 128)
    assert bound.acc == 3 * 128 + 4 * 127 + 1 == 3 * 127 + 4 * 128


def test_the_bound_is_reached_by_an_input() -> None:
    graph = linear([[1, 2, -4]], S8, S32, "pot3d")
    bound = check_bounds(graph)["y"]
    worst = np.array([[127, 127, -128], [-128, -128, 127]], np.int8)
    got = execute(graph, {graph.inputs[0]: worst})["y"][:, 0]
    assert bound.range == (got.min(), got.max())


def test_an_accumulator_over_int32_is_refused_by_layer_channel_and_advice() -> None:
    levels = [[1] * 600, [2**15] * 600]
    with pytest.raises(GraphError) as caught:
        check_bounds(linear(levels, S8, FixedPoint(8, 0)))
    expected = (
        "layer 'fc': accumulator bound 2_516_582_400 for channel 1 exceeds int32; "
        "use a format with max_level <= 27962 or activations with <= 7 bits"
    )
    assert str(caught.value) == expected


@pytest.mark.parametrize("count", [511, 512])
def test_the_limit_of_int32_is_exact(count: int) -> None:
    """511 * 32768 * 128 is under 2**31, 512 of them are 2**31."""
    graph = linear([[2**15] * count], S8, FixedPoint(8, 0))
    if count == 511:
        assert check_bounds(graph)["y"].acc == 511 * 2**22
    else:
        with pytest.raises(GraphError, match="2_147_483_648"):
            check_bounds(graph)


def test_the_advice_fits() -> None:
    """What the message advises passes: activations of the advised bits with the same codes."""
    levels = [[2**15] * 600]
    assert check_bounds(linear(levels, FixedPoint(7, 0), FixedPoint(8, 0)))["y"].acc < 2**31


def test_a_clamp_narrows_what_comes_behind_it() -> None:
    b = Builder()
    x = b.input((600,), S8)
    y = b.node("clamp", [x], (600,), S8, {"lo": 0, "hi": 15})
    codes = FORMATS["pot5d"].encode(np.full((1, 600), 2**15))
    z = b.node("linear", [y], (1,), FixedPoint(8, 0), {"format": "pot5d"}, {"codes": codes})
    assert check_bounds(b.graph([z]))[z].acc == 600 * 2**15 * 15


def test_a_wide_value_over_int32_is_refused() -> None:
    graph = linear([[128] * 3], S8, S32, "pot4d", mult=np.array([65535], np.int32))
    with pytest.raises(
        GraphError, match="layer 'fc': the wide value 'y' can reach -3_221_176_320, which exceeds int32"
    ):
        check_bounds(graph)


def test_a_narrow_output_saturates_instead() -> None:
    graph = linear([[128] * 3], S8, S8, "pot4d", mult=np.array([65535], np.int32))
    bound = check_bounds(graph)["y"]
    assert bound.range == (-128, 127)
    assert not bound.fits32


def test_rule_4_over_int64_is_refused() -> None:
    graph = linear([[1]], S8, S8, "pot1", offset=np.array([2**63 - 1], np.int64))
    with pytest.raises(GraphError, match="exceeds int64"):
        check_bounds(graph)


def test_a_shifted_residual_over_int64_is_refused() -> None:
    values = {n: Value(n, (1,), FixedPoint(8, 0)) for n in "xry"}
    consts = {"codes": np.zeros((1, 1), np.uint8), "res_shift": np.array([62], np.uint8)}
    node = Node("linear", ("x", "r"), "y", {"format": "pot1"}, {role: role for role in consts})
    with pytest.raises(GraphError, match=r"layer 'y'.*exceeds int64"):
        check_bounds(Graph(("x", "r"), ("y",), values, (node,), consts))


def test_a_large_average_is_refused() -> None:
    attrs = {"kernel": [70000], "stride": [1], "padding": [[0, 0]], "mult": 1, "offset": 0, "shift": 8}
    values = {"x": Value("x", (1, 70000), FixedPoint(16, 0)), "y": Value("y", (1, 1), S8)}
    graph = Graph(("x",), ("y",), values, (Node("avg_pool", ("x",), "y", attrs, source="pool"),), {})
    with pytest.raises(
        GraphError, match=r"layer 'pool': accumulator bound 2_293_760_000 exceeds int32.*smaller kernel"
    ):
        check_bounds(graph)


def test_sums_of_wide_values_add_their_ranges() -> None:
    b = Builder()
    wide = FixedPoint(32, 0)
    x = b.input((1,), FixedPoint(30, 0))
    y = b.node("add", [x, x], (1,), wide)
    assert check_bounds(b.graph([y]))[y].range == (-(2**30), 2**30 - 2)
    values = {n: Value(n, (1,), wide) for n in "xy"}
    with pytest.raises(GraphError, match="exceeds int32"):
        check_bounds(Graph(("x",), ("y",), values, (Node("add", ("x", "x"), "y"),), {}))


def test_a_table_reaches_only_what_its_input_reaches() -> None:
    b = Builder()
    x = b.input((1,), FixedPoint(8, 0))
    y = b.node("clamp", [x], (1,), FixedPoint(8, 0), {"lo": 0, "hi": 2})
    table = np.arange(-128, 128).astype(np.int8)
    z = b.node("table", [y], (1,), FixedPoint(8, 0), {}, {"table": table})
    assert check_bounds(b.graph([z]))[z].range == (0, 2)


def test_partial_sums_count_in_every_order() -> None:
    """+100 - 100 of a positive input ends at 0, but a partial sum reaches the positive part."""
    assert check_bounds(linear([[1] * 100 + [-1] * 100], U8, S32, "pot1"))["y"].acc == 100 * 255


def test_zero_counts_although_the_input_never_is() -> None:
    """Inputs of 5 to 7: padding adds zeros, and a sum begins without most of its terms."""
    b = Builder()
    x = b.input((1, 2), FixedPoint(8, 0))
    y = b.node("clamp", [x], (1, 2), FixedPoint(8, 0), {"lo": 5, "hi": 7})
    codes = FORMATS["pot1"].encode(np.array([[[1, -1, 1]]]))
    attrs = {"format": "pot1", "stride": [1], "padding": [[1, 1]], "dilation": [1], "groups": 1}
    z = b.node("conv", [y], (1, 2), FixedPoint(32, 0), attrs, {"codes": codes})
    graph = b.graph([z])
    bound = check_bounds(graph)[z]
    assert (bound.range, bound.acc) == ((-7, 14), 14)
    got = execute(graph, {x: np.array([[[5, 5]], [[5, 7]], [[7, 5]]], np.int8)})[z]
    assert got.min() >= -7
    pool = {"kernel": [2], "stride": [2], "padding": [[1, 1]], "mult": 1, "offset": 0, "shift": 0}
    mean = b.node("avg_pool", [y], (1, 2), FixedPoint(32, 0), pool)
    assert check_bounds(b.graph([z, mean]))[mean].range == (0, 14)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ((0, None), (0, 0)),
        ((None, -4), (-5, -4)),
        ((None, -9), (-9, -9)),
        ((-4, -4), (-4, -4)),
        ((None, None), (-5, -3)),
    ],
)
def test_a_clamp_behind_a_clamp_keeps_a_range(second: tuple[int | None, int | None], expected: tuple[int, int]) -> None:
    b = Builder()
    x = b.input((1,), S8)
    y = b.node("clamp", [x], (1,), S8, {"lo": -5, "hi": -3})
    z = b.node("clamp", [y], (1,), S8, {"lo": second[0], "hi": second[1]})
    assert check_bounds(b.graph([z]))[z].range == expected


def test_bounds_grow_with_bits() -> None:
    accs = [check_bounds(linear([[8, -4]], FixedPoint(bits, 0), S32, "pot3d"))["y"].acc for bits in range(2, 9)]
    assert all(a < b for a, b in pairwise(accs))


def test_a_transposed_convolution_counts_the_taps_that_meet_one_output() -> None:
    x, y = Value("x", (1, 5), FixedPoint(8, 0, signed=False)), Value("y", (1, 13), FixedPoint(32, 0))
    attrs = {"format": "int8", "stride": [2], "padding": [[0, 0]], "output_padding": [0], "dilation": [1], "groups": 1}
    codes = FORMATS["int8"].encode(np.array([[[100, 1, 20, 2, 3]]]))
    node = Node("conv_transpose", ("x",), "y", attrs, {"codes": "codes"})
    graph = Graph(("x",), ("y",), {"x": x, "y": y}, (node,), {"codes": codes})
    assert check_bounds(graph)["y"].acc == 123 * 255
    top = execute(graph, {"x": np.full((1, 1, 5), 255, np.uint8)})["y"]
    assert top.max() == 123 * 255


def _tokens(rows: int, kind: FixedPoint, *, between: bool = False) -> Graph:
    values = {"x": Value("x", (4,), kind), "y": Value("y", (4, 2), FixedPoint(8, 0))}
    nodes = [Node("embedding", ("x",), "y", {"format": "pot3d"}, {"codes": "codes"}, "emb")]
    if between:
        values |= {"x2": Value("x2", (2, 2), kind), "y": Value("y", (2, 2, 2), FixedPoint(8, 0))}
        nodes = [Node("reshape", ("x",), "x2", {"shape": [2, 2]}), replace(nodes[0], inputs=("x2",))]
    return Graph(("x",), ("y",), values, tuple(nodes), {"codes": np.zeros((rows, 2), np.uint8)})


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("kind", [FixedPoint(32, 0), FixedPoint(8, 0, signed=False), FixedPoint(8, 0)])
def test_an_id_beyond_the_table_is_refused_by_its_place(kind: FixedPoint, between: bool) -> None:
    graph = _tokens(100, kind, between=between)
    assert input_ranges(graph)["x"] == (0, 99)
    ids = np.array([[0, 5, 99, 7], [1, 2, 3, 4]], kind.dtype)
    assert execute(graph, {"x": ids})["y"].shape[0] == 2
    ids[1, 2] = 100
    with pytest.raises(ValueError, match=r"'x' holds the id 100 at sample 1, index \[2\]; .* rows 0 to 99"):
        execute(graph, {"x": ids})
    if kind.signed:
        ids[0, 3] = -1
        with pytest.raises(ValueError, match=r"the id -1 at sample 0, index \[3\]"):
            execute(graph, {"x": ids})


def test_computed_ids_must_fit_the_table() -> None:
    values = {"x": Value("x", (6,), FixedPoint(8, 0)), "i": Value("i", (), FixedPoint(32, 0))}
    values["y"] = Value("y", (2,), FixedPoint(8, 0))
    nodes = Node("argmax", ("x",), "i"), Node("embedding", ("i",), "y", {"format": "pot3d"}, {"codes": "codes"}, "emb")
    good = Graph(("x",), ("y",), values, nodes, {"codes": np.zeros((6, 2), np.uint8)})
    check_bounds(good)
    with pytest.raises(GraphError, match="layer 'emb': its ids 'i' can be 0 to 5, the table has the rows 0 to 4"):
        check_bounds(replace(good, constants={"codes": np.zeros((5, 2), np.uint8)}))


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [((5,), (2,), (1,)), ((3, 4), (2, 3), (1, 2)), ((4, 3, 2), (2, 6, 9), (2, 4, 1)), ((2, 7), (1, 5), (3, 1))],
)
def test_the_taps_that_meet_one_output_are_summed_by_their_remainders(
    kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> None:
    """Taps meet when their places, counted in steps of the dilation, leave the same remainders by the strides."""
    levels = np.random.default_rng(1).integers(-4, 5, (2, 3, *kernel))
    node = Node("conv_transpose", ("x",), "y", {"stride": stride, "dilation": dilation}, {"codes": "codes"})
    found = phase_sums(levels, periods_of(node, kernel))
    taps: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for tap in np.ndindex(*kernel):
        taps.setdefault(tuple(k * d % s for k, s, d in zip(tap, stride, dilation, strict=True)), []).append(tap)
    for sums, part in zip(found, (np.maximum(levels, 0), np.minimum(levels, 0)), strict=True):
        wanted = [sum(part[(slice(None), slice(None), *tap)].sum(axis=1) for tap in group) for group in taps.values()]
        assert sorted(sums.T.tolist()) == sorted(np.array(wanted).tolist())


def test_bounds_over_int64_are_exact() -> None:
    """Sums of 2**15 * (2**32 - 1) * 2**18 in Python's integers."""
    levels = np.full((1, 2**18), 2**15)
    least, largest = accumulator_range(levels, -(2**31), 2**31 - 1)
    assert (least[0], largest[0]) == (-(2**64), 2**33 * (2**31 - 1))


def test_a_constant_of_many_nodes_is_summed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(weighted, "signed_sums", lambda levels: calls.append(1) or signed_sums(levels))
    b = Builder()
    x = b.input((4,), FixedPoint(8, 0))
    graph = b.graph(
        [b.node("linear", [x], (4,), FixedPoint(8, 0), {"format": "pot3d"}, {"codes": np.eye(4, dtype=np.uint8)})]
    )
    first = graph.nodes[0]
    nodes, values = [first], dict(graph.values)
    for i in range(5):
        values[f"y{i}"] = Value(f"y{i}", (4,), FixedPoint(8, 0))
        nodes.append(replace(first, inputs=(nodes[-1].output,), output=f"y{i}"))
    calls.clear()
    bounds = check_bounds(Graph(graph.inputs, ("y4",), values, tuple(nodes), graph.constants))
    assert len(bounds) == 6
    assert len(calls) == 1
