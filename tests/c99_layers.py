"""Random layers for the C kernels, and the host program that runs one kernel's text under sanitizers."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import numpy as np

from bitshift.backends.c99.helpers import PRELUDE, text_of
from bitshift.backends.c99.layer import Code, Kernel, Layer, Port
from bitshift.backends.c99.program import build
from bitshift.backends.c99.targets import Target
from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, Node, Value
from bitshift.core.reference import execute
from bitshift.core.windows import output_length

FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O1"]
FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CC = shutil.which("cc")
S8, U8, OUT = FixedPoint(8, 4), FixedPoint(8, 4, False), FixedPoint(8, 2)


def conv_graph(rng, *, shape, outputs, kernel, format="pot3d", levels=None, groups=1, **more):
    """One convolution; ``more`` is stride, padding, dilation, and what :func:`layer_graph` takes."""
    axes = len(kernel)
    stride, dilation = more.pop("stride", (1,) * axes), more.pop("dilation", (1,) * axes)
    padding = more.pop("padding", ((0, 0),) * axes)
    codes = _codes(rng, format, (outputs, shape[0] // groups, *kernel), levels)
    out = map(output_length, shape[1:], kernel, stride, padding, dilation)
    attrs = {"format": format, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return layer_graph(rng, "conv", attrs, codes, shape, (outputs, *out), **more)


def linear_graph(rng, *, shape, outputs, format="pot3d", levels=None, **rule):
    """One linear layer."""
    codes = _codes(rng, format, (outputs, shape[-1]), levels)
    return layer_graph(rng, "linear", {"format": format}, codes, shape, (*shape[:-1], outputs), **rule)


def _codes(rng, format, shape, levels):
    form = FORMATS[format]
    if levels is not None:
        return form.encode(levels)
    allowed = [code for code in range(len(form.levels)) if code not in form.reserved]
    return rng.choice(allowed, size=shape).astype(np.uint8)


def layer_graph(
    rng, op, attrs, codes, shape, out, *, x=S8, y=OUT, residual=None, shift=8, vary=False, clamp=None
):  # fmt: skip
    """A graph of one layer; ``vary`` gives each channel its own multiplier and shifts."""
    outputs = len(codes)
    attrs = attrs if clamp is None else {**attrs, "clamp": clamp}
    consts = {
        "codes": codes,
        "offset": rng.integers(-300, 300, outputs) + (1 << shift - 1 if shift else 0),
        "mult": np.ones(outputs, np.int32),
        "shift": np.full(outputs, shift, np.uint8),
    }
    if vary:
        consts["mult"] = (1 << rng.integers(0, 4, outputs)).astype(np.int32)
        consts["shift"] = (shift + rng.integers(0, 3, outputs)).astype(np.uint8)
    values = {"x": Value("x", shape, x), "y": Value("y", out, y)}
    if residual is not None:
        values["r"] = Value("r", out, residual)
        consts["res_shift"] = (rng.integers(0, 5, outputs) if vary else np.full(outputs, 3)).astype(np.uint8)
    inputs = ("x",) if residual is None else ("x", "r")
    node = Node(op, inputs, "y", attrs, {role: role for role in consts}, source="m.layer")
    return Graph(inputs, ("y",), values, (node,), consts)


FORMAT_NAMES = ("pot1", "pot2", "pot2d", "pot3", "pot3d", "pot4x2", "pot4", "pot4d", "apot4", "apot5", "int4", "pot5")


def random_graph(seed: int) -> Graph:
    """A layer of random kind, format, geometry, types and rule."""
    rng, py = np.random.default_rng(seed), random.Random(seed)
    y = py.choice([FixedPoint(8, 2), U8, FixedPoint(4, 1), FixedPoint(16, 2), FixedPoint(32, 0)])
    rule = {
        "format": py.choice(FORMAT_NAMES),
        "x": py.choice([S8, U8, FixedPoint(4, 2), FixedPoint(6, 2, False), FixedPoint(2, 0), FixedPoint(12, 4)]),
        "y": y,
        "residual": py.choice([None, None, S8, U8, FixedPoint(16, 3)]),
        "shift": 0 if y.bits == 32 else py.randint(1, 12),
        "vary": py.random() < 0.4 and y.bits != 32,
        "clamp": (max(0, y.lo), y.hi - py.randint(0, 1)) if y.bits < 32 and py.random() < 0.4 else None,
    }
    kind = py.choice(["conv", "conv", "1x1", "1d", "linear", "rows", "depthwise", "depthwise"])
    if kind == "linear":
        return linear_graph(rng, shape=(py.randint(1, 70),), outputs=py.randint(1, 20), **rule)
    if kind == "rows":
        return linear_graph(rng, shape=(py.randint(2, 9), py.randint(1, 40)), outputs=py.randint(1, 20), **rule)
    if kind == "1x1":
        shape = (py.randint(1, 24), py.randint(1, 9), py.randint(1, 9))
        stride = (py.randint(1, 2),) * 2
        outputs = py.randint(1, 20)
        # As much padding behind as gives outputs of the input's size: what they read there is zero.
        padding = tuple((0, (size - 1) * step - size + 1) for size, step in zip(shape[1:], stride, strict=True))
        padding = padding if seed % 3 == 0 else ((0, 0), (0, 0))
        return conv_graph(rng, shape=shape, outputs=outputs, kernel=(1, 1), stride=stride, padding=padding, **rule)
    groups = py.randint(1, 6) if kind == "depthwise" else py.choice([1, 1, 1, 2])
    channels = groups if kind == "depthwise" else groups * py.randint(1, 9)
    outputs = groups * (py.choice([1, 1, 2]) if kind == "depthwise" else py.randint(1, 9))
    axes = 1 if kind == "1d" else 2
    kernel = tuple(py.randint(1, 4) for _ in range(axes))
    dilation = tuple(py.choice([1, 1, 2]) for _ in range(axes))
    padding = tuple((py.randint(0, 2), py.randint(0, 2)) for _ in range(axes))
    spans = zip(kernel, dilation, padding, strict=True)
    size = tuple(max((k - 1) * d + 1 - sum(p), 1) + py.randint(0, 9) for k, d, p in spans)
    return conv_graph(
        rng, shape=(channels, *size), outputs=outputs, kernel=kernel, padding=padding, dilation=dilation, groups=groups,
        stride=tuple(py.randint(1, 3) for _ in range(axes)), **rule,
    )  # fmt: skip


def layer_of(graph: Graph) -> Layer:
    """The layer of a graph of one."""
    (layer,) = build(graph).layers
    return layer


def source(layer: Layer, code: Code) -> str:
    """The kernel's C text with all that it needs, and nothing else."""
    return f"#include <stdint.h>\n#include <stddef.h>\n{PRELUDE}\n{text_of(code.needs)}\n{code.text}\n"


def _size(port: Port) -> int:
    return int(np.prod(port.shape, dtype=np.int64))


def _program(layer: Layer, code: Code, samples: int) -> str:
    """Reads inputs from stdin and writes outputs to stdout; the scratch memory is full of noise before each call."""
    ports = {"x": layer.x, **({"r": layer.residual} if layer.residual is not None else {}), "y": layer.y}
    own = [f"{port.ctype} *{name} = malloc({_size(port)} * sizeof *{name});" for name, port in ports.items()]
    if code.scratch:
        own.append(f"uint32_t *s = malloc({code.scratch});")
    names = [*ports, *(["s"] if code.scratch else [])]
    each = [f"if (fread({n}, sizeof *{n}, {_size(ports[n])}, stdin) == 0) {{ return 2; }}" for n in ports if n != "y"]
    each += [f"memset(s, 0xA5, {code.scratch});"] if code.scratch else []
    each += [f"{layer.name}({', '.join(names)});", f"fwrite(y, sizeof *y, {_size(layer.y)}, stdout);"]
    lines = [*own, f"for (int n = 0; n < {samples}; n++) {{", *each, "}", *(f"free({n});" for n in names), "return 0;"]
    head = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
    return source(layer, code) + head + "int main(void)\n{\n" + "\n".join(lines) + "\n}\n"


def inputs_of(graph: Graph, seed: int, samples: int = 4) -> dict[str, np.ndarray]:
    """The least values everywhere, the largest, and random ones."""
    rng, found = np.random.default_rng(seed), {}
    for name in graph.inputs:
        value = graph.values[name]
        assert isinstance(value.type, FixedPoint)
        array = rng.integers(value.type.lo, value.type.hi + 1, size=(samples, *value.shape))
        array[0], array[1] = value.type.lo, value.type.hi
        found[name] = array.astype(value.type.dtype)
    return found


def run(graph: Graph, kernel: Kernel, target: Target, folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What the kernel's C text gives on this machine."""
    layer = layer_of(graph)
    code = kernel.emit(layer, target)
    assert kernel.estimate(layer, target).scratch == code.scratch
    samples = len(inputs["x"])
    (folder / "kernel.c").write_text(_program(layer, code, samples))
    built = subprocess.run(
        [CC or "cc", *FLAGS, str(folder / "kernel.c"), "-o", str(folder / "kernel")], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr[:3000]
    data = b"".join(inputs[name][i].tobytes() for i in range(samples) for name in graph.inputs)
    done = subprocess.run([str(folder / "kernel")], input=data, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[:3000]
    return np.frombuffer(done.stdout, dtype=layer.y.type.dtype).reshape(samples, *layer.y.shape)


def expected(graph: Graph, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What the reference gives."""
    return execute(graph, inputs)["y"]
