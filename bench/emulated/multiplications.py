"""The proof that generated code does not multiply: in its disassembly, in what it calls, and in what was executed.

The two other halves are the linker, which gets no libgcc, and RV32I without M, whose ``mul`` traps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from emulated import isa
from emulated.build import Image
from emulated.counting import by_function
from emulated.elf import Elf
from emulated.machine import Run

HELPER = re.compile(
    r"__(aeabi_(l?mul|u?[il]div\w*|[fd]\w+|[il]2[fd]|u[il]2[fd])|u?mul\w*[qhsdt]i3\w*|us?mul\w*|u?div\w+|u?mod\w+|u?divmod\w+"
    r"|(add|sub|mul|div|neg|eq|ne|lt|le|gt|ge|cmp)[sd]f[23]|float\w*[sd]f|fix\w*[sd]f[sd]i)$"
)
"""Functions of libgcc that multiply, divide, or calculate with floats."""


@dataclass(frozen=True)
class Multiplication:
    """An instruction, or a call of a helper, that multiplies (or divides, or is floating point)."""

    function: str
    address: int
    text: str

    def __str__(self) -> str:
        return f"{self.function}+{self.address:#x}: {self.text}"


def in_code(elf: Elf, functions: Iterable[str] | None = None) -> tuple[Multiplication, ...]:
    """Every multiplication in the code of ``functions`` (all of the file when None)."""
    name = isa.family(elf.prefix)
    wanted = None if functions is None else set(functions)
    found = []
    for function, instructions in elf.code.items():
        if wanted is not None and function not in wanted:
            continue
        for item in instructions:
            if isa.multiplies(item, name) or (item.calls and HELPER.match(item.calls)):
                text = f"{item.mnemonic} {item.operands}".strip()
                found.append(Multiplication(function, item.address, f"{text} {item.calls}".strip()))
    return tuple(found)


def helpers(elf: Elf) -> tuple[str, ...]:
    """Helpers that the file takes from libgcc to multiply, divide or calculate with floats."""
    return tuple(name for name in elf.undefined if HELPER.match(name))


def executed(image: Image, run: Run, functions: Iterable[str]) -> int:
    """Multiplications that ran in ``functions`` during a counted run.

    Raises:
        ValueError: none of them ran, so that zero would prove nothing.
    """
    counts = by_function(image, run)
    ran = [counts[name] for name in set(functions) if name in counts]
    if not ran:
        raise ValueError(f"{image.elf.path}: none of the functions ran")
    return sum(item.multiplies for item in ran)
