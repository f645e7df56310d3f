"""Speed of one Conv3d, one transposed convolution and a Conv2d of like size, by instruction set: one thread.

    python bench/decoders.py [rounds]

Prints milliseconds of processor time for one sample (the best of the rounds), operations a second (a multiply-add
counts two), and the kernels that ran. Bytes in, bytes out, two-term 4-bit weights. All sets must give the same
integers.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from bitshift.backends import engine
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, GraphError, Node, Value

BYTE = FixedPoint(8, 4, signed=False)
LAYERS = {
    "Conv3d 32 to 32, 8x28x28, kernel 3": ("conv", 32, 32, (8, 28, 28), 3),
    "Conv2d 64 to 64, 56x56, kernel 3": ("conv", 64, 64, (56, 56), 3),
    "ConvTranspose2d 64 to 32, 28x28, kernel 4, stride 2": ("conv_transpose", 64, 32, (28, 28), 4),
}


def layer(op: str, inputs: int, outputs: int, sizes: tuple[int, ...], kernel: int) -> Graph:
    """A graph of one layer with random weights."""
    axes, out = len(sizes), sizes
    attrs = {
        "format": "pot4x2", "stride": [1] * axes, "padding": [[1, 1]] * axes, "dilation": [1] * axes, "groups": 1,
    }  # fmt: skip
    if op == "conv_transpose":
        attrs |= {"stride": [2] * axes, "output_padding": [0] * axes}
        out = tuple(2 * n for n in sizes)
    values = {"x": Value("x", (inputs, *sizes), BYTE), "y": Value("y", (outputs, *out), BYTE)}
    codes = np.random.default_rng(0).integers(0, 16, (outputs, inputs, *[kernel] * axes)).astype(np.uint8)
    consts = {"codes": codes, "shift": np.full(outputs, 9, np.uint8)}
    node = Node(op, ("x",), "y", attrs, {role: role for role in consts})
    return Graph(("x",), ("y",), values, (node,), consts)


def main() -> None:
    """Run all layers on every instruction set of this processor."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    for name, parts in LAYERS.items():
        graph, first = layer(*parts), None
        x = np.random.default_rng(1).integers(0, 256, (1, *graph.values["x"].shape)).astype(np.uint8)
        for isa in ("portable", "neon", "avx2", "avxvnni", "avx512vl", "avx512"):
            try:
                model = engine.compile(graph, isa=isa, threads=1, tune="force")
            except GraphError:
                continue
            times = []
            for _ in range(rounds + 1):  # the first warms up
                begin = time.process_time()
                result = model.run_int({"x": x})["y"]
                times.append(time.process_time() - begin)
            first = result if first is None else first
            if not np.array_equal(first, result):
                raise SystemExit(f"{name}: {isa} gives other integers")
            best = min(times[1:])
            speed = sum(step.operations for step in model.steps) / best / 1e9
            kernels = ", ".join(dict.fromkeys(step.kernel for step in model.steps))
            print(f"{name:55s} {isa:9s} {best * 1e3:8.3f} ms {speed:7.1f} GOP/s  {kernels}")


if __name__ == "__main__":
    main()
