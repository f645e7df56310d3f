"""The chooser's estimates against counted cycles and built code, kernel by kernel, on emulated processors."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from emulated import counting
from emulated.elf import Elf
from emulated.graphs import INT8, LAYERS, UINT8, Draft, small_network
from emulated.host import call
from emulated.network import build_network

from bitshift.backends.c99 import golden
from bitshift.backends.c99.boards import FREESTANDING
from bitshift.backends.c99.export import render
from bitshift.backends.c99.kernels import KERNELS
from bitshift.backends.c99.program import build
from bitshift.backends.c99.targets import get_target
from bitshift.backends.c99.unit import assemble, compile_graph
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph
from firmware_programs import board

BOARDS = {
    "cortex-m0": "microbit-large", "cortex-m4": "mps2-an386", "rv32i": "virt-rv32i", "avr": "atmega2560-xmem"
}  # fmt: skip


def conv(shape, outputs, kernel, **more) -> Graph:
    draft = Draft(shape, seed=1)
    return draft.graph(draft.conv("x", outputs, kernel, **more))


def linear(inputs, outputs, x=INT8, **more) -> Graph:
    draft = Draft((inputs,), x, seed=1)
    return draft.graph(draft.linear("x", outputs, **more))


GRAPHS = {
    **{name: make() for name, (make, _) in LAYERS.items()},
    "3x3, stride 2, two terms": conv((8, 12, 10), 24, 3, stride=2, format="pot4x2"),
    "1x1, two bits": conv((64, 5, 5), 12, 1, format="pot2"),
    "depthwise 5x5, stride 2": conv((6, 13, 9), 6, 5, stride=2, groups=6),
    "linear, two terms": linear(64, 10, format="pot4x2"),
    "linear, int8, from bytes without sign": linear(130, 9, format="int8", x=UINT8),
    "linear, 12-bit values": linear(130, 9, format="pot3", x=FixedPoint(12, 4)),
}
QUICK = ("cortex-m0", "linear, two terms")


CASES = [
    pytest.param(target, graph, marks=() if (target, graph) == QUICK else pytest.mark.slow)
    for target in BOARDS
    for graph in GRAPHS
]


@pytest.mark.parametrize(("target", "name"), CASES)
def test_an_estimate_is_near_the_cycles_and_bytes_that_are_counted(target, name, tmp_path):
    processor, machine = get_target(target), board(BOARDS[target])
    program = build(GRAPHS[name])
    (layer,) = program.layers
    inputs = golden.inputs(program, 1)
    found = {}
    for kernel in KERNELS.values():
        if kernel.refuses(layer, processor):
            continue
        folder = tmp_path / kernel.name
        folder.mkdir()
        for file, text in render(assemble(program, {layer.name: kernel}, processor)).items():
            (folder / file).write_text(text)
        network = build_network(folder, GRAPHS[name], target, folder / "build", boards=[machine])
        outputs, run = network.evaluate(inputs, count=True)
        for value, expected in golden.outputs(program, inputs).items():
            assert np.array_equal(outputs[value], expected)
        counts = counting.region(network.image, run)
        # Where no model counts cycles: two a load on Cortex-M3 and larger and one more a jump, one an instruction else.
        cycles = counts.cycles or counts.instructions + (counts.loads + counts.jumps) * (target == "cortex-m4")
        estimate = kernel.estimate(layer, processor)
        found[kernel.name] = estimate.cycles / cycles, estimate.flash / network.model.flash, network.model.flash
    assert len(found) >= 3
    slack = 0.4 if target == "avr" else 0.3
    far = {
        kernel: (cycles, flash, size)
        for kernel, (cycles, flash, size) in found.items()
        if abs(cycles - 1) > slack or not 1 - max(0.25, 200 / size) < flash < 1 + max(0.55, 750 / size)
    }
    assert far == {}, "kernel: cycles estimated of counted, flash likewise, bytes of flash"


def network() -> Graph:
    """A residual network with a depthwise layer, of some 6,000 weights."""
    draft = Draft((3, 16, 16), UINT8, seed=2)
    first = draft.conv("x", 16, type=UINT8)
    deep = draft.conv(first, 16, groups=16, type=UINT8)
    wide = draft.conv(draft.conv(deep, 16, 1, type=UINT8), 16, residual=first, type=UINT8)
    last = draft.conv(wide, 24, stride=8, type=UINT8)
    flat = draft.node("reshape", [last], (96,), UINT8, {"shape": [96]})
    return draft.graph(draft.linear(flat, 10))


def wide(make):
    """``make`` with offsets that need 64 bits, but in layers whose outputs keep them."""

    def made() -> Graph:
        graph, rng = make(), np.random.default_rng(0)
        rounded = [node for node in graph.nodes if "offset" in node.consts and graph.values[node.output].type.bits == 8]
        names = [node.consts["offset"] for node in rounded]
        changed = {name: rng.integers(-(1 << 40), 1 << 40, len(graph.constants[name])) for name in names}
        return replace(graph, constants={**graph.constants, **changed})

    return made


@pytest.mark.parametrize("name", ["cortex-m0", *(pytest.param(t, marks=pytest.mark.slow) for t in list(BOARDS)[1:])])
@pytest.mark.parametrize(
    "make",
    [small_network, network, wide(small_network), wide(network)],
    ids=["small", "net", "small, wide", "net, wide"],
)
def test_a_flash_budget_is_kept_by_what_the_compiler_makes(make, name, tmp_path):
    graph, target = make(), get_target(name)
    with pytest.raises(ValueError, match="at the smallest") as refused:
        compile_graph(graph, target=name, flash=1)
    (least,) = re.findall(r"the network ([\d,]+) at the smallest", str(refused.value))
    kernels = set()
    for share in (1, 1.3, 2, 4, 12):
        budget = int(int(least.replace(",", "")) * share)
        unit = compile_graph(graph, target=name, flash=budget)
        kernels.update(kernel.name for kernel in unit.kernels.values())
        for file, text in render(unit).items():
            (tmp_path / file).write_text(text)
        for level in ("-Os", "-O2"):
            command = [target.compiler, *target.flags, *FREESTANDING, level, "-c", "model.c", "-o", "model.o"]
            call(command, cwd=tmp_path)
            assert Elf(tmp_path / "model.o", target.compiler.removesuffix("gcc")).flash <= budget, level
    assert len(kernels) > 2
