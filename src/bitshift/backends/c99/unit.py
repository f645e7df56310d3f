"""A network in C before it is laid out in files: steps, a kernel for each layer, the text of each step, the arena."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitshift.backends.c99.kernels import KERNELS
from bitshift.backends.c99.layer import Code, Kernel
from bitshift.backends.c99.memory import Plan, plan
from bitshift.backends.c99.ops import EMITTERS
from bitshift.backends.c99.program import Program, Step, build
from bitshift.backends.c99.targets import Target, get_target
from bitshift.core.graph import Graph

MODES = ("auto", "packed", "unrolled", "lists", "plain")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What :func:`compile_graph` gives; ``kernels`` and ``codes`` by the name of the step."""

    program: Program
    kernels: Mapping[str, Kernel]
    codes: Mapping[str, Code]
    plan: Plan
    target: Target


def compile_graph(
    graph: Graph, *, target: str = "generic", mode: str = "auto", flash: int | None = None, ram: int | None = None
) -> Unit:
    """``graph`` as C functions for ``target``, within ``flash`` and ``ram`` bytes.

    ``mode`` names the kernel of every layer that it can compute; ``auto`` chooses by layer.

    Raises:
        GraphError: the graph holds what C cannot have; names the layer and what would help.
        ValueError: an unknown target or mode, or a budget that cannot be met; says the smallest that can.
    """
    processor = get_target(target)
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; allowed: {', '.join(MODES)}")
    program = build(graph)
    unit = assemble(program, _kernels(program, processor, mode), processor)
    _check_budgets(unit, flash, ram)
    return unit


def assemble(program: Program, kernels: Mapping[str, Kernel], target: Target) -> Unit:
    """``program`` with ``kernels`` by the name of the layer, and its arena."""
    codes = {step.name: _code(step, kernels, target) for step in program.steps}
    return Unit(program=program, kernels=kernels, codes=codes, plan=plan(program, codes), target=target)


def _kernels(program: Program, target: Target, mode: str) -> dict[str, Kernel]:
    plain = KERNELS["plain"]
    wanted = KERNELS.get(mode, plain)
    return {layer.name: plain if wanted.refuses(layer, target) else wanted for layer in program.layers}


def _code(step: Step, kernels: Mapping[str, Kernel], target: Target) -> Code:
    if step.layer is not None:
        return kernels[step.name].emit(step.layer, target)
    assert step.site is not None
    return EMITTERS[step.site.node.op](step.site)


CODE_BYTES = 120
"""About what the code of an op without weights takes."""


def flash_of(unit: Unit, step: Step) -> int:
    """Bytes of constants, exactly, and of code, about."""
    constants = unit.codes[step.name].table_bytes
    if step.layer is None:
        return constants + CODE_BYTES
    return max(unit.kernels[step.name].estimate(step.layer, unit.target).flash, constants)


def _check_budgets(unit: Unit, flash: int | None, ram: int | None) -> None:
    if ram is not None and unit.plan.size > ram:
        raise ValueError(_ram_message(unit, ram))
    total = sum(flash_of(unit, step) for step in unit.program.steps)
    if flash is not None and total > flash:
        raise ValueError(_flash_message(unit, flash, total))


def _smallest(unit: Unit) -> Unit:
    """The same network with the plain kernel everywhere: the least code and scratch memory."""
    plain = KERNELS["plain"]
    return assemble(unit.program, {layer.name: plain for layer in unit.program.layers}, unit.target)


def _ram_message(unit: Unit, ram: int) -> str:
    least = _smallest(unit).plan
    step = unit.program.steps[unit.plan.fullest]
    message = f"{step.title}: {unit.plan.live[unit.plan.fullest]:,} bytes live in this step, ram is {ram:,} bytes; "
    if least.size < unit.plan.size and least.size <= ram:
        return f"{message}mode 'plain' needs {least.size:,}"
    return (
        f"{message}the smallest that this network can run in is {least.size:,} (inputs and outputs of the network not "
        "counted): use a smaller input, fewer channels in this layer, or an earlier stride or pool"
    )


def _flash_message(unit: Unit, flash: int, total: int) -> str:
    small = _smallest(unit)
    least = sum(flash_of(small, step) for step in small.program.steps)
    if least <= flash:
        return (
            f"about {total:,} bytes of flash are needed, flash is {flash:,} bytes; mode 'plain' needs about {least:,}"
        )
    step = max(small.program.steps, key=lambda step: flash_of(small, step))
    return (
        f"{step.title}: takes about {flash_of(small, step):,} bytes of flash, the network {least:,} at the smallest, "
        f"flash is {flash:,} bytes: train with a format of fewer bits, or fewer channels in this layer"
    )


__all__ = ["MODES", "Unit", "assemble", "compile_graph", "flash_of"]
