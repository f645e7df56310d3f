"""Law: instruction set, threads, batch and tuning never change an integer that the engine gives."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitshift.backends import engine
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import GraphError
from bitshift.core.ops import OPS
from bitshift.core.reference import execute
from bitshift.core.windows import output_length
from strategies import (
    FLOAT_ONLY,
    GROWERS,
    Builder,
    Case,
    Drawn,
    Pick,
    _weighted,
    any_type,
    graph_cases,
    node_cases,
    numbers,
    small_type,
)

pytestmark = pytest.mark.skipif(engine.available() is not None, reason=str(engine.available()))

BATCHES = [1, 2, 5, 17]


@cache
def isas() -> list[str]:
    """The instruction sets of this processor, portable among them."""
    b = Builder()
    x = b.input((1,), FixedPoint(8, 0))
    graph = b.graph([b.node("clamp", [x], (1,), FixedPoint(8, 0), {"lo": 0, "hi": None})])
    found = ["portable"]
    for name in ("avx512", "avx512vl", "avxvnni", "avx2", "neon"):
        try:
            engine.compile(graph, isa=name)
        except GraphError:
            continue
        found.append(name)
    return found


@pytest.fixture(autouse=True)
def share_everything(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Small graphs are shared by threads, too, and the choices of a user's own cache play no part."""
    monkeypatch.setenv("BITSHIFT_SHARE_FROM", "0")
    monkeypatch.setenv("BITSHIFT_KERNEL_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))


def assert_runs_alike(case: Case, batch: int, isa: str, threads: int, tune: str) -> None:
    """The engine gives the reference's numbers for ``batch`` samples that repeat those of the case."""
    count = len(next(iter(case.inputs.values())))
    if not count:
        return
    pick = np.arange(batch) % count
    inputs = {name: array[pick] for name, array in case.inputs.items()}
    expected = execute(case.graph, case.inputs)
    executable = engine.compile(case.graph, threads=threads, isa=isa, tune=tune)
    for _ in range(2):  # the second run finds the first one's memory
        got = executable.run_int(inputs)
        for name in case.graph.outputs:
            np.testing.assert_array_equal(got[name], expected[name][pick], err_msg=case.graph.pretty())


def ways(draw: st.DataObject) -> tuple[int, str, int, str]:
    """A batch, an instruction set, a number of threads, a way to tune."""
    return (
        draw.draw(st.sampled_from(BATCHES)),
        draw.draw(st.sampled_from(isas())),
        draw.draw(st.sampled_from([1, 2, 3])),
        draw.draw(st.sampled_from(["off", "off", "auto", "force"])),
    )


@pytest.mark.parametrize("op", sorted(set(OPS) - FLOAT_ONLY))
@settings(max_examples=60)
@given(data=st.data())
def test_an_op_gives_the_references_integers_in_every_way(op: str, data: st.DataObject) -> None:
    assert_runs_alike(data.draw(node_cases(op)), *ways(data))


@settings(max_examples=200)
@given(data=st.data())
def test_a_graph_gives_the_references_integers_in_every_way(data: st.DataObject) -> None:
    assert_runs_alike(data.draw(graph_cases()), *ways(data))


# ---- networks of maps: more channels and pixels than the strategies draw ----

MOST = 6000
"""Elements of the largest value."""


def grow_wide_conv(pick: Pick, b: Builder, x: str) -> str | None:
    """A convolution with the kernels, strides and groups of real networks, at odd sizes, too."""
    channels, *sizes = b.values[x].shape
    groups = pick.one([1, 1, 1, channels, pick.one([g for g in range(1, channels + 1) if channels % g == 0])])
    out = groups * pick.one([1, 1, 2]) if groups == channels else groups * pick.int(1, max(1, 70 // groups))
    attrs: dict[str, list] = {"stride": [], "padding": [], "dilation": []}
    kernel, lengths = [], []
    for size in sizes:
        k, stride, dilation = pick.one([1, 3, 3, 3, 2, 5, 7]), pick.one([1, 1, 1, 2, 3]), pick.one([1, 1, 1, 2])
        same = (k - 1) * dilation // 2
        before, after = pick.one([(same, same), (same, same), (0, 0), (pick.int(0, 6), pick.int(0, 6))])
        if size + before + after < (k - 1) * dilation + 1:
            k, dilation, before, after = 1, 1, 0, 0
        kernel.append(k)
        lengths.append(output_length(size, k, stride, (before, after), dilation))
        attrs["stride"].append(stride)
        attrs["padding"].append([before, after])
        attrs["dilation"].append(dilation)
    outs = (out, *lengths)
    if math.prod(outs) > MOST:
        return None
    return _weighted(pick, b, "conv", x, outs, (out, channels // groups, *kernel), {**attrs, "groups": groups})


def grow_wide_transposed(pick: Pick, b: Builder, x: str) -> str | None:
    """A transposed convolution as decoders have them, and others: every kernel for maps computes its phases."""
    channels, *sizes = b.values[x].shape
    groups = pick.one([1, 1, 1, channels])
    out = groups * pick.one([1, 2]) if groups == channels else pick.int(1, 40)
    attrs: dict[str, list] = {"stride": [], "padding": [], "output_padding": [], "dilation": []}
    kernel, lengths = [], []
    for size in sizes:
        k, stride, dilation = pick.one([2, 3, 4, 4, 5, 6]), pick.one([1, 2, 2, 3]), pick.one([1, 1, 1, 2])
        extra = pick.int(0, max(stride, dilation) - 1)
        full = (size - 1) * stride + (k - 1) * dilation + 1 + extra
        before = min(pick.one([0, 1, 1, 2, 5]), full - 1)
        after = min(pick.one([0, 1, 1, 2, 5]), full - 1 - before)
        kernel.append(k)
        lengths.append(full - before - after)
        for name, value in zip(attrs, (stride, [before, after], extra, dilation), strict=True):
            attrs[name].append(value)
    outs = (out, *lengths)
    if math.prod(outs) > 2 * MOST:
        return None
    weight = (out, channels // groups, *kernel)
    return _weighted(pick, b, "conv_transpose", x, outs, weight, {**attrs, "groups": groups})


def grow_wide_linear(pick: Pick, b: Builder, x: str) -> str | None:
    """A matrix product with more outputs than a block."""
    shape = b.values[x].shape
    out = pick.int(1, 80)
    return _weighted(pick, b, "linear", x, (*shape[:-1], out), (out, shape[-1]), {})


def grow_shortcut(pick: Pick, b: Builder, x: str) -> str | None:
    """Every n-th pixel, then more channels of one value: what a ResNet's parameter-free shortcut does."""
    shape, type = b.values[x].shape, b.values[x].type
    step = [1, *(pick.int(1, 3) for _ in shape[1:])]
    stop = [shape[0], *(pick.int(max(1, n - 2), n) for n in shape[1:])]
    small = [-(-n // s) for n, s in zip(stop, step, strict=True)]
    x = b.node("slice", [x], small, type, {"start": [0] * len(shape), "stop": stop, "step": step})
    before, after = pick.int(0, 2 * small[0]), pick.int(0, small[0])
    outs = [small[0] + before + after, *small[1:]]
    if math.prod(outs) > MOST:
        return x
    padding = [[before, after], *([0, 0] for _ in shape[1:])]
    fill = numbers(pick, type, (1,))[0].item()
    return b.node("pad", [x], outs, type, {"padding": padding, "value": fill})


def wide_case(pick: Pick) -> Case:
    """A network of 1 to 8 nodes, most of them convolutions of maps."""
    b = Builder()
    rank = pick.one([1, 2, 2, 2])
    shape = (pick.one([1, 3, 4, 8, 16, 17, 32, 33, 64]), *(pick.int(1, 12 if rank == 2 else 60) for _ in range(rank)))
    if pick.int(0, 2) == 0:
        live = [b.node("quantize", [b.input(shape, Float32())], shape, small_type(pick), {"rounding": "half_up"})]
    else:
        live = [b.input(shape, pick.one([small_type(pick), FixedPoint(8, 4, pick.int(0, 1) == 1), any_type(pick)]))]
    others = ["add", "requantize", "rescale", "clamp", "table", "max_pool", "avg_pool", "concat", "reshape", "upsample"]
    for _ in range(pick.int(1, 8)):
        x = live[-1] if pick.int(0, 3) else pick.one(live)
        kind = pick.int(0, 9)
        if kind <= 3 and len(b.values[x].shape) in (2, 3):
            out = grow_wide_conv(pick, b, x)
        elif kind == 4 and len(b.values[x].shape) in (2, 3):
            out = grow_wide_transposed(pick, b, x)
        elif kind == 5 and b.values[x].shape:
            out = grow_wide_linear(pick, b, x)
        elif kind == 6 and len(b.values[x].shape) in (2, 3):
            out = grow_shortcut(pick, b, x)
        else:
            out = GROWERS[pick.one(others)](pick, b, x)
        if out is not None:
            live.append(out)
    used = {name for node in b.nodes for name in node.inputs}
    if not b.nodes:
        live.append(b.node("clamp", [live[-1]], shape, b.values[live[-1]].type, {"lo": 0, "hi": None}))
    ends = [node.output for node in b.nodes if node.output not in used]
    graph = b.graph(list(dict.fromkeys([*ends, pick.one([node.output for node in b.nodes])])))
    batch = pick.int(1, 3)
    return Case(graph, {n: numbers(pick, graph.values[n].type, (batch, *graph.values[n].shape)) for n in graph.inputs})


@st.composite
def wide_cases(draw: st.DrawFn) -> Case:
    return wide_case(Drawn(draw))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_network_of_maps_gives_the_references_integers_in_every_way(data: st.DataObject) -> None:
    assert_runs_alike(data.draw(wide_cases()), *ways(data))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_transposed_convolutions_between_maps_give_the_references_integers_in_every_way(data: st.DataObject) -> None:
    pick = Drawn(data.draw)
    b = Builder()
    x = b.input((pick.one([1, 3, 4, 8, 16, 17]), pick.int(1, 7), pick.int(1, 9)), small_type(pick))
    grow = pick.one([grow_wide_transposed, grow_wide_conv])
    for step in (grow, grow_wide_transposed, pick.one([grow_wide_conv, grow_wide_transposed])):
        found = step(pick, b, x)
        if found is None or b.values[found].type.bits > 8:
            x = found or x
            break
        x = found
    if not b.nodes:
        return
    graph = b.graph([x])
    inputs = {n: numbers(pick, graph.values[n].type, (2, *graph.values[n].shape)) for n in graph.inputs}
    assert_runs_alike(Case(graph, inputs), *ways(data))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_convolutions_over_three_axes_give_the_references_integers_in_every_way(data: st.DataObject) -> None:
    pick = Drawn(data.draw)
    b = Builder()
    x = b.input((pick.one([1, 2, 3, 4, 8, 16]), pick.int(1, 4), pick.int(1, 6), pick.int(1, 7)), small_type(pick))
    for _ in range(pick.int(1, 2)):
        found = grow_wide_conv(pick, b, x)
        if found is None:
            break
        x = found
    if not b.nodes:
        return
    graph = b.graph([x])
    inputs = {n: numbers(pick, graph.values[n].type, (2, *graph.values[n].shape)) for n in graph.inputs}
    assert_runs_alike(Case(graph, inputs), *ways(data))


def test_where_maps_do_not_fit_the_limit_a_model_runs_portable() -> None:
    b = Builder()
    x = b.input((8, 2, 2), FixedPoint(8, 0))
    codes = np.random.default_rng(0).integers(0, 8, (8, 8, 3, 3)).astype(np.uint8)
    window = {"stride": [1, 1], "padding": [[30, 30], [30, 30]], "dilation": [30, 30], "groups": 1}
    graph = b.graph(
        [b.node("conv", [x], (8, 2, 2), FixedPoint(8, -6), {"format": "pot3d", **window}, {"codes": codes})]
    )
    limit = engine.compile(graph, isa="portable", threads=1).arena_bytes + 8 * 2 * 2
    assert engine.compile(graph, threads=1).arena_bytes > limit or isas() == ["portable"]
    tight = engine.compile(graph, threads=1, max_activation_bytes=limit)
    assert tight.isa == "portable"
    inputs = {x: np.random.default_rng(1).integers(-128, 128, (3, 8, 2, 2)).astype(np.int8)}
    for name, expected in execute(graph, inputs).items():
        np.testing.assert_array_equal(tight.run_int(inputs)[name], expected)
