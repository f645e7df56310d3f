"""No compiler makes a multiplication of the generated text: disassemblies of random layers and graphs, by target."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from emulated import multiplications
from emulated.elf import Elf
from emulated.graphs import LAYERS, Draft

from bitshift.backends.c99.boards import FREESTANDING
from bitshift.backends.c99.export import render
from bitshift.backends.c99.kernels import KERNELS
from bitshift.backends.c99.program import build
from bitshift.backends.c99.targets import get_target
from bitshift.backends.c99.unit import Unit, assemble, compile_graph
from bitshift.core.graph import GraphError
from c99_layers import layer_of, random_graph
from strategies import random_case

SCANNED = ("cortex-m0", "cortex-m3", "cortex-m4", "rv32i", "rv32im", "avr")
LEVELS = ("-Os", "-O2", "-O3")


def found(unit: Unit, folder: Path, level: str) -> list[str]:
    """Multiplications in the code of ``unit``, and the helpers of libgcc that it calls for them."""
    target = unit.target
    if shutil.which(target.compiler) is None:
        pytest.skip(f"{target.compiler} is not installed")
    for name, text in render(unit).items():
        (folder / name).write_text(text)
    command = [target.compiler, *target.flags, *FREESTANDING, level, "-Wall", "-Wextra", "-Werror"]
    done = subprocess.run([*command, "-c", "model.c", "-o", "model.o"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    elf = Elf(folder / "model.o", target.compiler.removesuffix("gcc"))
    assert elf.code["model_run"], "the disassembly is empty"
    return [*map(str, multiplications.in_code(elf)), *multiplications.helpers(elf)]


def random_layer(seed: int, name: str, kernel: str = "") -> Unit:
    """A random layer in ``kernel``, or in one of those that take it."""
    graph, target = random_graph(seed), get_target(name)
    layer = layer_of(graph)
    able = sorted(kernel for kernel in KERNELS if not KERNELS[kernel].refuses(layer, target))
    kernel = kernel or random.Random(seed).choice(able)
    return assemble(build(graph), {layer.name: KERNELS[kernel]}, target)


@pytest.mark.parametrize("name", SCANNED)
def test_a_layer_that_multiplies_nothing_compiles_to_code_that_does_not(name, tmp_path):
    for seed in (1, 2):
        unit = random_layer(seed, name)
        assert found(unit, tmp_path, "-Os") == [], f"seed {seed}"


def test_rows_that_are_walked_by_ones_are_not_counted_and_multiplied(tmp_path):
    assert found(random_layer(230, "rv32im", "unrolled"), tmp_path, "-O3") == []


@pytest.mark.parametrize("level", LEVELS)
def test_what_stands_in_both_lanes_is_not_multiplied_by_65537(level, tmp_path):
    unit = compile_graph(LAYERS["conv 1x1 8x8 32-32"][0](), target="rv32im", mode="packed")
    assert found(unit, tmp_path, level) == []


@pytest.mark.parametrize("seed", [645, 681])
def test_codes_that_are_taken_in_an_unrolled_loop_are_not_multiplied(seed, tmp_path):
    assert found(random_layer(seed, "avr", "plain"), tmp_path, "-O3") == []


def test_a_byte_that_is_shifted_for_several_outputs_is_not_multiplied(tmp_path):
    draft = Draft((64,), seed=1)
    unit = compile_graph(draft.graph(draft.linear("x", 10)), target="avr", mode="unrolled")
    assert found(unit, tmp_path, "-Os") == []


def test_a_pass_over_one_row_does_not_step_behind_its_image(tmp_path):
    assert found(random_layer(780, "cortex-m0", "depthwise"), tmp_path, "-O2") == []


@pytest.mark.parametrize("name", ["cortex-m0", "rv32i"])
def test_a_strip_of_one_pair_does_not_step_out_of_its_image(name, tmp_path):
    assert found(random_layer(50, name, "unrolled"), tmp_path, "-O2") == []


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SCANNED)
def test_many_layers_in_every_kernel_compile_to_code_that_multiplies_nothing(name, level, tmp_path):
    wrong = {}
    for seed in range(60):
        unit = random_layer(seed, name)
        if texts := found(unit, tmp_path, level):
            wrong[seed, *unit.kernels.values()] = texts[0]
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", SCANNED)
def test_random_graphs_of_every_op_compile_to_code_that_multiplies_nothing(name, tmp_path):
    wrong, done = {}, 0
    for seed in range(80):
        try:
            unit = compile_graph(random_case(seed).graph, target=name)
        except GraphError:  # floats, and multipliers: the exporter's own tests say which
            continue
        done += 1
        if texts := found(unit, tmp_path, LEVELS[seed % 3]):
            wrong[seed] = texts[0]
    assert not wrong
    assert done >= 12
