"""A twin as an ONNX model: float32, or int8 as ``QuantizeLinear``/``DequantizeLinear`` pairs (u8 values, s8 weights).

The int8 form is what static quantisation tools write: values on per-tensor grids, weights per output channel, biases
int32, relus taken over by an unsigned grid. ONNX Runtime and OpenVINO fuse it to integer kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bitshift.cli.bench.twin import Grid, Layer, Twin

OPSET = 20


def to_onnx(twin: Twin, batch: int, *, int8: bool = False, split_sums: bool = True) -> bytes:
    """The bytes of an ONNX model with inputs (batch, *shape) float32.

    ``split_sums`` puts a convolution's own result on a grid before a residual is added to it, as ONNX Runtime needs to
    see it; OpenVINO adds in its accumulators and is faster without.

    Raises:
        ValueError: ``int8`` for a twin that is not ``integer``.
    """
    if int8 and not twin.integer:
        raise ValueError("an int8 twin needs 8-bit activations in front of every layer with weights")
    writer = _Writer(twin, batch, int8=int8, split_sums=split_sums)
    for layer in twin.layers:
        writer.add(layer)
    return writer.model()


class _Writer:
    """State: nodes and initializers so far, and the name under which each value is read."""

    def __init__(self, twin: Twin, batch: int, *, int8: bool, split_sums: bool) -> None:
        self.twin, self.batch, self.int8 = twin, batch, int8
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.names = {name: name for name in twin.inputs}
        self.grids = dict(twin.grids) if int8 else {}
        if not split_sums:
            self.grids = {name: grid for name, grid in self.grids.items() if not name.endswith("/own")}
        for name in twin.inputs:
            self._pair(name)

    def node(self, op: str, inputs: Sequence[str], output: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attrs))
        return output

    def constant(self, name: str, array: np.ndarray) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.array(array, order="C"), name)
        return name

    def read(self, name: str) -> str:
        """The tensor that consumers of the value read."""
        return self.names[name]

    def add(self, layer: Layer) -> None:
        grid = self.grids.get(layer.output)
        if layer.op == "identity" or (layer.op == "clip" and grid is not None and _clipped_by(grid, layer)):
            source = self.read(layer.inputs[0])
            self.names[layer.output] = source
            if layer.output in self.twin.outputs:
                self.names[layer.output] = self.node("Identity", [source], layer.output)
        else:
            self.names[layer.output] = _OPS[layer.op](self, layer)
        if layer.output not in self.twin.outputs:
            self._pair(layer.output)

    def _pair(self, name: str) -> None:
        """Puts the value on its grid, if it has one."""
        if name not in self.grids:
            return
        grid = self.grids[name]
        scale = self.constant(f"scale:{grid.scale!r}", np.array(grid.scale, np.float32))
        zero = self.constant(f"zero:{grid.zero}", np.array(grid.zero, np.uint8))
        stored = self.node("QuantizeLinear", [self.read(name), scale, zero], f"{name}:q")
        self.names[name] = self.node("DequantizeLinear", [stored, scale, zero], f"{name}:dq")

    def weights(self, layer: Layer, *, transposed: bool = False) -> list[str]:
        """Weight and bias, as float or as dequantised integers."""
        name, arrays = layer.output, layer.arrays
        grid = self.grids.get(layer.inputs[0])
        if grid is None or "levels" not in arrays:
            weight = arrays["weight"].T if transposed else arrays["weight"]
            return [self.constant(f"{name}:weight", weight), self.constant(f"{name}:bias", arrays["bias"])]
        levels = arrays["levels"].T if transposed else arrays["levels"]
        scale, count = arrays["level_scale"], len(arrays["level_scale"])
        stored = [self.constant(f"{name}:weight", levels), self.constant(f"{name}:scale", scale)]
        stored.append(self.constant(f"zeros8:{count}", np.zeros(count, np.int8)))
        weight = self.node("DequantizeLinear", stored, f"{name}:weight:dq", axis=int(transposed))
        unit = (scale.astype(np.float64) * np.float32(grid.scale)).astype(np.float32)
        limit = float(2**31 - 128)
        bias = np.clip(np.rint(arrays["bias"] / unit.astype(np.float64)), -limit, limit).astype(np.int32)
        stored = [self.constant(f"{name}:bias", bias), self.constant(f"{name}:unit", unit)]
        stored.append(self.constant(f"zeros32:{count}", np.zeros(count, np.int32)))
        return [weight, self.node("DequantizeLinear", stored, f"{name}:bias:dq", axis=0)]

    def model(self) -> bytes:
        def info(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, [self.batch, *self.twin.shapes[name]])

        graph = helper.make_graph(
            self.nodes, "twin", [info(n) for n in self.twin.inputs], [info(n) for n in self.twin.outputs],
            list(self.initializers.values()),
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="bitshift")
        model.ir_version = 9
        onnx.checker.check_model(model)
        return model.SerializeToString()


def _clipped_by(grid: Grid, layer: Layer) -> bool:
    """Whether saturation on the grid does what the clip does."""
    top = 255 * grid.scale
    return grid.zero == 0 and layer.attrs["lo"] == 0 and (layer.attrs["hi"] is None or layer.attrs["hi"] >= top)


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    return [p[0] for p in padding] + [p[1] for p in padding]


def _conv(w: _Writer, layer: Layer) -> str:
    a = layer.attrs
    return w.node(
        "Conv", [w.read(layer.inputs[0]), *w.weights(layer)], layer.output, strides=list(a["stride"]),
        pads=_pads(a["padding"]), dilations=list(a["dilation"]), group=a["groups"],
    )  # fmt: skip


def _conv_transpose(w: _Writer, layer: Layer) -> str:
    """In float32 always: no runtime has an integer kernel for it."""
    a, weight = layer.attrs, layer.arrays["weight"]
    groups, per_group = a["groups"], len(weight) // a["groups"]
    turned = weight.reshape(groups, per_group, *weight.shape[1:]).swapaxes(1, 2)  # inputs first, as ONNX has them
    x, kernel = w.read(layer.inputs[0]), weight.shape[2:]
    stored = w.constant(f"{layer.output}:weight", turned.reshape(-1, per_group, *kernel))
    bias = w.constant(f"{layer.output}:bias", layer.arrays["bias"])
    window = {"strides": list(a["stride"]), "dilations": list(a["dilation"]), "group": groups}
    axes = list(zip(kernel, a["stride"], a["dilation"], a["padding"], a["output_padding"], strict=True))
    if all(max(p) <= (k - 1) * d and extra < s for k, s, d, p, extra in axes):
        pads = {"pads": _pads(a["padding"]), "output_padding": list(a["output_padding"])}
        return w.node("ConvTranspose", [x, stored, bias], layer.output, **window, **pads)
    # Runtimes refuse what crops or adds more than a kernel: the whole output, then its part, then zeros, then the bias.
    y = w.node("ConvTranspose", [x, stored], f"{layer.output}:whole", **window)
    sizes, out = w.twin.shapes[layer.inputs[0]][1:], w.twin.shapes[layer.output][1:]
    whole = [(n - 1) * s + (k - 1) * d + 1 for n, (k, s, d, *_) in zip(sizes, axes, strict=True)]
    begin = [before for before, _ in a["padding"]]
    # A crop beyond the whole output leaves nothing of it: all is zeros.
    end = [max(b, min(n, b + m)) for n, b, m in zip(whole, begin, out, strict=True)]
    rest = [m - (e - b) for b, m, e in zip(begin, out, end, strict=True)]
    lists = {"begin": begin, "end": end, "axes": range(2, 2 + len(out))}
    ends = [w.constant(f"{layer.output}:{k}", np.array(list(v), np.int64)) for k, v in lists.items()]
    y = w.node("Slice", [y, *ends], f"{layer.output}:part")
    if any(rest):
        pads = w.constant(f"{layer.output}:rest", np.array([0] * (2 + len(out)) + [0, 0, *rest], np.int64))
        y = w.node("Pad", [y, pads], f"{layer.output}:padded")
    spread = w.constant(f"{layer.output}:spread", layer.arrays["bias"].reshape(-1, *[1] * len(out)))
    return w.node("Add", [y, spread], layer.output)


def _embedding(w: _Writer, layer: Layer) -> str:
    ids = w.node("Cast", [w.read(layer.inputs[0])], f"{layer.output}:ids", to=TensorProto.INT64)
    return w.node("Gather", [w.constant(f"{layer.output}:weight", layer.arrays["weight"]), ids], layer.output, axis=0)


def _upsample(w: _Writer, layer: Layer) -> str:
    scales = w.constant(f"{layer.output}:scales", np.array([1, 1, *layer.attrs["factor"]], np.float32))
    return w.node(
        "Resize", [w.read(layer.inputs[0]), "", scales], layer.output, mode="nearest",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip


def _linear(w: _Writer, layer: Layer) -> str:
    x = w.read(layer.inputs[0])
    if len(w.twin.shapes[layer.inputs[0]]) == 1:
        return w.node("Gemm", [x, *w.weights(layer)], layer.output, transB=1)
    weight, bias = w.weights(layer, transposed=True)
    return w.node("Add", [w.node("MatMul", [x, weight], f"{layer.output}:product"), bias], layer.output)


def _add(w: _Writer, layer: Layer) -> str:
    return w.node("Add", [w.read(n) for n in layer.inputs], layer.output)


def _clip(w: _Writer, layer: Layer) -> str:
    x, lo, hi = w.read(layer.inputs[0]), layer.attrs["lo"], layer.attrs["hi"]
    if lo == 0 and hi is None:
        return w.node("Relu", [x], layer.output)
    ends = ["" if end is None else w.constant(f"end:{end!r}", np.array(end, np.float32)) for end in (lo, hi)]
    return w.node("Clip", [x, *ends] if ends[1] else [x, ends[0]], layer.output)


def _affine(w: _Writer, layer: Layer) -> str:
    shape = w.twin.shapes[layer.output]
    spread = (-1,) + (1,) * (len(shape) - layer.attrs["axis"] - 1) if shape else (-1,)
    scale, bias = (layer.arrays[role].reshape(spread) for role in ("scale", "bias"))
    y = w.read(layer.inputs[0])
    if (scale != 1).any() or not bias.any():
        y = w.node(
            "Mul",
            [y, w.constant(f"{layer.output}:scale", scale)],
            f"{layer.output}:mul" if bias.any() else layer.output,
        )
    return w.node("Add", [y, w.constant(f"{layer.output}:bias", bias)], layer.output) if bias.any() else y


def _pool_input(w: _Writer, layer: Layer, value: float) -> tuple[str, list[int]]:
    """The tensor to pool and the padding that is left to do: runtimes refuse one as wide as the window.

    The rest is concatenated, because ONNX Runtime moves a ``Pad`` back into the pool and then refuses it.
    """
    x, a = w.read(layer.inputs[0]), layer.attrs
    if all(max(pair) < size for pair, size in zip(a["padding"], a["kernel"], strict=True)):
        return x, _pads(a["padding"])
    shape = [w.batch, *w.twin.shapes[layer.inputs[0]]]
    for axis, pair in enumerate(a["padding"], start=2):
        parts = []
        for place, count in zip(("before", "after"), pair, strict=True):
            filler = np.full([*shape[:axis], count, *shape[axis + 1 :]], value, np.float32)
            parts += [w.constant(f"{layer.output}:{place}{axis}", filler)] if count else []
            parts += [x] if place == "before" else []
        x = w.node("Concat", parts, f"{layer.output}:padded{axis}", axis=axis)
        shape[axis] += sum(pair)
    return x, [0] * (2 * len(a["kernel"]))


def _max_pool(w: _Writer, layer: Layer) -> str:
    a = layer.attrs
    x, pads = _pool_input(w, layer, -np.inf)
    return w.node(
        "MaxPool", [x], layer.output, kernel_shape=list(a["kernel"]), strides=list(a["stride"]), pads=pads,
        dilations=list(a["dilation"]),
    )  # fmt: skip


def _avg_pool(w: _Writer, layer: Layer) -> str:
    a = layer.attrs
    x, pads = _pool_input(w, layer, 0.0)
    if tuple(a["kernel"]) == tuple(w.twin.shapes[layer.inputs[0]][1:]) and not any(_pads(a["padding"])):
        return w.node("GlobalAveragePool", [x], layer.output)
    return w.node(
        "AveragePool", [x], layer.output, kernel_shape=list(a["kernel"]), strides=list(a["stride"]), pads=pads,
        count_include_pad=1,
    )  # fmt: skip


def _concat(w: _Writer, layer: Layer) -> str:
    return w.node("Concat", [w.read(n) for n in layer.inputs], layer.output, axis=layer.attrs["axis"] + 1)


def _pad(w: _Writer, layer: Layer) -> str:
    pads = w.constant(f"{layer.output}:pads", np.array(_pads([(0, 0), *layer.attrs["padding"]]), np.int64))
    value = w.constant(f"{layer.output}:value", np.array(layer.attrs["value"], np.float32))
    return w.node("Pad", [w.read(layer.inputs[0]), pads, value], layer.output)


def _slice(w: _Writer, layer: Layer) -> str:
    a, rank = layer.attrs, len(layer.attrs["start"])
    lists = {"start": a["start"], "stop": a["stop"], "axes": range(1, rank + 1), "step": a["step"]}
    ends = [w.constant(f"{layer.output}:{k}", np.array(list(v), np.int64)) for k, v in lists.items()]
    return w.node("Slice", [w.read(layer.inputs[0]), *ends], layer.output)


def _reshape(w: _Writer, layer: Layer) -> str:
    shape = np.array([w.batch, *w.twin.shapes[layer.output]], np.int64)
    name = ":".join(map(str, ["shape", *shape]))
    return w.node("Reshape", [w.read(layer.inputs[0]), w.constant(name, shape)], layer.output)


def _transpose(w: _Writer, layer: Layer) -> str:
    perm = [0, *(p + 1 for p in layer.attrs["perm"])]
    return w.node("Transpose", [w.read(layer.inputs[0])], layer.output, perm=perm)


_UNARY: dict[str, tuple[str, dict[str, Any]]] = {
    "sigmoid": ("Sigmoid", {}), "tanh": ("Tanh", {}), "gelu": ("Gelu", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}), "hardswish": ("HardSwish", {}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
}  # fmt: skip


def _unary(w: _Writer, layer: Layer) -> str:
    x, fn = w.read(layer.inputs[0]), layer.attrs["fn"]
    if fn == "silu":
        return w.node("Mul", [x, w.node("Sigmoid", [x], f"{layer.output}:gate")], layer.output)
    if fn in ("leaky_relu", "elu"):
        return w.node({"leaky_relu": "LeakyRelu", "elu": "Elu"}[fn], [x], layer.output, alpha=layer.attrs["alpha"])
    op, attrs = _UNARY[fn]
    return w.node(op, [x], layer.output, **attrs)


def _table(w: _Writer, layer: Layer) -> str:
    """A look-up: what the function was is no longer known, so this is no peer's best way to compute it."""
    a, name = layer.attrs, layer.output
    steps = [
        ("Div", "step", a["unit"]), ("Add", "half", 0.5), ("Floor", "floor", None), ("Max", "lo", float(a["lo"])),
        ("Min", "hi", float(a["hi"])), ("Sub", "index", float(a["lo"])),
    ]  # fmt: skip
    y = w.read(layer.inputs[0])
    for op, part, value in steps:
        more = [] if value is None else [w.constant(f"number:{value!r}", np.array(value, np.float32))]
        y = w.node(op, [y, *more], f"{name}:{part}")
    index = w.node("Cast", [y], f"{name}:int", to=TensorProto.INT64)
    return w.node("Gather", [w.constant(f"{name}:table", layer.arrays["table"]), index], name, axis=0)


def _argmax(w: _Writer, layer: Layer) -> str:
    found = w.node("ArgMax", [w.read(layer.inputs[0])], f"{layer.output}:int", axis=-1, keepdims=0)
    return w.node("Cast", [found], layer.output, to=TensorProto.FLOAT)


_OPS: dict[str, Callable[[_Writer, Layer], str]] = {
    "conv": _conv, "conv_transpose": _conv_transpose, "embedding": _embedding, "upsample": _upsample,
    "linear": _linear, "add": _add, "clip": _clip, "affine": _affine, "max_pool": _max_pool,
    "avg_pool": _avg_pool, "concat": _concat, "pad": _pad, "slice": _slice, "reshape": _reshape,
    "transpose": _transpose, "unary": _unary, "table": _table, "argmax": _argmax,
}  # fmt: skip

__all__ = ["to_onnx"]
