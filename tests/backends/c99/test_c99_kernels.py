"""The fast kernels against the numpy reference, on this machine, under address and undefined-behaviour sanitizers."""

from dataclasses import replace

import numpy as np
import pytest

import c99_layers
from bitshift.backends.c99.kernels import KERNELS
from bitshift.backends.c99.kernels.geometry import geometry, tall
from bitshift.backends.c99.kernels.lists import Lists
from bitshift.backends.c99.kernels.packed import Packed
from bitshift.backends.c99.kernels.unrolled import Unrolled
from bitshift.backends.c99.kernels.unrolled_plan import plan_of
from bitshift.backends.c99.proof import centre
from bitshift.backends.c99.targets import get_target
from bitshift.core.fixed import FixedPoint
from c99_layers import CC, S8, U8, conv_graph, expected, inputs_of, layer_of, linear_graph, random_graph, run

pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler (cc) on this machine")

FAST = [name for name in KERNELS if name != "plain"]
SAME = ((1, 1), (1, 1))


def check(graph, kernel, target, folder, seed=0):
    inputs = inputs_of(graph, seed)
    assert np.array_equal(run(graph, kernel, get_target(target), folder, inputs), expected(graph, inputs))


SHAPES = {
    "same 3x3": {"shape": (4, 6, 7), "outputs": 6, "kernel": (3, 3), "padding": SAME},
    "stride, odd": {"shape": (3, 9, 7), "outputs": 5, "kernel": (3, 2), "stride": (2, 3), "padding": ((0, 1), (1, 0))},
    "1x1": {"shape": (9, 4, 5), "outputs": 8, "kernel": (1, 1)},
    "1x1, the last pixel alone": {"shape": (6, 7, 5), "outputs": 4, "kernel": (1, 1)},
    "1x1 stride 2": {"shape": (5, 7, 9), "outputs": 4, "kernel": (1, 1), "stride": (2, 2)},
    "1x1 stride 2, padded behind": {
        "shape": (5, 2, 2),
        "outputs": 8,
        "kernel": (1, 1),
        "stride": (2, 2),
        "padding": ((0, 1), (0, 1)),
    },
    "1-d 1x1 stride 2, padded behind": {
        "shape": (5, 4),
        "outputs": 8,
        "kernel": (1,),
        "stride": (2,),
        "padding": ((0, 3),),
    },
    "1x1 stride 3, a column, padded behind": {
        "shape": (5, 4, 1),
        "outputs": 8,
        "kernel": (1, 1),
        "stride": (3, 1),
        "padding": ((0, 7), (0, 0)),
    },
    "dilated": {"shape": (2, 9, 9), "outputs": 4, "kernel": (3, 3), "dilation": (2, 2), "padding": ((2, 2), (2, 2))},
    "1-d": {"shape": (4, 19), "outputs": 6, "kernel": (5,), "padding": ((2, 2),), "stride": (2,)},
    "groups": {"shape": (8, 5, 6), "outputs": 8, "kernel": (3, 3), "padding": SAME, "groups": 2},
    "depthwise": {"shape": (5, 6, 5), "outputs": 5, "kernel": (3, 3), "padding": SAME, "groups": 5},
    "depthwise 1x1": {"shape": (9, 5, 6), "outputs": 9, "kernel": (1, 1), "groups": 9},
    "depthwise of two": {"shape": (3, 8, 8), "outputs": 6, "kernel": (3, 3), "stride": (2, 2), "groups": 3},
}


@pytest.mark.parametrize("target", ["cortex-m0", pytest.param("avr", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["packed", "packed-1", "unrolled", "depthwise"])
@pytest.mark.parametrize("shape", SHAPES)
def test_convolutions_give_the_integers_of_the_reference(shape, name, target, tmp_path):
    graph = conv_graph(np.random.default_rng(3), **SHAPES[shape], residual=S8, vary=True)
    kernel = KERNELS[name]
    why = kernel.refuses(layer_of(graph), get_target(target))
    if why:
        pytest.skip(why)
    check(graph, kernel, target, tmp_path)


@pytest.mark.parametrize("name", ["depthwise", "packed-1", "unrolled"])
def test_rows_of_more_than_65535_pixels_end_where_fast_integers_have_16_bits(name, tmp_path, monkeypatch):
    graph = conv_graph(np.random.default_rng(3), shape=(1, 70_001), outputs=5, kernel=(1,), padding=((1, 1),))
    if name == "depthwise":
        graph = conv_graph(np.random.default_rng(3), shape=(1, 140_000), outputs=1, kernel=(3,), padding=((1, 1),))
    header = tmp_path / "fast16.h"
    header.write_text("#include <stdint.h>\n#define uint_fast16_t uint16_t\n")
    monkeypatch.setattr(c99_layers, "FLAGS", [*c99_layers.FLAGS, "-include", str(header)])
    assert KERNELS[name].refuses(layer_of(graph), get_target("generic")) is None
    check(graph, KERNELS[name], "generic", tmp_path)


@pytest.mark.parametrize("name", ["packed-1", "unrolled", "lists"])
@pytest.mark.parametrize("shape", [(37,), (3, 20)])
@pytest.mark.parametrize("type", [S8, U8, FixedPoint(12, 4)], ids=str)
def test_linear_layers_give_the_integers_of_the_reference(type, shape, name, tmp_path):
    graph = linear_graph(np.random.default_rng(4), shape=shape, outputs=11, x=type, format="pot3")
    check(graph, KERNELS[name], "cortex-m4", tmp_path)


class Chained(Unrolled):
    """The straight-line kernel with a chain of shifts, whatever it costs."""

    def __init__(self, lanes: int, mid: int) -> None:
        self.lanes, self.mid = lanes, mid

    def make(self, layer, target):
        shape = geometry(layer)
        assert shape is not None
        plan = plan_of(layer, tall(shape), target, lanes=self.lanes, mid=self.mid, chained=True, words=False)
        assert plan is not None
        return plan


@pytest.mark.parametrize(("target", "lanes"), [("cortex-m0", 2), ("cortex-m0", 1), ("rv32i", 2), ("avr", 1)])
@pytest.mark.parametrize("type", [U8, S8, FixedPoint(10, 4, False)], ids=str)
def test_chains_of_several_blocks_around_a_middle_skip_rows_of_zeros(type, target, lanes, tmp_path):
    levels = np.random.default_rng(5).integers(-15, 16, (9, 90, 1, 1))
    levels[[0, 4]] = 0
    graph = conv_graph(
        np.random.default_rng(6), shape=(90, 3, 5), outputs=9, kernel=(1, 1), x=type, format="int6", levels=levels
    )
    narrow = lanes == 2 or target == "avr"
    kernel = Chained(lanes, centre(type.lo, type.hi) if narrow else 0)
    ends = kernel.plan(layer_of(graph), get_target(target)).rows[0].ends
    assert len(ends) > 1 if narrow else len(ends) == 1
    check(graph, kernel, target, tmp_path)


@pytest.mark.parametrize("target", ["cortex-m0", "avr"])
@pytest.mark.parametrize("shape", [(200,), (2, 301)])
def test_long_lists_are_taken_in_bursts(shape, target, tmp_path):
    graph = linear_graph(np.random.default_rng(4), shape=shape, outputs=7, x=S8, format="pot3d")
    assert Lists().plan(layer_of(graph), get_target(target)).burst > 1
    check(graph, KERNELS["lists"], target, tmp_path)


@pytest.mark.parametrize("name", ["packed-1", "unrolled"])
@pytest.mark.parametrize("type", [U8, FixedPoint(10, 4, False)], ids=str)
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2)])
def test_registers_of_16_bits_hold_activations_around_their_middle(kernel, type, name, tmp_path):
    graph = conv_graph(
        np.random.default_rng(8), shape=(70 // kernel[0] ** 2, 3, 2), outputs=12, kernel=kernel, x=type,
        y=FixedPoint(32, 0), shift=0,
    )  # fmt: skip
    why = KERNELS[name].refuses(layer_of(graph), get_target("avr"))
    if why:
        pytest.skip(why)
    check(graph, KERNELS[name], "avr", tmp_path)


ONES = np.where(np.arange(2000) % 3, 1, -1)
BLOCKS = {
    "held in lanes": {"shape": (120, 3, 4), "outputs": 5, "kernel": (1, 1), "levels": ONES[:600].reshape(5, 120, 1, 1)},
    "spilled once": {"shape": (400, 3, 4), "outputs": 5, "kernel": (1, 1), "levels": ONES.reshape(5, 400, 1, 1)},
    "spilled, less than a box left": {"shape": (17, 4, 5), "outputs": 4, "kernel": (3, 3), "padding": SAME},
    "of two groups": {"shape": (48, 4, 4), "outputs": 10, "kernel": (3, 3), "padding": SAME, "groups": 2},
}


@pytest.mark.parametrize(("name", "target"), [("packed", "cortex-m0"), ("packed-1", "avr")])
@pytest.mark.parametrize("case", BLOCKS)
def test_sums_of_several_blocks_are_those_of_the_reference(case, name, target, tmp_path):
    graph = conv_graph(np.random.default_rng(8), **BLOCKS[case], residual=S8)
    plan = KERNELS[name].plan(layer_of(graph), get_target(target))
    assert len(plan.ends) > 1
    assert (plan.spills > 0, plan.fused) == ((False, True) if case == "held in lanes" else (True, False))
    check(graph, KERNELS[name], target, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["pot1", "pot2", "pot2d", "pot3", "pot4x2", "apot5", "pot4d", "int4"])
@pytest.mark.parametrize("type", [S8, U8], ids=str)
def test_formats_and_signs_give_the_integers_of_the_reference(type, format, tmp_path):
    graph = conv_graph(
        np.random.default_rng(5), shape=(8, 6, 6), outputs=5, kernel=(3, 3), padding=SAME, format=format, x=type
    )
    for kernel in (Packed(2), Unrolled()):
        check(graph, kernel, "generic", tmp_path)


@pytest.mark.parametrize("inputs", [255, 256, 257, 300])
@pytest.mark.parametrize("sign", [1, -1])
def test_lanes_hold_the_worst_input_at_the_edge_of_the_proof(sign, inputs, tmp_path):
    levels = np.full((4, inputs, 1, 1), sign)
    graph = conv_graph(
        np.random.default_rng(6), shape=(inputs, 2, 4), outputs=4, kernel=(1, 1), format="pot3d", levels=levels,
        y=FixedPoint(32, 0), shift=0,
    )  # fmt: skip
    for kernel in (Packed(4), Unrolled()):
        check(graph, kernel, "generic", tmp_path)


def test_a_wide_rule_is_evaluated_in_64_bits(tmp_path):
    graph = conv_graph(np.random.default_rng(7), shape=(6, 4, 4), outputs=4, kernel=(3, 3), padding=SAME)
    constants = {**graph.constants, "mult": np.full(4, 1 << 15, np.int32), "shift": np.full(4, 22, np.uint8)}
    constants["offset"] = np.array([1 << 50, -(1 << 50), 1 << 33, 5])
    graph = replace(graph, constants=constants)
    assert layer_of(graph).wide
    for kernel in (Packed(4), Unrolled()):
        check(graph, kernel, "generic", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(120))
def test_random_layers_give_the_integers_of_the_reference(seed, tmp_path):
    graph = random_graph(seed)
    target = ["generic", "cortex-m0", "cortex-m4", "avr"][seed % 4]
    able = [k for k in map(KERNELS.get, FAST) if k and not k.refuses(layer_of(graph), get_target(target))]
    if not able:
        pytest.skip("every fast kernel refuses this layer")
    check(graph, able[seed // 4 % len(able)], target, tmp_path, seed)
