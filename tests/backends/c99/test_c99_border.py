"""The border and the memory of generated C: floats at the border, copies, places shared and none too early."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from bitshift.backends.c99.memory import scratch_of
from bitshift.backends.c99.program import Memory
from bitshift.backends.c99.unit import Unit, compile_graph
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph, Node, Value
from c99_host import assert_equal, needs_cc
from strategies import random_case

S8, U8, S16 = FixedPoint(8, 4), FixedPoint(8, 4, signed=False), FixedPoint(16, 4)
SHAPE = (2, 3, 3)


def graph(
    nodes: list[Node], types: dict[str, object], outputs: tuple[str, ...], inputs: tuple[str, ...] = ("x",)
) -> Graph:
    values = {name: Value(name, SHAPE, type) for name, type in types.items()}  # type: ignore[arg-type]
    return Graph(inputs, outputs, values, tuple(nodes), {})


def clamp(source: str, output: str) -> Node:
    return Node("clamp", (source,), output, {"lo": 0, "hi": None})


def add(a: str, b: str, output: str) -> Node:
    return Node("add", (a, b), output)


def samples(type: FixedPoint, count: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(type.lo, type.hi, endpoint=True, size=(count, *SHAPE)).astype(type.dtype)


def overlapping(unit: Unit) -> list[tuple[Memory, Memory]]:
    """Memories that live at once and share bytes, other than an output that takes its dead input's place."""
    steps, plan = unit.program.steps, unit.plan
    spans: dict[Memory, tuple[int, int]] = {}
    for i, step in enumerate(steps):
        for memory in (step.output, *step.inputs):
            first, last = spans.get(memory, (i, i))
            spans[memory] = min(first, i), max(last, i)
    sizes = dict(unit.program.sizes)
    for i, step in enumerate(steps):
        if unit.codes[step.name].scratch:
            spans[scratch_of(step)], sizes[scratch_of(step)] = (i, i), unit.codes[step.name].scratch
    found = []
    for a, b in itertools.combinations([name for name in spans if name in plan.offsets], 2):
        if plan.shared.get(a) == b or plan.shared.get(b) == a:
            continue
        together = spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]
        if together and plan.offsets[a] < plan.offsets[b] + sizes[b] and plan.offsets[b] < plan.offsets[a] + sizes[a]:
            found.append((a, b))
    return found


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_memories_that_live_at_once_do_not_overlap(first: int) -> None:
    for seed in range(first, first + 20):
        case = random_case(seed)
        try:
            unit = compile_graph(case.graph)
        except ValueError:  # floats, or a multiplier
            continue
        assert overlapping(unit) == []
        assert all(at % 4 == 0 for at in unit.plan.offsets.values())
        assert unit.plan.bound <= unit.plan.size


def test_a_value_that_is_read_later_keeps_its_place() -> None:
    # "a" is read by the clamp and by the add behind it: the clamp must not write into it.
    found = graph(
        [add("x", "x", "a"), clamp("a", "b"), add("a", "b", "c"), clamp("c", "y")],
        {"x": S8, "a": S8, "b": S8, "c": S8, "y": S8},
        ("y",),
    )
    plan = compile_graph(found).plan
    assert "b" not in plan.shared
    assert plan.shared["c"] == "a"
    assert plan.size == 2 * 20  # 18 bytes each, on a multiple of 4


def test_a_place_is_shared_only_by_elements_of_one_size() -> None:
    found = graph(
        [add("x", "x", "a"), Node("requantize", ("a",), "b"), clamp("b", "y")],
        {"x": S8, "a": S16, "b": S8, "y": S8},
        ("y",),
    )
    assert "b" not in compile_graph(found).plan.shared


def conv(op: str, inputs: tuple[str, ...], output: str, source: str) -> tuple[Node, dict[str, np.ndarray]]:
    """A 3x3 layer that keeps the shape, and its constants."""
    same, one = ((1, 1), (1, 1)), (1, 1)
    attrs: dict[str, object] = {"format": "pot3d", "stride": one, "padding": same, "dilation": one, "groups": 1}
    if op == "conv_transpose":
        attrs["output_padding"] = (0, 0)
    codes = np.random.default_rng(1).integers(0, 8, (2, 2, 3, 3)).astype(np.uint8)
    names = {"codes": f"{source}.codes", "shift": f"{source}.shift"}
    return Node(op, inputs, output, attrs, names, source), {
        names["codes"]: codes, names["shift"]: np.full(2, 3, np.uint8)
    }  # fmt: skip


@needs_cc
@pytest.mark.parametrize("op", ["conv", "conv_transpose"])
def test_a_layer_does_not_write_over_a_residual_that_is_its_input_too(op: str, tmp_path: Path) -> None:
    layer, constants = conv(op, ("a", "a"), "b", "up")
    values = {name: Value(name, SHAPE, S8) for name in ("x", "a", "b", "y")}
    nodes = (Node("requantize", ("x",), "a"), layer, clamp("b", "y"))
    unit = assert_equal(Graph(("x",), ("y",), values, nodes, constants), {"x": samples(S8)}, tmp_path)
    assert "b" not in unit.plan.shared


@needs_cc
def test_a_value_may_be_called_as_a_copy_is(tmp_path: Path) -> None:
    name = "x (output)"
    found = graph([clamp("x", name), clamp(name, "y")], {"x": S8, name: S8, "y": S8}, ("x", name))
    unit = assert_equal(found, {"x": samples(S8)}, tmp_path)
    assert len({border.memory for border in unit.program.outputs}) == 2


@needs_cc
def test_a_value_may_be_called_as_a_scratch_memory_is(tmp_path: Path) -> None:
    name = "s00_fc.scratch"
    first, constants = conv("conv", ("x",), name, "fc")
    second, more = conv("conv", (name,), "b", "fc2")
    values = {value: Value(value, SHAPE, S8) for value in ("x", name, "b", "y")}
    found = Graph(("x",), ("y",), values, (first, second, clamp("b", "y")), constants | more)
    assert_equal(found, {"x": samples(S8)}, tmp_path, mode="plain")


@needs_cc
def test_floats_at_the_border_are_the_callers_integers(tmp_path: Path) -> None:
    found = graph(
        [
            Node("reshape", ("x",), "r", {"shape": SHAPE}),
            Node("quantize", ("r",), "q", {"rounding": "floor"}),
            clamp("q", "c"),
            Node("dequantize", ("c",), "y"),
        ],
        {"x": Float32(), "r": Float32(), "q": S8, "c": S8, "y": Float32()},
        ("y", "c"),
    )
    x = np.random.default_rng(0).normal(0, 10, size=(5, *SHAPE)).astype(np.float32)
    unit = assert_equal(found, {"x": x}, tmp_path)
    assert [b.port.type for b in (*unit.program.inputs, *unit.program.outputs)] == [S8, S8, S8]
    assert "floor(value * 2**FRAC)" in (tmp_path / "model.h").read_text()


@needs_cc
def test_an_output_that_is_an_input_is_copied(tmp_path: Path) -> None:
    found = graph([Node("reshape", ("x",), "y", {"shape": SHAPE})], {"x": S16, "y": S16}, ("y", "x"))
    assert_equal(found, {"x": samples(S16)}, tmp_path)


@needs_cc
def test_an_output_that_later_steps_read_is_whole(tmp_path: Path) -> None:
    found = graph(
        [add("x", "x", "a"), Node("reshape", ("a",), "v", {"shape": SHAPE}), clamp("v", "b"), add("b", "a", "y")],
        {"x": U8, "a": S16, "v": S16, "b": S16, "y": S16},
        ("v", "y", "a"),
    )
    assert_equal(found, {"x": samples(U8)}, tmp_path)


@needs_cc
def test_several_inputs_and_an_unused_one_are_parameters_in_order(tmp_path: Path) -> None:
    found = graph(
        [add("x", "z", "y")], {"x": S8, "unused": S16, "z": U8, "y": S16}, ("y",), inputs=("x", "unused", "z")
    )
    given = {"x": samples(S8), "unused": samples(S16), "z": samples(U8, seed=1)}
    assert_equal(found, given, tmp_path)
    text = (tmp_path / "model.h").read_text()
    assert "void model_run(const int8_t *x0, const int16_t *x1, const uint8_t *x2, int16_t *y);" in text
