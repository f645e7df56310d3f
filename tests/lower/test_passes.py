"""Every pass keeps every integer, on random graphs and on cases made for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitshift.core.check import check
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph, Node, Value
from bitshift.core.ops.quantize import quantize
from bitshift.core.reference import run_checked
from bitshift.lower.errors import LoweringError
from bitshift.lower.passes import (
    PASSES,
    cleanup,
    fold_affine,
    fold_clamps,
    fold_padding,
    fuse,
    integer_inputs,
    narrow,
    optimise,
)
from bitshift.lower.passes.fuse import scale_of
from bitshift.lower.passes.inputs import quantised
from bitshift.lower.passes.rounding import Rounding
from bitshift.lower.wide import Wide
from strategies import Case, graph_cases

S8 = FixedPoint(8, 4)


def run_changed(before: Graph, after: Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``after`` on the inputs of ``before``: floats are quantised at the border where the type of an input changed."""
    fed = {}
    for name, array in inputs.items():
        old, new = before.values[name].type, after.values[name].type
        fed[name] = quantize(array, new) if isinstance(new, FixedPoint) and new != old else array
    return run_checked(after, fed)


def assert_same(case: Case, change: Callable[[Graph], Graph]) -> None:
    after = change(case.graph)
    check(after)
    expected = run_checked(case.graph, case.inputs)
    got = run_changed(case.graph, after, case.inputs)
    assert len(after.outputs) == len(case.graph.outputs)
    for old, new in zip(case.graph.outputs, after.outputs, strict=True):
        assert np.array_equal(got[new], expected[old], equal_nan=expected[old].dtype.kind == "f"), after.pretty()


@given(graph_cases(), st.sampled_from([*PASSES, optimise]))
def test_passes_keep_every_integer_of_random_graphs(case: Case, change: Callable[[Graph], Graph]) -> None:
    assert_same(case, change)


@given(
    mult=st.integers(1, 65535),
    offset=st.integers(-(2**40), 2**40),
    acc=st.integers(-(2**31), 2**31 - 1),
    frac=st.integers(-4, 24),
    out=st.builds(FixedPoint, st.integers(2, 8), st.integers(-6, 12), st.booleans()),
    half_up=st.booleans(),
    residual=st.none() | st.tuples(st.integers(-128, 127), st.integers(-4, 12)),
    shift=st.integers(0, 8),
)
def test_a_fused_channel_rounds_like_its_parts(
    mult: int,
    offset: int,
    acc: int,
    frac: int,
    out: FixedPoint,
    half_up: bool,
    residual: tuple[int, int] | None,
    shift: int,
) -> None:
    mult <<= shift
    rounding = Rounding(out, None, half_up)
    value, grid = acc * mult + offset, frac
    if residual is not None:
        grid = max(frac, residual[1])
        value = (value << (grid - frac)) + (residual[0] << (grid - residual[1]))
    scale = scale_of(mult, offset, frac, rounding, None if residual is None else residual[1])
    total = acc * scale.mult + scale.offset + ((0 if residual is None else residual[0]) << scale.res_shift)
    assert min(max(total >> scale.shift, out.lo), out.hi) == rounding.apply(value, grid)
    assert scale.mult % 2 == 1 or scale.shift == 0 or residual is not None


@given(
    q=st.integers(-(2**20), 2**20), lo=st.integers(-5000, 5000), width=st.integers(0, 9000), frac=st.integers(-3, 12),
    out=st.builds(FixedPoint, st.integers(2, 8), st.integers(-6, 12), st.booleans()), half_up=st.booleans(),
)  # fmt: skip
def test_a_clamp_before_a_rounding_is_a_clamp_behind_it(
    q: int, lo: int, width: int, frac: int, out: FixedPoint, half_up: bool
) -> None:
    rounding = Rounding(out, None, half_up)
    clamped = rounding.within(lo, lo + width, frac)
    assert clamped.apply(q, frac) == rounding.apply(min(max(q, lo), lo + width), frac)


@pytest.mark.parametrize("half_up", [True, False])
@pytest.mark.parametrize("value", [0.0, 0.5, -0.5, 0.49999997, 1e30, -1e30, float("inf"), float("nan"), 2.0**-30])
def test_one_quantised_number_is_what_the_op_gives(value: float, half_up: bool) -> None:
    with np.errstate(over="ignore"):
        array = quantize(np.array([value], np.float32), S8, "half_up" if half_up else "floor")
    assert quantised(float(np.float32(value)), S8, half_up=half_up) == int(array[0])


def build(values: dict[str, tuple], nodes: list[Node], outputs: list[str], **constants: np.ndarray) -> Graph:
    table = {n: Value(n, shape, kind) for n, (shape, kind) in values.items()}
    return Graph(("x",), tuple(outputs), table, tuple(nodes), constants)


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def test_cleanup_removes_identities_duplicates_and_dead_nodes() -> None:
    nodes = [
        Node("reshape", ("x",), "a", {"shape": (4,)}),
        Node("requantize", ("a",), "b"),
        Node("clamp", ("b",), "c", {"lo": -128, "hi": None}),
        Node("clamp", ("c",), "d", {"lo": 0, "hi": None}),
        Node("clamp", ("x",), "e", {"lo": 0, "hi": None}),
        Node("clamp", ("x",), "dead", {"lo": 1, "hi": None}),
        Node("add", ("d", "e"), "y"),
    ]
    values = dict.fromkeys(("x", "a", "b", "c", "d", "e", "dead", "y"), ((4,), S8))
    graph = cleanup(build(values, nodes, ["y"]))
    assert ops(graph) == ["clamp", "add"]
    assert graph.nodes[1].inputs[0] == graph.nodes[1].inputs[1]
    assert set(graph.values) == {"x", "y", graph.nodes[0].output}


def test_cleanup_does_not_merge_the_same_inputs_in_another_order() -> None:
    nodes = [Node("concat", pair, name, {"axis": 0}) for name, pair in (("y", ("x", "a")), ("z", ("a", "x")))]
    nodes.insert(0, Node("clamp", ("x",), "a", {"lo": 0, "hi": None}))
    values = {"x": ((2,), S8), "a": ((2,), S8), "y": ((4,), S8), "z": ((4,), S8)}
    assert ops(cleanup(build(values, nodes, ["y", "z"]))) == ["clamp", "concat", "concat"]
    values["s"] = ((4,), S8)
    graph = cleanup(build(values, [*nodes, Node("add", ("y", "z"), "s")], ["s"]))
    assert ops(graph) == ["clamp", "concat", "concat", "add"]


def test_cleanup_joins_reshapes_transposes_and_slices() -> None:
    shapes = {"x": (2, 12), "a": (2, 3, 4), "b": (24,), "c": (4, 6), "d": (6, 4), "e": (4, 6), "f": (3, 6), "y": (1, 2)}
    nodes = [
        Node("reshape", ("x",), "a", {"shape": (2, 3, 4)}),
        Node("reshape", ("a",), "b", {"shape": (24,)}),
        Node("reshape", ("b",), "c", {"shape": (4, 6)}),
        Node("transpose", ("c",), "d", {"perm": (1, 0)}),
        Node("transpose", ("d",), "e", {"perm": (1, 0)}),
        Node("slice", ("e",), "f", {"start": (1, 0), "stop": (4, 6), "step": (1, 1)}),
        Node("slice", ("f",), "y", {"start": (1, 0), "stop": (3, 4), "step": (2, 2)}),
    ]
    graph = build({n: (s, S8) for n, s in shapes.items()}, nodes, ["y"])
    assert ops(cleanup(graph)) == ["reshape", "slice"]
    x = np.arange(24, dtype=np.int8).reshape(1, 2, 12)
    assert_same(Case(graph, {"x": x}), cleanup)


def test_cleanup_keeps_equal_numbers_of_different_roles_apart() -> None:
    values = {"x": ((1,), S8), "y": ((1,), FixedPoint(32, 4)), "z": ((1,), FixedPoint(32, 4))}
    two = np.array([2], np.uint8)
    consts = {"codes": "w", "shift": "s", "res_shift": "r"}
    nodes = [
        Node("linear", ("x",), "y", {"format": "pot3d"}, {"codes": "w2"}),
        Node("linear", ("x", "y"), "z", {"format": "pot3d"}, consts),
    ]
    code = np.array([[2]], np.uint8)
    graph = cleanup(build(values, nodes, ["z"], w=code, w2=code, s=two, r=two))
    assert graph.nodes[0].consts["codes"] == graph.nodes[1].consts["codes"]
    assert graph.nodes[1].consts["shift"] != graph.nodes[1].consts["res_shift"]
    check(graph)


def test_clamps_go_through_pools_into_the_op_that_computes() -> None:
    wide, shape = FixedPoint(32, 6), (1, 4)
    nodes = [
        Node("linear", ("x",), "a", {"format": "pot3d", "clamp": (-500, 90)}, {"codes": "w"}),
        Node("max_pool", ("a",), "b", {"kernel": (2,), "stride": (2,), "padding": ((0, 0),), "dilation": (1,)}),
        Node("clamp", ("b",), "y", {"lo": 0, "hi": 120}),
    ]
    values = {"x": (shape, S8), "a": (shape, wide), "b": ((1, 2), wide), "y": ((1, 2), wide)}
    codes = np.random.default_rng(0).integers(0, 8, (4, 4)).astype(np.uint8)
    graph = build(values, nodes, ["y"], w=codes)
    changed = fold_clamps(graph)
    assert ops(changed) == ["linear", "max_pool"]
    assert changed.nodes[0].attrs["clamp"] == (0, 90)
    x = np.random.default_rng(1).integers(-128, 128, (20, *shape)).astype(np.int8)
    assert_same(Case(graph, {"x": x}), fold_clamps)


def test_a_clamp_of_a_value_with_two_readers_stays() -> None:
    nodes = [Node("add", ("x", "x"), "a"), Node("clamp", ("a",), "y", {"lo": 0, "hi": None})]
    graph = fold_clamps(build(dict.fromkeys(("x", "a", "y"), ((3,), S8)), nodes, ["y", "a"]))
    assert ops(graph) == ["add", "clamp"]


def test_zero_padding_goes_into_the_window_but_not_into_a_max_pool() -> None:
    window = {"kernel": (2,), "stride": (2,), "padding": ((0, 1),)}
    conv = {"format": "pot3d", "stride": (1,), "padding": ((1, 0),), "dilation": (1,), "groups": 1}
    s32 = FixedPoint(32, 4)
    nodes = [
        Node("pad", ("x",), "p", {"padding": ((0, 0), (2, 1)), "value": 0}),
        Node("conv", ("p",), "a", conv, {"codes": "w"}),
        Node("avg_pool", ("p",), "b", {**window, "mult": 1, "offset": 0, "shift": 1}),
        Node("max_pool", ("p",), "c", {**window, "dilation": (1,)}),
    ]
    shapes = {"x": ((2, 5), S8), "p": ((2, 8), S8), "a": ((1, 8), s32), "b": ((2, 4), S8), "c": ((2, 4), S8)}
    codes = np.random.default_rng(0).integers(0, 8, (1, 2, 2)).astype(np.uint8)
    graph = build(shapes, nodes, ["a", "b", "c"], w=codes)
    changed = fold_padding(graph)
    assert {n.op: n.inputs[0] for n in changed.nodes} == {"pad": "x", "conv": "x", "avg_pool": "x", "max_pool": "p"}
    assert changed.nodes[1].attrs["padding"] == ((3, 1),)
    x = -np.random.default_rng(1).integers(1, 128, (9, 2, 5)).astype(np.int8)
    assert_same(Case(graph, {"x": x}), fold_padding)


@pytest.mark.parametrize("role", ["codes", "weight"])
def test_a_float_norm_goes_into_the_layer_before_it(role: str) -> None:
    rng = np.random.default_rng(0)
    f32 = Float32()
    codes = rng.integers(0, 8, (3, 2, 1)).astype(np.uint8)
    weight = {"codes": codes, "weight": rng.standard_normal((3, 2, 1)).astype(np.float32)}[role]
    attrs = {"stride": (1,), "padding": ((0, 0),), "dilation": (1,), "groups": 1}
    if role == "codes":
        attrs["format"] = "pot3d"
    nodes = [
        Node("conv", ("x",), "a", attrs, {role: "w", "bias": "b"}),
        Node("affine", ("a",), "y", {}, {"scale": "s", "bias": "t"}),
    ]
    values = {"x": ((2, 5), f32), "a": ((3, 5), f32), "y": ((3, 5), f32)}
    consts = {n: rng.standard_normal(3).astype(np.float32) for n in ("b", "s", "t")}
    graph = build(values, nodes, ["y"], w=weight, **consts)
    folded = fold_affine(graph)
    assert ops(folded) == ["conv"]
    check(folded)
    x = rng.standard_normal((4, 2, 5)).astype(np.float32)
    expected, got = (run_checked(g, {"x": x})["y"] for g in (graph, folded))
    # Two products and two sums of numbers under 100: a handful of half units of the last place.
    assert np.abs(got - expected).max() <= 8 * np.finfo(np.float32).eps * np.abs(expected).max()


def test_an_input_that_two_types_read_stays_float() -> None:
    values = {"x": ((2,), Float32()), "a": ((2,), S8), "b": ((2,), FixedPoint(4, 1)), "y": ((2,), S8)}
    nodes = [
        Node("quantize", ("x",), "a", {"rounding": "half_up"}),
        Node("quantize", ("x",), "b", {"rounding": "half_up"}),
        Node("add", ("a", "b"), "y"),
    ]
    assert ops(integer_inputs(build(values, nodes, ["y"]))) == ["quantize", "quantize", "add"]


def test_equal_quantisers_of_an_input_become_its_type() -> None:
    values = {"x": ((2,), Float32()), "a": ((2,), S8), "b": ((2,), S8), "y": ((2,), S8)}
    quantisers = [Node("quantize", ("x",), n, {"rounding": "half_up"}) for n in "ab"]
    graph = integer_inputs(build(values, [*quantisers, Node("add", ("a", "b"), "y")], ["y"]))
    assert ops(graph) == ["add"]
    assert graph.values["x"].type == S8


def test_a_wide_value_over_int32_is_refused_by_layer_name() -> None:
    values = {"x": ((64,), S8), "y": ((1,), Wide.at(20))}
    node = Node("linear", ("x",), "y", {"format": "pot5d"}, {"codes": "w", "mult": "m"}, "head.fc")
    codes = np.full((1, 64), 15, np.uint8)
    graph = build(values, [node], ["y"], w=codes, m=np.array([40000], np.int64))
    with pytest.raises(LoweringError, match=r"head\.fc.*over int32.*the model's output.*Remedy.*multiplier=False"):
        narrow(graph)


def test_a_multiplier_over_16_bits_is_refused_by_channel() -> None:
    values = {"x": ((2,), S8), "y": ((2,), Wide.at(20))}
    node = Node("linear", ("x",), "y", {"format": "pot2"}, {"codes": "w", "mult": "m"}, "head.fc")
    codes = np.array([[1, 0], [0, 1]], np.uint8)
    graph = build(values, [node], ["y"], w=codes, m=np.array([1, 70000], np.int64))
    with pytest.raises(LoweringError, match=r"head\.fc.*channel 1 needs the multiplier 70_000.*Remedy"):
        narrow(graph)


def test_a_rounding_moves_into_every_wide_part_of_a_concatenation() -> None:
    wide, narrow_type = Wide.at(6), FixedPoint(8, 5)
    nodes = [
        Node("linear", ("x",), "a", {"format": "pot3d"}, {"codes": "w"}),
        Node("concat", ("a", "x"), "c", {"axis": 0}),
        Node("clamp", ("c",), "d", {"lo": -40, "hi": 1000}),
        Node("requantize", ("d",), "y"),
    ]
    values = {"x": ((3,), S8), "a": ((3,), wide), "c": ((6,), wide), "d": ((6,), wide), "y": ((6,), narrow_type)}
    codes = np.random.default_rng(0).integers(0, 8, (3, 3)).astype(np.uint8)
    graph = build(values, nodes, ["y"], w=codes)
    assert ops(fuse(graph)) == ["linear", "requantize", "concat"]
    x = np.random.default_rng(1).integers(-128, 128, (50, 3)).astype(np.int8)
    assert_same(Case(graph, {"x": x}), fuse)
