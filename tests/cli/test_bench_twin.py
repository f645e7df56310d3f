"""The float and int8 twins of a graph compute what the graph computes, up to its roundings."""

from __future__ import annotations

import nets
import numpy as np
import pytest
import torch

import strategies
from bitshift.cli.bench.torch_twin import TorchTwin
from bitshift.cli.bench.twin import make_twin
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph, Node, Value
from bitshift.core.ops import OPS
from bitshift.core.ops.dequantize import dequantize
from bitshift.core.reference import execute

CASES = 25
BOTH = [(op, floats) for op in sorted(OPS) for floats in (False, True)]
KINDS = [
    (op, floats)
    for op, floats in BOTH
    if not (floats and op in strategies.INT_ONLY) and not (not floats and op in strategies.FLOAT_ONLY)
]


def real(graph: Graph, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fixed-point arrays as the values they stand for; infinities and NaN, which a peer may treat otherwise, as 0."""
    found = {}
    for name, array in arrays.items():
        type = graph.values[name].type
        found[name] = (
            dequantize(array, type) if isinstance(type, FixedPoint) else np.nan_to_num(array, posinf=0, neginf=0)
        )
    return found


def by_torch(graph: Graph, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The first output of the torch twin."""
    with torch.inference_mode():
        return TorchTwin(make_twin(graph))(*(torch.tensor(inputs[n]) for n in graph.inputs)).numpy()


def by_onnx(graph: Graph, inputs: dict[str, np.ndarray], *, int8: bool = False, split_sums: bool = True) -> np.ndarray:
    """The first output of the ONNX twin in ONNX Runtime."""
    ort = pytest.importorskip("onnxruntime")
    from bitshift.cli.bench.onnx_twin import to_onnx

    batch = len(next(iter(inputs.values())))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    made = to_onnx(make_twin(graph), batch, int8=int8, split_sums=split_sums)
    return ort.InferenceSession(made, options, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def cases(op: str, floats: bool) -> list[tuple[Graph, dict[str, np.ndarray]]]:
    """Random graphs of one node with at least one sample, and inputs of moderate size."""
    found = []
    for seed in range(100):
        case = strategies.one_op(strategies.Seeded(seed), op, floats=floats)
        if len(next(iter(case.inputs.values()))):
            found.append((case.graph, {n: x if x.dtype != np.float32 else clean(x) for n, x in case.inputs.items()}))
        if len(found) == CASES:
            return found
    raise AssertionError(f"{op}: too few cases with samples")


def clean(x: np.ndarray) -> np.ndarray:
    """Without infinities, NaN and magnitudes whose products leave float32."""
    return np.clip(np.nan_to_num(x, posinf=1, neginf=-1), -1e3, 1e3).astype(np.float32)


def check_near(graph: Graph, got: np.ndarray, integers: np.ndarray) -> None:
    """Half a step of the output's grid apart, and the rounding of float32 sums; ends of the type are clipped first."""
    type = graph.values[graph.outputs[0]].type
    op = graph.nodes[-1].op
    if not isinstance(type, FixedPoint):
        scale = max(1.0, float(np.abs(integers).max(initial=0)))
        np.testing.assert_allclose(got, integers, rtol=0, atol=2e-4 * scale)
        return
    if op == "argmax":
        np.testing.assert_array_equal(got, integers)
        return
    unit = 2.0**-type.frac
    want = integers.astype(np.float64) * unit
    clipped = np.clip(got.astype(np.float64), type.lo * unit, type.hi * unit)
    if "clamp" in graph.nodes[-1].attrs:
        lo, hi = graph.nodes[-1].attrs["clamp"]
        clipped = np.clip(clipped, lo * unit, hi * unit)
    slack = 2.0**-8 if op == "avg_pool" else 1e-5  # a mean's factor within 2^-8 of 1 is taken as 1
    steps = 1.0 if op in ("quantize", "avg_pool") else 0.5  # floor of quantize; avg_pool's offset of up to a step
    assert (np.abs(clipped - want) <= steps * unit + slack * np.maximum(np.abs(want), np.abs(clipped)) + 1e-6).all()


@pytest.mark.parametrize(("op", "floats"), KINDS)
def test_the_torch_twin_of_an_op_is_the_op_without_its_rounding(op: str, floats: bool) -> None:
    for graph, inputs in cases(op, floats):
        check_near(graph, by_torch(graph, real(graph, inputs)), execute(graph, inputs)[graph.outputs[0]])


@pytest.mark.parametrize(("op", "floats"), KINDS)
def test_the_onnx_twin_of_an_op_gives_what_the_torch_twin_gives(op: str, floats: bool) -> None:
    for graph, inputs in cases(op, floats)[:10]:
        values = real(graph, inputs)
        want = by_torch(graph, values)
        scale = max(1.0, float(np.abs(want).max(initial=0)))
        np.testing.assert_allclose(by_onnx(graph, values), want, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize(("padding", "extra"), [((4, 0), 3), ((3, 0), 2), ((2, 1), 2), ((0, 0), 3), ((0, 4), 3)])
def test_the_onnx_twin_of_a_transposed_convolution_may_crop_all_that_it_computes(
    padding: tuple[int, int], extra: int
) -> None:
    """One pixel and a kernel of two with stride 4: the whole output has 2 pixels, ``extra`` zeros come behind."""
    length = 2 - sum(padding) + extra
    x, y = Value("x", (1, 1), Float32()), Value("y", (2, length), Float32())
    attrs = {"stride": (4,), "padding": (padding,), "output_padding": (extra,), "dilation": (1,), "groups": 1}
    attrs["format"] = "pot3d"
    consts = {"codes": "codes", "scale": "scale", "bias": "bias"}
    constants = {
        "codes": np.array([[[0, 1]], [[2, 5]]], np.uint8), "scale": np.array([1, 2], np.float32),
        "bias": np.array([0.5, -1], np.float32),
    }  # fmt: skip
    graph = Graph(("x",), ("y",), {"x": x, "y": y}, (Node("conv_transpose", ("x",), "y", attrs, consts),), constants)
    inputs = {"x": np.array([[[3.0]], [[-1.0]]], np.float32)}
    want = execute(graph, inputs)["y"]
    np.testing.assert_allclose(by_onnx(graph, inputs), want, rtol=0, atol=1e-6)


SMALL = {
    "resnet8": {}, "resnet20": {"bits": 6}, "resnet18": {"size": 32, "classes": 10, "multiplier": True},
    "resnet50": {"size": 32, "classes": 10}, "mobilenet_v2": {"size": 32, "classes": 10},
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_whole_networks_agree_with_their_int8_twin(name: str) -> None:
    graph = nets.NETS[name](**SMALL[name])
    x = np.random.default_rng(0).standard_normal((3, *graph.values["x"].shape), dtype=np.float32)
    want = execute(graph, {"x": x})[graph.outputs[0]].astype(np.float64)
    for split_sums in (True, False):
        got = by_onnx(graph, {"x": x}, int8=True, split_sums=split_sums)
        cosine = (got * want).sum() / np.linalg.norm(got) / np.linalg.norm(want)
        assert cosine > 0.99, f"{name}: cosine {cosine}"


def test_an_int8_twin_of_float_activations_is_refused() -> None:
    pytest.importorskip("onnx")
    from bitshift.cli.bench.onnx_twin import to_onnx

    twin = make_twin(nets.resnet8(real=True))
    assert not twin.integer
    with pytest.raises(ValueError, match="8-bit activations"):
        to_onnx(twin, 1, int8=True)


def test_the_torch_nets_have_the_weights_of_the_graphs() -> None:
    for name in ("mobilenet_v2", "resnet20", "resnet8"):
        graph = nets.NETS[name]()
        codes = sum(graph.constants[n.consts["codes"]].size for n in graph.nodes if "codes" in n.consts)
        weights = [p.numel() for p in nets.torch_net(name).parameters() if p.ndim > 1]
        assert codes == sum(weights)
