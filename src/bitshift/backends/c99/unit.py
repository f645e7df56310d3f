"""A network in C before it is laid out in files: steps, a kernel for each layer, the text of each step, the arena."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bitshift.backends.c99.choose import BudgetError, Choice, choose, needed, usable
from bitshift.backends.c99.cost import op_bytes
from bitshift.backends.c99.kernels import KERNELS, MODES
from bitshift.backends.c99.layer import Code, Kernel, Layer
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
    return _chosen(build(graph), processor, mode, flash, ram)


def assemble(
    program: Program, kernels: Mapping[str, Kernel], target: Target, choices: Mapping[str, Choice] | None = None
) -> Unit:
    """``program`` with ``kernels`` by the name of the layer, and its arena."""
    codes = {step.name: _code(step, kernels, target) for step in program.steps}
    arena = plan(program, codes)
    return Unit(program=program, kernels=kernels, codes=codes, plan=arena, target=target, choices=choices or {})


def _chosen(program: Program, target: Target, mode: str, flash: int | None, ram: int | None) -> Unit:
    """The kernels that :mod:`.choose` finds within the budgets; one of the smallest networks where it finds none.

    What lives beside a layer's scratch depends on the kernels (some write over their residual), and the arena may have
    gaps; so the room is first what the plain network leaves, and shrinks until the arena fits.
    """
    plain = _plain(program, target)
    others = sum(flash_of(plain, step) for step in program.steps if step.layer is None)
    room: dict[str, int] | None = None
    if ram is not None:
        beside = zip(program.steps, plain.plan.live, strict=True)
        room = {step.name: ram - live + plain.codes[step.name].scratch for step, live in beside}
    for _ in range(2 * len(program.steps) + 1):
        try:
            choices = choose(
                program.layers, target, mode=mode, flash=None if flash is None else usable(flash) - others, room=room
            )
        except BudgetError:
            break
        kernels = {name: choice.kernel for name, choice in choices.items()}
        unit = assemble(program, kernels, target, choices)
        if _fits(unit, flash, ram):
            return unit
        if room is None:
            break
        step = program.steps[
            max(
                range(len(program.steps)), key=lambda i: unit.codes[program.steps[i].name].scratch and unit.plan.live[i]
            )
        ]
        room[step.name] = unit.codes[step.name].scratch - 1
    small = [*([plain] if mode in ("auto", "plain") else []), *_smallest(program, target, mode)]
    for unit in small:
        if _fits(unit, flash, ram):
            return unit
    raise ValueError(_message(small, mode, flash, ram))


def _code(step: Step, kernels: Mapping[str, Kernel], target: Target) -> Code:
    if step.layer is not None:
        return kernels[step.name].emit(step.layer, target)
    assert step.site is not None
    return EMITTERS[step.site.node.op](step.site)


CODE_BYTES = 120
"""About what the code of an op without weights takes; the reserve of :func:`.usable` holds some of twice that."""


def flash_of(unit: Unit, step: Step) -> int:
    """Bytes of constants, exactly, and of code, about."""
    constants = unit.codes[step.name].table_bytes
    if step.layer is None:
        return constants + CODE_BYTES + max(0, op_bytes(unit.codes[step.name].text, unit.target) - 2 * CODE_BYTES)
    return max(unit.kernels[step.name].estimate(step.layer, unit.target).flash, constants)


def _flash(unit: Unit) -> int:
    return sum(flash_of(unit, step) for step in unit.program.steps)


def _fits(unit: Unit, flash: int | None, ram: int | None) -> bool:
    return (ram is None or unit.plan.size <= ram) and (flash is None or _flash(unit) <= usable(flash))


def _plain(program: Program, target: Target) -> Unit:
    return assemble(program, {layer.name: KERNELS["plain"] for layer in program.layers}, target)


def _smallest(program: Program, target: Target, mode: str) -> list[Unit]:
    """The network of ``mode`` in the least flash, and in the least memory: no kernel is the smallest for all layers."""
    return [
        assemble(program, {layer.name: _least(layer, target, mode, what) for layer in program.layers}, target)
        for what in ("flash", "scratch")
    ]


def _least(layer: Layer, target: Target, mode: str, what: str) -> Kernel:
    """The kernel of ``mode`` that takes least of ``what``; plain where all refuse."""
    plain = KERNELS["plain"]
    able = [kernel for name in MODES[mode] if not (kernel := KERNELS[name]).refuses(layer, target)]
    if mode == "auto" or not able:
        able.append(plain)

    def cost(kernel: Kernel) -> tuple[int, int]:
        estimate = kernel.estimate(layer, target)
        flash, scratch = estimate.flash, estimate.scratch
        return (flash, scratch) if what == "flash" else (scratch, flash)

    return min(able, key=cost)


def _message(small: Sequence[Unit], mode: str, flash: int | None, ram: int | None) -> str:
    """Why none of ``small``, the smallest networks of ``mode``, keeps the budgets, and what would."""
    low, thin = min(small, key=lambda unit: unit.plan.size), min(small, key=_flash)
    program, target = low.program, low.target
    free = [*small, _plain(program, target), *_smallest(program, target, "auto")]
    if ram is not None and low.plan.size > ram:
        return _ram_message(low, min(unit.plan.size for unit in free), ram)
    if flash is not None and _flash(thin) > usable(flash):
        return _flash_message(thin, min(free, key=_flash), mode, flash)
    return (
        f"no choice of kernels keeps both budgets: the least memory, {low.plan.size:,} bytes, takes "
        f"{needed(_flash(low)):,} bytes of flash, the least flash, {needed(_flash(thin)):,} bytes, takes "
        f"{thin.plan.size:,} bytes of memory; flash is {flash:,} bytes, ram is {ram:,} bytes: raise one of them"
    )


def _ram_message(unit: Unit, least: int, ram: int) -> str:
    """``unit`` takes the least memory of its mode, the network ``least`` with any kernels."""
    fullest = unit.plan.fullest
    live = f"{unit.program.steps[fullest].title}: {unit.plan.live[fullest]:,} bytes live in this step"
    if least <= ram:
        return f"{live}, ram is {ram:,} bytes; mode 'auto' needs {least:,}"
    return (
        f"{live}, ram is {ram:,} bytes; the smallest that this network can run in is {least:,} (inputs and outputs of "
        "the network not counted): use a smaller input, fewer channels in this layer, or an earlier stride or pool"
    )


def _flash_message(unit: Unit, least: Unit, mode: str, flash: int) -> str:
    """``unit`` takes the least flash of its mode, ``least`` with any kernels."""
    fewest = needed(_flash(least))
    if fewest <= flash:
        return (
            f"mode {mode!r} needs {needed(_flash(unit)):,} bytes of flash, flash is {flash:,} bytes; mode 'auto' needs "
            f"{fewest:,}"
        )
    step = max(least.program.steps, key=lambda step: flash_of(least, step))
    return (
        f"{step.title}: takes about {flash_of(least, step):,} bytes of flash, the network {fewest:,} at the smallest "
        f"with a reserve for its code, flash is {flash:,} bytes: train with a format of fewer bits, or fewer channels "
        "in this layer"
    )


__all__ = ["MODES", "Unit", "assemble", "compile_graph", "flash_of"]
