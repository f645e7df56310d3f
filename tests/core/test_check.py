"""What check refuses: each rule of each op once, by node and by what is allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bitshift.core.check import check
from bitshift.core.fixed import FixedPoint, Float32, ValueType
from bitshift.core.graph import Graph, GraphError, Node, Value

S8, S16, S32, F32 = FixedPoint(8, 7), FixedPoint(16, 7), FixedPoint(32, 7), Float32()
CONV = {"format": "pot3d", "stride": [1, 1], "padding": [[0, 0], [0, 0]], "dilation": [1, 1], "groups": 1}
KEPT = {k: v for k, v in CONV.items() if k != "format"}
POOL = {"kernel": [2, 2], "stride": [1, 1], "padding": [[0, 0], [0, 0]], "dilation": [1, 1]}
AVG = {k: v for k, v in POOL.items() if k != "dilation"} | {"mult": 1, "offset": 0, "shift": 2}
CODES = np.zeros((2, 3, 2, 2), np.uint8)


def graph(
    op: str,
    ins: list[tuple[tuple[int, ...], ValueType]],
    out: tuple[tuple[int, ...], ValueType],
    attrs: dict[str, Any] | None = None,
    consts: dict[str, np.ndarray] | None = None,
) -> Graph:
    """One node ``y`` of module ``m``."""
    values = {f"x{i}": Value(f"x{i}", *v) for i, v in enumerate(ins)}
    names = tuple(values)
    node = Node(op, names, "y", attrs or {}, {role: role for role in consts or {}}, "m")
    return Graph(names, ("y",), {**values, "y": Value("y", *out)}, (node,), consts or {})


def refuses(match: str, *parts: Any) -> None:
    with pytest.raises(GraphError, match=match) as caught:
        check(graph(*parts))
    assert "node 'y'" in str(caught.value)
    assert "module 'm'" in str(caught.value)


def conv(match: str, *, x: Any = ((3, 4, 4), S8), out: Any = ((2, 3, 3), S8), **changes: Any) -> None:
    """Expect a refusal of a sound convolution after ``changes`` to attributes (or to ``consts``)."""
    consts = {"codes": CODES, **changes.pop("consts", {})}
    attrs = {k: v for k, v in {**CONV, **changes}.items() if v != "gone"}
    refuses(match, "conv", [x], out, attrs, consts)


def test_the_unchanged_nodes_pass() -> None:
    check(graph("conv", [((3, 4, 4), S8)], ((2, 3, 3), S8), CONV, {"codes": CODES}))
    check(graph("conv", [((3, 4, 4), F32)], ((2, 3, 3), F32), KEPT, {"weight": np.zeros((2, 3, 2, 2), np.float32)}))
    check(graph("max_pool", [((3, 4, 4), S8)], ((3, 3, 3), S8), POOL))
    check(graph("avg_pool", [((3, 4, 4), S8)], ((3, 3, 3), S8), AVG))


def test_conv_refuses_shapes_and_groups() -> None:
    conv("input's shape is \\[3\\]", x=((3,), S8))
    conv("uint8 of shape \\[2, 3, 2, 2\\]", x=((3, 4), S8))
    conv("uint8 of shape", x=((3, 4, 4, 4), S8))
    conv("1 to 3 spatial axes", x=((1, 3, 4, 4, 4), S8))
    conv("the output's shape", out=((2, 4, 4), S8))
    conv("in 1 groups", x=((4, 4, 4), S8))
    conv("groups", groups=0)
    conv("groups", groups=4)
    conv("in 3 groups", groups=3)
    conv("groups", groups=1.0)
    conv("groups", groups=True)
    conv("padded input", x=((3, 1, 4), S8))


def test_conv_refuses_geometry() -> None:
    conv("stride", stride=[1])
    conv("stride", stride=[0, 1])
    conv("stride", stride=[65536, 1])
    conv("stride", stride=1)
    conv("dilation", dilation=[1, -1])
    conv("padding", padding=[[0, 0]])
    conv("padding", padding=[[0, 0], [0, -1]])
    conv("padding", padding=[[0, 0], [0, 0, 0]])
    conv("padding", padding=[0, 0])
    conv("padding", padding=[[0, 65536], [0, 0]])


def test_conv_refuses_attributes_and_constants() -> None:
    conv("set of attributes", stride="gone")
    conv("set of attributes", bias=1)
    conv("did you mean 'pot3d'", format="pot3dd")
    conv("format", format=3)
    conv("format", format="x" * 1000)
    conv("needs the constant 'codes'|needs exactly|codes", consts={"codes": np.zeros((2, 3, 2), np.uint8)})
    conv("uint8", consts={"codes": CODES.astype(np.int8)})
    conv("none of them empty", consts={"codes": np.zeros((2, 3, 0, 2), np.uint8)})
    conv("code 8 does not fit 3 bits", consts={"codes": np.full_like(CODES, 8)})
    conv("reserved code 4", format="pot3", consts={"codes": np.full_like(CODES, 4)})
    conv("levels up to 2\\*\\*15", format="pot6d")
    conv("set of constants", consts={"scale": np.ones(2, np.float32)})
    conv("set of constants", consts={"res_shift": np.ones(2, np.uint8)})
    conv("mult is", consts={"mult": np.ones(2, np.int64)})
    conv("mult is 0 to 1", consts={"mult": np.array([0, 1], np.int32)})
    conv("shift is 1 to 63", consts={"shift": np.array([1, 63], np.uint8)})
    conv("offset is", consts={"offset": np.zeros(1, np.int64)})
    conv("clamp", clamp=[-129, 0])
    conv("clamp", clamp=[0])


def test_conv_refuses_mixtures_of_types() -> None:
    conv("fixed point or f32", out=((2, 3, 3), F32))
    conv("fixed point or f32", x=((3, 4, 4), F32))
    x, out = ((3, 4, 4), S8), ((2, 3, 3), S8)
    refuses("residual's shape", "conv", [x, ((2, 3, 2), S8)], out, CONV, {"codes": CODES})
    refuses("number of inputs is 3", "conv", [x, out, out], out, CONV, {"codes": CODES})
    refuses("fixed point or f32", "conv", [x, ((2, 3, 3), F32)], out, CONV, {"codes": CODES})
    floats = [((3, 4, 4), F32)], ((2, 3, 3), F32)
    refuses("set of attributes", "conv", *floats, {**CONV, "clamp": [0, 1]}, {"codes": CODES})
    refuses("finite", "conv", *floats, CONV, {"codes": CODES, "scale": np.array([1, np.inf], np.float32)})
    weight = np.zeros((2, 3, 2, 2), np.float32)
    refuses("set of attributes", "conv", *floats, CONV, {"weight": weight})
    refuses("set of constants", "conv", *floats, KEPT, {"weight": weight, "codes": CODES})
    refuses("finite float32", "conv", *floats, KEPT, {"weight": np.full_like(weight, np.nan)})
    refuses("f32 for float weights", "conv", [x], out, KEPT, {"weight": weight})


UP = {**CONV, "stride": [2, 2], "output_padding": [1, 0]}


def transposed(match: str, *, x: Any = ((3, 4, 4), S8), out: Any = ((2, 9, 8), S8), **changes: Any) -> None:
    """Expect a refusal of a sound transposed convolution after ``changes``."""
    consts = {"codes": CODES, **changes.pop("consts", {})}
    attrs = {k: v for k, v in {**UP, **changes}.items() if v != "gone"}
    refuses(match, "conv_transpose", [x], out, attrs, consts)


def test_conv_transpose_refuses_shapes_and_geometry() -> None:
    check(graph("conv_transpose", [((3, 4, 4), S8)], ((2, 9, 8), S8), UP, {"codes": CODES}))
    transposed("the output's shape", out=((2, 8, 8), S8))
    transposed("in 1 groups", x=((2, 4, 4), S8))
    transposed("1 to 3 spatial axes", x=((3,), S8))
    transposed("uint8 of shape", x=((3, 4), S8))
    transposed("in 3 groups", groups=3)
    transposed("set of attributes", output_padding="gone")
    transposed("less than stride 2 or dilation 1", output_padding=[2, 0])
    transposed("output_padding", output_padding=[-1, 0])
    transposed("output_padding", output_padding=[0])
    transposed("stride", stride=[0, 1])
    transposed("dilation", dilation=[65536, 1])
    transposed("padding", padding=[[0, 0], [0, -1]])
    transposed("length on spatial axis 1 is 0", padding=[[0, 0], [4, 4]])
    transposed("set of constants", consts={"res_shift": np.ones(2, np.uint8)})
    transposed("mult is", consts={"mult": np.ones(3, np.int32)})
    residual = [((3, 4, 4), S8), ((2, 9, 7), S8)]
    refuses("residual's shape", "conv_transpose", residual, ((2, 9, 8), S8), UP, {"codes": CODES})


def test_upsample_refuses_factors_shapes_and_types() -> None:
    x, out = ((3, 4, 5), S8), ((3, 8, 5), S8)
    check(graph("upsample", [x], out, {"factor": [2, 1]}))
    refuses("factor", "upsample", [x], out, {"factor": [2]})
    refuses("factor", "upsample", [x], out, {"factor": [2, 0]})
    refuses("factor", "upsample", [x], out, {"factor": [2, 65536]})
    refuses("output's shape", "upsample", [x], out, {"factor": [2, 2]})
    refuses("output's type", "upsample", [x], ((3, 8, 5), S16), {"factor": [2, 1]})
    refuses("1 to 3 spatial axes", "upsample", [((3,), S8)], ((3,), S8), {"factor": []})


def test_embedding_refuses_ids_rows_and_modes() -> None:
    ids, out, codes = ((4,), FixedPoint(32, 0)), ((4, 3), S8), {"codes": np.zeros((7, 3), np.uint8)}
    attrs, weight = {"format": "pot3d"}, np.zeros((7, 3), np.float32)
    check(graph("embedding", [ids], out, attrs, codes))
    check(graph("embedding", [ids], ((4, 3), F32), attrs, codes))
    check(graph("embedding", [ids], ((4, 3), F32), {}, {"weight": weight}))
    refuses("integers with frac 0", "embedding", [((4,), FixedPoint(32, 1))], out, attrs, codes)
    refuses("fixed point of at most", "embedding", [((4,), F32)], out, attrs, codes)
    refuses("output's shape", "embedding", [ids], ((4, 2), S8), attrs, codes)
    refuses("set of attributes", "embedding", [ids], out, {}, codes)
    refuses("set of attributes", "embedding", [ids], ((4, 3), F32), {**attrs, "clamp": [0, 1]}, codes)
    refuses("f32 for float weights", "embedding", [ids], out, {}, {"weight": weight})
    refuses("uint8 with 2 axes", "embedding", [ids], out, attrs, {"codes": np.zeros((7,), np.uint8)})
    refuses("mult is", "embedding", [ids], out, attrs, {**codes, "mult": np.ones(3, np.int32)})
    refuses("set of constants", "embedding", [ids], out, attrs, {**codes, "scale": np.ones(7, np.float32)})
    refuses("levels up to 2\\*\\*15", "embedding", [ids], out, {"format": "pot6d"}, codes)
    refuses("number of inputs is 2", "embedding", [ids, ids], out, attrs, codes)


def test_linear_refuses_a_wrong_last_axis() -> None:
    codes = {"codes": np.zeros((2, 3), np.uint8)}
    refuses("the input's shape is \\[4\\]", "linear", [((4,), S8)], ((2,), S8), {"format": "pot3d"}, codes)
    refuses("the input's shape is \\[\\]", "linear", [((), S8)], ((2,), S8), {"format": "pot3d"}, codes)
    refuses("the output's shape", "linear", [((5, 3), S8)], ((2,), S8), {"format": "pot3d"}, codes)


@pytest.mark.parametrize(
    ("match", "op", "ins", "out", "attrs"),
    [
        ("shape of 'x1'", "add", [((2,), S8), ((3,), S8)], ((2,), S8), {}),
        ("number of inputs is 1", "add", [((2,), S8)], ((2,), S8), {}),
        ("type of 'x1'", "add", [((2,), S8), ((2,), F32)], ((2,), S8), {}),
        ("shift between the grids", "add", [((2,), FixedPoint(8, 60)), ((2,), FixedPoint(8, -3))], ((2,), S8), {}),
        ("shift between the grids is 63", "requantize", [((2,), FixedPoint(8, 63))], ((2,), FixedPoint(8, 0)), {}),
        ("type of 'x0'", "requantize", [((2,), F32)], ((2,), S8), {}),
        ("type of 'y'", "requantize", [((2,), S8)], ((2,), F32), {}),
        ("axis", "concat", [((2, 3), S8)], ((2, 3), S8), {"axis": 2}),
        ("axis", "concat", [((2, 3), S8)], ((2, 3), S8), {"axis": -1}),
        ("axis", "concat", [((), S8)], ((), S8), {"axis": 0}),
        ("shape of 'x1'", "concat", [((2, 3), S8), ((3, 3), S8)], ((2, 6), S8), {"axis": 1}),
        ("output's shape", "concat", [((2, 3), S8), ((2, 3), S8)], ((2, 5), S8), {"axis": 1}),
        ("shift between", "concat", [((1,), FixedPoint(8, 64))], ((1,), FixedPoint(8, 0)), {"axis": 0}),
        ("attributes", "concat", [((1,), S8)], ((1,), S8), {"axis": 0, "clamp": [0, 1]}),
        ("output's type", "pad", [((2,), S8)], ((3,), S16), {"padding": [[0, 1]], "value": 0}),
        ("value", "pad", [((2,), S8)], ((3,), S8), {"padding": [[0, 1]], "value": 128}),
        ("value", "pad", [((2,), F32)], ((3,), F32), {"padding": [[0, 1]], "value": 1e39}),
        ("value", "pad", [((2,), F32)], ((3,), F32), {"padding": [[0, 1]], "value": float("nan")}),
        ("padding", "pad", [((2,), S8)], ((3,), S8), {"padding": [[0, 1], [0, 0]], "value": 0}),
        ("start:stop of axis 0", "slice", [((4,), S8)], ((1,), S8), {"start": [3], "stop": [3], "step": [1]}),
        ("start:stop of axis 0", "slice", [((4,), S8)], ((5,), S8), {"start": [0], "stop": [5], "step": [1]}),
        ("step", "slice", [((4,), S8)], ((4,), S8), {"start": [0], "stop": [4], "step": [0]}),
        ("start", "slice", [((4,), S8)], ((4,), S8), {"start": [-1], "stop": [4], "step": [1]}),
        ("kernel", "max_pool", [((3, 4, 4), S8)], ((3, 3, 3), S8), {**POOL, "kernel": [2]}),
        ("kernel", "max_pool", [((3, 4, 4), S8)], ((3, 3, 3), S8), {**POOL, "kernel": [0, 2]}),
        ("padded input", "max_pool", [((3, 1, 4), S8)], ((3, 3, 3), S8), POOL),
        ("output's type", "max_pool", [((3, 4, 4), S8)], ((3, 3, 3), S16), POOL),
        ("input's shape", "max_pool", [((3,), S8)], ((3,), S8), {**POOL, "kernel": [2]}),
        ("input's shape", "max_pool", [((), S8)], ((), S8), {**POOL, "kernel": [2]}),
        ("input's shape", "max_pool", [((1, 2, 3, 4, 5), S8)], ((1,), S8), {**POOL, "kernel": [2, 2, 2, 2]}),
        ("mult", "avg_pool", [((3, 4, 4), S8)], ((3, 3, 3), S8), {**AVG, "mult": 0}),
        ("shift", "avg_pool", [((3, 4, 4), S8)], ((3, 3, 3), S8), {**AVG, "shift": 63}),
        ("offset", "avg_pool", [((3, 4, 4), S8)], ((3, 3, 3), S8), {**AVG, "offset": 2**63}),
        ("attributes", "avg_pool", [((3, 4, 4), F32)], ((3, 3, 3), F32), AVG),
        ("attributes", "avg_pool", [((3, 4, 4), S8)], ((3, 3, 3), S8), POOL),
        ("lo", "clamp", [((2,), S8)], ((2,), S8), {"lo": -129, "hi": None}),
        ("hi", "clamp", [((2,), S8)], ((2,), S8), {"lo": None, "hi": 6.0}),
        ("lo <= hi", "clamp", [((2,), S8)], ((2,), S8), {"lo": 3, "hi": 2}),
        ("attributes", "clamp", [((2,), S8)], ((2,), S8), {"lo": 3}),
        ("output's type", "clamp", [((2,), S8)], ((2,), S16), {"lo": 0, "hi": None}),
        ("type of 'x0'", "table", [((2,), S16)], ((2,), S8), {}),
        ("needs the constant 'table'", "table", [((2,), S8)], ((2,), S8), {}),
        ("fn", "unary", [((2,), F32)], ((2,), F32), {"fn": "sin"}),
        ("fn", "unary", [((2,), F32)], ((2,), F32), {"fn": 3}),
        ("alpha", "unary", [((2,), F32)], ((2,), F32), {"fn": "elu"}),
        ("alpha", "unary", [((2,), F32)], ((2,), F32), {"fn": "tanh", "alpha": 1.0}),
        ("alpha", "unary", [((2,), F32)], ((2,), F32), {"fn": "elu", "alpha": "1"}),
        ("use table for integers", "unary", [((2,), S8)], ((2,), S8), {"fn": "tanh"}),
        ("use rescale for integers", "affine", [((2,), S8)], ((2,), S8), {}),
        ("type of 'x0'", "rescale", [((2,), F32)], ((2,), F32), {}),
        ("shapes of 4 elements", "reshape", [((2, 2), S8)], ((5,), S8), {"shape": [5]}),
        ("output's shape", "reshape", [((2, 2), S8)], ((2, 2), S8), {"shape": [4]}),
        ("positive", "reshape", [((2, 2), S8)], ((4,), S8), {"shape": [-1]}),
        ("permutation", "transpose", [((2, 2), S8)], ((2, 2), S8), {"perm": [0, 0]}),
        ("perm", "transpose", [((2, 2), S8)], ((2, 2), S8), {"perm": [0, 2]}),
        ("output's shape", "transpose", [((2, 3), S8)], ((2, 3), S8), {"perm": [1, 0]}),
        ("rounding", "quantize", [((2,), F32)], ((2,), S8), {"rounding": "even"}),
        ("use requantize", "quantize", [((2,), S8)], ((2,), S8), {"rounding": "floor"}),
        ("type of 'y'", "quantize", [((2,), F32)], ((2,), F32), {"rounding": "floor"}),
        ("output's type", "dequantize", [((2,), S8)], ((2,), S8), {}),
        ("at least one axis", "argmax", [((), S8)], ((), FixedPoint(32, 0)), {}),
        ("output's type", "argmax", [((2,), S8)], ((), S8), {}),
        ("output's shape", "argmax", [((2, 3), S8)], ((3,), FixedPoint(32, 0)), {}),
        ("did you mean 'linear'", "lineal", [((2,), S8)], ((2,), S8), {}),
    ],
)
def test_each_op_refuses(match: str, op: str, ins: Any, out: Any, attrs: dict[str, Any]) -> None:
    refuses(match, op, ins, out, attrs)


def test_table_refuses_entries_beyond_the_output_type() -> None:
    u4 = FixedPoint(4, 0, False)
    for table in (np.full(256, 16, np.uint8), np.zeros(255, np.uint8), np.zeros(256, np.int8)):
        refuses("table", "table", [((2,), S8)], ((2,), u4), {}, {"table": table})


def test_max_pool_refuses_windows_of_padding_only() -> None:
    """Size 1, kernel 2, dilation 2, one zero on each side: the only window meets -1 and 1."""
    attrs = {"kernel": [2], "stride": [1], "padding": [[1, 1]], "dilation": [2]}
    refuses("all padding", "max_pool", [((1, 1), S8)], ((1, 1), S8), attrs)
    beyond = {"kernel": [1], "stride": [1], "padding": [[0, 1]], "dilation": [1]}
    refuses("all padding", "max_pool", [((1, 2), S8)], ((1, 3), S8), beyond)
    before = {"kernel": [1], "stride": [1], "padding": [[1, 0]], "dilation": [1]}
    refuses("all padding", "max_pool", [((1, 2), S8)], ((1, 3), S8), before)


def test_values_have_bounded_shapes() -> None:
    for shape in ((0,), (2**31,), (1,) * 7, (2**16, 2**16), (2.0,), (True,)):
        values = {"x": Value("x", shape, S8)}  # pyright: ignore[reportArgumentType]
        with pytest.raises(GraphError, match="value 'x'"):
            check(Graph(("x",), ("x",), values, (), {}))


def test_a_constant_has_one_role() -> None:
    attrs, consts = {"format": "pot3d"}, {"codes": np.zeros((2, 3), np.uint8), "shift": np.ones(2, np.uint8)}
    base = graph("linear", [((3,), S8), ((2,), S8)], ((2,), S8), attrs, consts)
    shared = Node("linear", base.inputs, "y", attrs, {"codes": "codes", "shift": "shift", "res_shift": "shift"})
    with pytest.raises(GraphError, match="allowed: one role"):
        check(Graph(base.inputs, ("y",), base.values, (shared,), base.constants))


def test_a_huge_kernel_is_refused_without_work() -> None:
    attrs = {"kernel": [2**31 - 1], "stride": [1], "padding": [[65535, 65535]], "dilation": [65535]}
    refuses("padded input", "max_pool", [((1, 1), S8)], ((1, 1), S8), attrs)
