"""Speed of one Conv3d, one transposed convolution and a Conv2d of like size, by instruction set: one thread.

    python bench/decoders.py --json decoders.json

One sample, bytes in, bytes out, two-term 4-bit weights; a multiply-add counts as two operations. All sets must give the
same integers.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from common import Row, arguments, check_equal, main, paired

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


def rows(options: argparse.Namespace) -> list[Row]:
    """All layers on every instruction set of this processor, in turns; equal integers first."""
    found = []
    for name, parts in list(LAYERS.items())[: 1 if options.quick else None]:
        graph = layer(*parts)
        x = np.random.default_rng(1).integers(0, 256, (1, *graph.values["x"].shape)).astype(np.uint8)
        models = {}
        for isa in ("portable", "neon", "avx2", "avxvnni", "avx512vl", "avx512"):
            try:
                models[isa] = engine.compile(graph, isa=isa, threads=1, tune="force")
            except GraphError:
                continue  # not on this processor
        expected = models["portable"].run_int({"x": x})["y"]
        for isa, model in models.items():
            check_equal(f"{name}, {isa}", expected, model.run_int({"x": x})["y"])
        candidates = {isa: partial(model.run_int, {"x": x}) for isa, model in models.items()}
        times = paired(candidates, rounds=2 if options.quick else options.rounds)
        for isa, timing in times.items():
            operations = sum(step.operations for step in models[isa].steps)
            case = f"{name}, {isa}"
            found.append(timing.row(case))
            found.append(Row(case=case, metric="rate", value=operations / timing.median / 1e9, unit="GOP/s"))
            if isa != "portable":
                found.append(timing.ratio(times["portable"], case=case, against="portable"))
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("--rounds", type=int, default=9)
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())
