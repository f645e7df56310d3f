"""The law of fusing: random literal graphs with wide values keep every integer through all passes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bitshift.core.bounds import check_bounds
from bitshift.core.check import check
from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, GraphError, Node, Value
from bitshift.core.reference import run_checked
from bitshift.lower.errors import LoweringError
from bitshift.lower.passes import optimise
from bitshift.lower.passes.narrow import value_ranges
from bitshift.lower.wide import MAX_EXACT, Wide, is_wide
from strategies import Drawn, Pick

LENGTH = 5


class Writer:
    """A literal graph under construction, as the rules write it: layers give wide values, quantisers narrow ones."""

    def __init__(self, pick: Pick) -> None:
        self.pick = pick
        kind = FixedPoint(pick.int(2, 8), pick.int(-2, 6), bool(pick.int(0, 1)))
        self.values = {"x": Value("x", (pick.int(1, 3), LENGTH), kind)}
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(
        self, op: str, inputs: list[str], shape: tuple[int, ...], kind: FixedPoint, attrs: Any = None, **consts: Any
    ) -> str:
        name = f"v{len(self.nodes)}"
        self.values[name] = Value(name, shape, kind)
        for role, array in consts.items():
            self.constants[f"{name}.{role}"] = array
        roles = {role: f"{name}.{role}" for role in consts}
        self.nodes.append(Node(op, tuple(inputs), name, attrs or {}, roles, name))
        return name

    def type(self, name: str) -> FixedPoint:
        kind = self.values[name].type
        assert isinstance(kind, FixedPoint)
        return kind

    def narrow_values(self) -> list[str]:
        return [n for n in self.values if not is_wide(self.type(n))]

    # --- steps, each takes a value and gives one --------------------------------------------------------------------

    def conv(self, x: str) -> str:
        pick, (channels, length) = self.pick, self.values[x].shape
        if is_wide(self.type(x)):
            x = self.quantise(x)
        form = FORMATS[pick.one(["pot2", "pot3d", "pot4x2", "int4"])]
        outputs, kernel = pick.int(1, 3), pick.int(1, min(3, length))
        pads = (pick.int(0, 1), pick.int(0, 1))
        codes = np.array([pick.one(form.valid_levels) for _ in range(outputs * channels * kernel)])
        mult = [pick.one([1, 2, 8, 3, 40001, 65535]) << pick.int(0, 3) for _ in range(outputs)]
        offset = [pick.int(-(2 ** pick.int(0, 20)), 2 ** pick.int(0, 20)) for _ in range(outputs)]
        attrs = {"format": form.name, "stride": (pick.int(1, 2),), "padding": (pads,), "dilation": (1,), "groups": 1}
        size = (length + sum(pads) - kernel) // attrs["stride"][0] + 1
        return self.add(
            "conv", [x], (outputs, size), Wide.at(self.type(x).frac + pick.int(0, 12)), attrs,
            codes=form.encode(codes.reshape(outputs, channels, kernel)),
            mult=np.array(mult, np.int64), offset=np.array(offset, np.int64),
        )  # fmt: skip

    def transposed(self, x: str) -> str:
        pick, (channels, length) = self.pick, self.values[x].shape
        if is_wide(self.type(x)):
            x = self.quantise(x)
        if length > 2 * LENGTH:
            return self.part(x)
        form = FORMATS[pick.one(["pot2", "pot3d", "int4"])]
        outputs, kernel, stride = pick.int(1, 3), pick.int(1, 4), pick.int(1, 3)
        extra = pick.int(0, stride - 1)
        before = pick.int(0, 1) if kernel > 1 else 0
        codes = np.array([pick.one(form.valid_levels) for _ in range(outputs * channels * kernel)])
        mult = [pick.one([1, 2, 8, 3]) << pick.int(0, 3) for _ in range(outputs)]
        offset = [pick.int(-(2 ** pick.int(0, 20)), 2 ** pick.int(0, 20)) for _ in range(outputs)]
        attrs = {
            "format": form.name, "stride": (stride,), "padding": ((before, 0),), "output_padding": (extra,),
            "dilation": (1,), "groups": 1,
        }  # fmt: skip
        size = (length - 1) * stride + kernel - before + extra
        return self.add(
            "conv_transpose", [x], (outputs, size), Wide.at(self.type(x).frac + pick.int(0, 12)), attrs,
            codes=form.encode(codes.reshape(outputs, channels, kernel)),
            mult=np.array(mult, np.int64), offset=np.array(offset, np.int64),
        )  # fmt: skip

    def upsampled(self, x: str) -> str:
        channels, length = self.values[x].shape
        if length > 2 * LENGTH:
            return self.part(x)
        return self.add("upsample", [x], (channels, 2 * length), self.type(x), {"factor": (2,)})

    def residual(self, x: str) -> str:
        same = [n for n in self.values if self.values[n].shape == self.values[x].shape]
        other = self.pick.one(same)
        kind = Wide.at(max(self.type(x).frac, self.type(other).frac))
        return self.add("add", self.pick.one([[x, other], [other, x]]), self.values[x].shape, kind)

    def clamp(self, x: str) -> str:
        lo, hi = (self.pick.int(-(2 ** self.pick.int(0, 24)), 2 ** self.pick.int(0, 24)) for _ in range(2))
        kind = self.type(x)
        bounds = [min(max(b, kind.lo), kind.hi) for b in sorted((lo, hi))]
        attrs = {"lo": self.pick.one([0, bounds[0], None]), "hi": self.pick.one([max(bounds[1], 0), None])}
        if None not in attrs.values() and attrs["lo"] > attrs["hi"]:
            attrs["lo"] = None
        return self.add("clamp", [x], self.values[x].shape, kind, attrs)

    def max_pool(self, x: str) -> str:
        channels, length = self.values[x].shape
        attrs = {"kernel": (min(2, length),), "stride": (self.pick.int(1, 2),), "padding": ((0, 0),), "dilation": (1,)}
        size = (length - attrs["kernel"][0]) // attrs["stride"][0] + 1
        return self.add("max_pool", [x], (channels, size), self.type(x), attrs)

    def pad(self, x: str) -> str:
        channels, length = self.values[x].shape
        kind = self.type(x)
        value = min(max(self.pick.one([0, 1, -7, 100]), kind.lo), kind.hi)
        return self.add("pad", [x], (channels, length + 1), kind, {"padding": ((0, 0), (1, 0)), "value": value})

    def part(self, x: str) -> str:
        channels, length = self.values[x].shape
        start = self.pick.int(0, length - 1)
        attrs = {"start": (0, start), "stop": (channels, length), "step": (1, self.pick.int(1, 2))}
        size = len(range(start, length, attrs["step"][1]))
        return self.add("slice", [x], (channels, size), self.type(x), attrs)

    def concat(self, x: str) -> str:
        fits = [n for n in self.values if self.values[n].shape[1] == self.values[x].shape[1]]
        names = [x, self.pick.one(fits)]
        channels = sum(self.values[n].shape[0] for n in names)
        kind = Wide.at(max(self.type(n).frac for n in names))
        return self.add("concat", names, (channels, self.values[x].shape[1]), kind, {"axis": 0})

    def avg_pool(self, x: str) -> str:
        if is_wide(self.type(x)):
            x = self.quantise(x)
        channels, length = self.values[x].shape
        attrs = {
            "kernel": (length,),
            "stride": (1,),
            "padding": ((0, 0),),
            "mult": self.pick.one([1, 4, 21845]),
            "offset": 0,
        }
        kind = Wide.at(self.type(x).frac + self.pick.int(0, 9))
        return self.add("avg_pool", [x], (channels, 1), kind, {**attrs, "shift": 0})

    def shifted(self, x: str) -> str:
        if is_wide(self.type(x)):
            x = self.quantise(x)
        count = self.pick.one([1, self.values[x].shape[0]])
        offset = np.array([self.pick.int(-3000, 3000) for _ in range(count)], np.int64)
        mult = np.array([1 << self.pick.int(0, 6)], np.int64)
        kind = Wide.at(self.type(x).frac + self.pick.int(0, 6))
        return self.add("rescale", [x], self.values[x].shape, kind, mult=mult, offset=offset)

    def refined(self, x: str) -> str:
        """The grid that a bound off the grid asks for."""
        kind = Wide.at(self.type(x).frac + self.pick.int(0, 8))
        return self.clamp(self.add("requantize", [x], self.values[x].shape, kind))

    def quantise(self, x: str) -> str:
        pick, kind = self.pick, self.type(x)
        out = FixedPoint(pick.int(2, 8), kind.frac - pick.int(-3, 14), bool(pick.int(0, 1)))
        shape = self.values[x].shape
        if pick.int(0, 2) or kind.frac <= out.frac:
            return self.add("requantize", [x], shape, out)
        return self.add("rescale", [x], shape, out, shift=np.array([kind.frac - out.frac], np.uint8))

    STEPS = (
        "conv",
        "conv",
        "transposed",
        "upsampled",
        "quantise",
        "residual",
        "clamp",
        "max_pool",
        "pad",
        "part",
        "concat",
        "avg_pool",
        "shifted",
        "refined",
    )

    def graph(self) -> Graph:
        last = "x"
        for _ in range(self.pick.int(1, 9)):
            last = getattr(self, self.pick.one(self.STEPS))(
                last if self.pick.int(0, 4) else self.pick.one(list(self.values))
            )
        if is_wide(self.type(last)):
            last = self.quantise(last)
        extra = self.pick.one([n.output for n in self.nodes])
        return Graph(("x",), tuple(dict.fromkeys([last, extra])), self.values, tuple(self.nodes), self.constants)


@st.composite
def literal_graphs(draw: st.DrawFn) -> Graph:
    return Writer(Drawn(draw)).graph()


@given(literal_graphs(), st.integers(0, 2**32 - 1))
def test_fusing_keeps_every_integer(graph: Graph, seed: int) -> None:
    reach = [r for r in value_ranges(graph).values() if r is not None]
    if max(max(abs(lo), abs(hi)) for lo, hi in reach) >= MAX_EXACT:
        return  # the rules refuse such numbers before a graph is written
    kind, shape = graph.values["x"].type, graph.values["x"].shape
    assert isinstance(kind, FixedPoint)
    rng = np.random.default_rng(seed)
    x = rng.integers(kind.lo, kind.hi + 1, (8, *shape)).astype(kind.dtype)
    x[0], x[1] = kind.lo, kind.hi
    expected = run_checked(graph, {"x": x})
    try:
        fused = optimise(graph)
        check(fused)
        check_bounds(fused)
    except (LoweringError, GraphError) as error:
        assert "int32" in str(error) or "needs the multiplier" in str(error) or "int64" in str(error)  # noqa: PT017
        return
    assert not any(is_wide(v.type) for v in fused.values.values())
    got = run_checked(fused, {"x": x})
    for before, after in zip(graph.outputs, fused.outputs, strict=True):
        assert np.array_equal(got[after], expected[before]), f"{before}\n{graph.pretty()}\n\n{fused.pretty()}"


def test_most_random_graphs_can_be_fused() -> None:
    """The law above would be empty if nearly all were refused."""
    from strategies import Seeded

    fused = refused = 0
    for seed in range(60):
        try:
            optimise(Writer(Seeded(seed)).graph())
            fused += 1
        except LoweringError:
            refused += 1
    assert fused > refused


def test_a_pool_on_a_coarser_grid_than_its_quantiser_keeps_the_rounding_apart() -> None:
    """Fused, its multiplier would be 4 * 21845, over 16 bits."""
    byte, wide = FixedPoint(2, 0, signed=False), Wide(64, 0, signed=True)
    values = {
        "x": Value("x", (2, LENGTH), byte),
        "p": Value("p", (2, 1), wide),
        "y": Value("y", (2, 1), FixedPoint(24, 2, signed=True)),
    }
    pool = {"kernel": (LENGTH,), "stride": (1,), "padding": ((0, 0),), "mult": 21845, "offset": 0, "shift": 0}
    nodes = (Node("avg_pool", ("x",), "p", pool, {}, "p"), Node("requantize", ("p",), "y", {}, {}, "y"))
    graph = Graph(("x",), ("y",), values, nodes, {})
    x = np.random.default_rng(0).integers(0, 4, (8, 2, LENGTH)).astype(np.uint8)
    expected = run_checked(graph, {"x": x})["y"]
    fused = optimise(graph)
    check(fused)
    assert [node.op for node in fused.nodes] == ["avg_pool", "requantize"]
    assert np.array_equal(run_checked(fused, {"x": x})[fused.outputs[0]], expected)
