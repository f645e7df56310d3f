"""What an object or image holds, as the target's binutils print it: functions, sizes, calls, instructions."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from emulated.host import call


@dataclass(frozen=True)
class Symbol:
    """A symbol: ``kind`` as readelf prints it (``FUNC``, ``OBJECT``); ``defined`` is false of a reference."""

    name: str
    address: int
    size: int
    kind: str
    defined: bool


@dataclass(frozen=True)
class Instruction:
    """One instruction as objdump prints it; ``calls`` is the symbol that a relocation behind it names, or empty."""

    address: int
    mnemonic: str
    operands: str
    calls: str = ""


@dataclass(frozen=True)
class Elf:
    """An object file or image, read with the tools that begin with ``prefix`` (``arm-none-eabi-``)."""

    path: Path
    prefix: str

    @cached_property
    def symbols(self) -> tuple[Symbol, ...]:
        """All named symbols; the lowest bit of an Arm function's address (Thumb) is cleared."""
        found = []
        for line in call([f"{self.prefix}readelf", "-sW", str(self.path)]).splitlines():
            words = line.split()
            if len(words) < 8 or not words[0].rstrip(":").isdigit() or words[3] in ("SECTION", "FILE"):
                continue
            address, kind = int(words[1], 16), words[3]
            if kind == "FUNC" and self.prefix.startswith("arm"):
                address &= ~1
            found.append(Symbol(words[7], address, int(words[2], 0), kind, words[6] != "UND"))
        return tuple(found)

    @cached_property
    def functions(self) -> tuple[Symbol, ...]:
        """Code by rising address."""
        return tuple(sorted((s for s in self.symbols if s.kind == "FUNC" and s.defined), key=lambda s: s.address))

    @cached_property
    def undefined(self) -> tuple[str, ...]:
        """Names that the file takes from elsewhere."""
        return tuple(s.name for s in self.symbols if not s.defined)

    def address(self, name: str) -> int:
        """Address of the function ``name``; KeyError if the linker has dropped it."""
        for symbol in self.functions:
            if symbol.name == name:
                return symbol.address
        raise KeyError(f"{self.path.name} has no function {name!r}")

    @cached_property
    def _starts(self) -> list[int]:
        return [f.address for f in self.functions]

    def function_at(self, address: int) -> str:
        """Name of the function that holds ``address``, or empty."""
        index = bisect_right(self._starts, address) - 1
        return self.functions[index].name if index >= 0 else ""

    @cached_property
    def code(self) -> dict[str, tuple[Instruction, ...]]:
        """Instructions by function. Tables of AVR, which lie among the code, are left out: they are no functions."""
        names = {f.name for f in self.functions}
        out: dict[str, list[Instruction]] = {}
        inside = ""
        for line in call([f"{self.prefix}objdump", "-drw", str(self.path)]).splitlines():
            if head := re.match(r"[0-9a-f]+ <(.+)>:$", line):
                if not head[1].startswith(".L"):  # a jump's target inside a function: RISC-V objects keep them
                    inside = head[1] if head[1] in names else ""
            elif inside and (found := _instruction(line)):
                out.setdefault(inside, []).append(found)
        return {name: tuple(found) for name, found in out.items()}

    @cached_property
    def instructions(self) -> dict[int, Instruction]:
        """Every instruction of an image by address."""
        return {i.address: i for found in self.code.values() for i in found}

    @cached_property
    def flash(self) -> int:
        """Bytes of code, constants and initial data."""
        return self._size[0] + self._size[1]

    @cached_property
    def ram(self) -> int:
        """Bytes of static data; the stack comes on top."""
        return self._size[1] + self._size[2]

    @cached_property
    def _size(self) -> Sequence[int]:
        text, data, bss = call([f"{self.prefix}size", str(self.path)]).splitlines()[1].split()[:3]
        return int(text), int(data), int(bss)


def _instruction(line: str) -> Instruction | None:
    """A line of ``objdump -drw``: address, bytes, mnemonic, operands, and behind a tab a relocation."""
    words = line.split("\t")
    if len(words) < 3 or not words[0].strip().endswith(":") or words[2].startswith("."):
        return None
    relocation = re.search(r"R_\w+\s+([\w.$]+)", line)
    operands = words[3] if len(words) > 3 and not words[3].startswith("R_") else ""
    target = re.search(r"<([\w.$]+)(?:\+0x[0-9a-f]+)?>", "\t".join(words[3:]))
    calls = relocation[1] if relocation else target[1] if target else ""
    mnemonic, _, rest = words[2].strip().partition(" ")
    return Instruction(int(words[0].strip().rstrip(":"), 16), mnemonic, (rest + operands).strip(), calls)
