"""The processors that ``emit-c`` knows: data, no code that runs."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the generator and its cost figures need to know of a processor.

    Args:
        word: bytes of a register; lanes need 4.
        free_shift: a shift by any constant costs nothing as part of an operand.
        far: a load reaches 2 kB by a constant offset, else some 30 elements.
        flags: of the compiler, without optimisation.
        compiler: command of the usual cross compiler; empty: the host's.
    """

    name: str
    title: str
    word: int = 4
    free_shift: bool = False
    far: bool = True
    compiler: str = ""
    flags: tuple[str, ...] = ()

    @property
    def thumb1(self) -> bool:
        """Whether it is a Thumb-1 core: lanes, eight registers that every instruction reaches, near loads."""
        return self.word == 4 and not self.far


def _arm(name: str, title: str, cpu: str, *, free_shift: bool) -> Target:
    return Target(
        name=name,
        title=title,
        free_shift=free_shift,
        far=free_shift,
        compiler="arm-none-eabi-gcc",
        flags=(f"-mcpu={cpu}", "-mthumb"),
    )


TARGETS = {
    target.name: target
    for target in (
        Target(name="generic", title="any C99 compiler, 32-bit registers assumed"),
        _arm("cortex-m0", "Cortex-M0 and M0+ (Armv6-M)", "cortex-m0", free_shift=False),
        _arm("cortex-m3", "Cortex-M3 (Armv7-M)", "cortex-m3", free_shift=True),
        _arm("cortex-m4", "Cortex-M4 (Armv7E-M)", "cortex-m4", free_shift=True),
        _arm("cortex-m7", "Cortex-M7 (Armv7E-M)", "cortex-m7", free_shift=True),
        _arm("cortex-m33", "Cortex-M33 (Armv8-M Mainline)", "cortex-m33", free_shift=True),
        Target(
            name="rv32i", title="RISC-V RV32I, no multiplier", compiler="riscv64-unknown-elf-gcc",
            flags=("-march=rv32i", "-mabi=ilp32"),
        ),
        Target(
            name="rv32im", title="RISC-V RV32IM", compiler="riscv64-unknown-elf-gcc",
            flags=("-march=rv32im", "-mabi=ilp32"),
        ),
        Target(
            name="avr", title="8-bit AVR (ATmega, ATtiny)", word=1, far=False,
            compiler="avr-gcc", flags=("-mmcu=atmega328p",),
        ),
    )
}  # fmt: skip


def get_target(name: str) -> Target:
    """The target called ``name``; ValueError lists the near misses and what exists."""
    if name not in TARGETS:
        near = difflib.get_close_matches(name, TARGETS, n=2)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(f"unknown target {name!r}{hint} Known targets: {', '.join(TARGETS)}")
    return TARGETS[name]


__all__ = ["TARGETS", "Target", "get_target"]
