"""The assembly of packed codes on an emulated Cortex-M0: the integers of the C function beside it, in fewer cycles."""

from __future__ import annotations

import numpy as np
import pytest
from emulated import counting, multiplications
from emulated.graphs import Draft
from emulated.network import build_network

from bitshift.backends.c99 import golden
from bitshift.backends.c99.export import export_c
from bitshift.core.reference import execute
from firmware_programs import board

CASES = {
    "pot3d, boxes and a rest": ("pot3d", 23, 3),
    "pot3d, less than a box": ("pot3d", 1, 3),
    "pot3d, full boxes": ("pot3d", 20, 1),
    "one-bit codes": ("pot1", 33, 1),
    "pairs of two-bit codes": ("pot2d", 6, 3),
    "two-bit codes": ("pot2d", 33, 1),
    "four bits": ("pot4x2", 15, 3),
    "five bits": ("apot5", 7, 3),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(CASES)[1:]]


@pytest.mark.parametrize("case", [*list(CASES)[:1], *SLOW])
def test_the_assembly_gives_the_integers_of_the_c_function_in_fewer_cycles(case, tmp_path):
    format, channels, kernel = CASES[case]
    draft = Draft((channels, 4, 6), seed=3)
    graph = draft.graph(draft.conv("x", 5, kernel, format=format))
    emitted = export_c(graph, tmp_path / "firmware", target="cortex-m0", mode="packed")
    assert [row.kernel for row in emitted.rows] == ["packed"]
    cycles = []
    for options in ("-Os", "-O3"), ("-Os", "-DBS_NO_ASSEMBLY"), ("-Os",):
        network = build_network(
            tmp_path / "firmware", graph, "cortex-m0", tmp_path / "".join(options), boards=[board("microbit")],
            options=options,
        )  # fmt: skip
        inputs = golden.inputs(network.program, 6)
        outputs, run = network.evaluate(inputs, count=True)
        for name, expected in execute(graph, inputs).items():
            assert np.array_equal(outputs[name], expected)
        assert [str(item) for item in multiplications.in_code(network.model)] == []
        cycles.append(counting.region(network.image, run).cycles)
    assert cycles[2] < cycles[1]
