"""Counts of a run: instructions, memory accesses, multiplications and cycles, by function or by region."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from emulated import isa
from emulated.build import Image
from emulated.machine import Executed, Run

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What was executed. ``cycles`` is simavr's on AVR, the model of ``isa.py`` on a Cortex-M0, else 0: unknown."""

    instructions: int = 0
    loads: int = 0
    stores: int = 0
    multiplies: int = 0
    jumps: int = 0
    cycles: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def with_slow_multiplier(self) -> int:
        """Cycles of a Cortex-M0 whose MULS takes 32."""
        return self.cycles + 31 * self.multiplies


def by_region(image: Image, run: Run) -> dict[int, Counts]:
    """Counts by region: 0 is what ran outside all marks."""
    return _sum(image, run, lambda item: item.region)


def by_function(image: Image, run: Run) -> dict[str, Counts]:
    """Counts of each function's own instructions, over all regions, without those that it calls."""
    return _sum(image, run, lambda item: image.elf.function_at(item.address))


def region(image: Image, run: Run, number: int = 1) -> Counts:
    """Counts of one region.

    Raises:
        ValueError: nothing ran there: the marks were not reached.
    """
    counts = by_region(image, run)
    if number not in counts:
        raise ValueError(f"{image.elf.path}: region {number} never ran; counted were {sorted(counts)}")
    return counts[number]


def _sum(image: Image, run: Run, key: Callable[[Executed], Key]) -> dict[Key, Counts]:
    if not run.executed:
        raise ValueError(f"{image.elf.path}: the run was not counted")
    out: dict[Key, Counts] = {}
    for item in run.executed:
        name = key(item)
        out[name] = out.get(name, Counts()) + _counts(image, item)
    return out


def _counts(image: Image, item: Executed) -> Counts:
    instruction = image.elf.instructions.get(item.address)
    if instruction is None:  # code outside every function: the first instructions behind reset
        return Counts(instructions=item.runs, jumps=item.jumps, cycles=item.cycles)
    name = isa.family(image.elf.prefix)
    cycles = item.cycles
    if "cortex-m0" in image.board.targets:
        cycles = isa.cortex_m0_cycles(instruction, item.runs, item.jumps)
    return Counts(
        instructions=item.runs,
        loads=item.runs * isa.loads(instruction, name),
        stores=item.runs * isa.stores(instruction, name),
        multiplies=item.runs * isa.multiplies(instruction, name),
        jumps=item.jumps,
        cycles=cycles,
    )
