"""A network in C before it is laid out in files: steps, a kernel for each layer, the text of each step, the arena."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitshift.backends.c99.choose import BudgetError, Choice, choose, needed, usable
from bitshift.backends.c99.kernels import KERNELS, MODES
from bitshift.backends.c99.layer import Code, Kernel
from bitshift.backends.c99.memory import Plan, plan
from bitshift.backends.c99.ops import EMITTERS
from bitshift.backends.c99.program import Program, Step, build
from bitshift.backends.c99.targets import Target, get_target
from bitshift.core.graph import Graph


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What :func:`compile_graph` gives; ``kernels`` and ``codes`` by the name of the step."""

    program: Program
    kernels: Mapping[str, Kernel]
    codes: Mapping[str, Code]
    plan: Plan
    target: Target
    choices: Mapping[str, Choice] = field(default_factory=dict)
    """Why each layer got its kernel, by the name of the step."""


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
    unit = _chosen(build(graph), processor, mode, flash, ram)
    _check_budgets(unit, flash, ram)
    return unit


def assemble(
    program: Program, kernels: Mapping[str, Kernel], target: Target, choices: Mapping[str, Choice] | None = None
) -> Unit:
    """``program`` with ``kernels`` by the name of the layer, and its arena."""
    codes = {step.name: _code(step, kernels, target) for step in program.steps}
    arena = plan(program, codes)
    return Unit(program=program, kernels=kernels, codes=codes, plan=arena, target=target, choices=choices or {})


def _chosen(program: Program, target: Target, mode: str, flash: int | None, ram: int | None) -> Unit:
    """The kernels that :mod:`.choose` finds within the budgets; the smallest network where none do.

    What lives beside a layer's scratch depends on the kernels (some write over their residual), and the arena may have
    gaps; so the room is first what the plain network leaves, and shrinks until the arena fits.
    """
    small = _smallest(program, target)
    others = sum(flash_of(small, step) for step in program.steps if step.layer is None)
    room: dict[str, int] | None = None
    if ram is not None:
        beside = zip(program.steps, small.plan.live, strict=True)
        room = {step.name: ram - live + small.codes[step.name].scratch for step, live in beside}
    for _ in range(2 * len(program.steps) + 1):
        try:
            choices = choose(
                program.layers, target, mode=mode, flash=None if flash is None else usable(flash) - others, room=room
            )
        except BudgetError:
            break
        kernels = {name: choice.kernel for name, choice in choices.items()}
        unit = assemble(program, kernels, target, choices)
        if ram is None or room is None or unit.plan.size <= ram:
            return unit
        step = program.steps[
            max(
                range(len(program.steps)), key=lambda i: unit.codes[program.steps[i].name].scratch and unit.plan.live[i]
            )
        ]
        room[step.name] = unit.codes[step.name].scratch - 1
    return small


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
    if flash is not None and total > usable(flash):
        raise ValueError(_flash_message(unit, flash, total))


def _smallest(program: Program, target: Target) -> Unit:
    """The network with the plain kernel everywhere: the least code and scratch memory."""
    plain = KERNELS["plain"]
    return assemble(program, {layer.name: plain for layer in program.layers}, target)


def _ram_message(unit: Unit, ram: int) -> str:
    least = _smallest(unit.program, unit.target).plan
    step = unit.program.steps[unit.plan.fullest]
    message = f"{step.title}: {unit.plan.live[unit.plan.fullest]:,} bytes live in this step, ram is {ram:,} bytes; "
    if least.size < unit.plan.size and least.size <= ram:
        return f"{message}mode 'plain' needs {least.size:,}"
    return (
        f"{message}the smallest that this network can run in is {least.size:,} (inputs and outputs of the network not "
        "counted): use a smaller input, fewer channels in this layer, or an earlier stride or pool"
    )


def _flash_message(unit: Unit, flash: int, total: int) -> str:
    small = _smallest(unit.program, unit.target)
    least = needed(sum(flash_of(small, step) for step in small.program.steps))
    if least <= flash:
        return f"{needed(total):,} bytes of flash are needed, flash is {flash:,} bytes; mode 'plain' needs {least:,}"
    step = max(small.program.steps, key=lambda step: flash_of(small, step))
    return (
        f"{step.title}: takes about {flash_of(small, step):,} bytes of flash, the network {least:,} at the smallest "
        f"with a reserve for its code, flash is {flash:,} bytes: train with a format of fewer bits, or fewer channels "
        "in this layer"
    )


__all__ = ["MODES", "Unit", "assemble", "compile_graph", "flash_of"]
