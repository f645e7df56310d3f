"""What an instruction does and costs: loads, stores, multiplications, and the Cortex-M0's cycles."""

from __future__ import annotations

import re

from emulated.elf import Instruction

_MULTIPLIES = {
    "arm": re.compile(
        r"(mul|mla|mls|[su]mul|[su]mla|smml|smmul|sml[as]|smu[as]|umaal|[su]div|v(mul|mla|mls|n?fm|div|fma))[\w.]*$"
    ),
    "riscv": re.compile(r"(mul|div|rem|f(mul|madd|msub|nmadd|nmsub|div))[\w.]*$"),
    "avr": re.compile(r"(mul|fmul)\w*$"),
}
_LOADS = {
    "arm": re.compile(r"(ldr|ldm|pop)\w*$"),
    "riscv": re.compile(r"(lb|lh|lw)u?$"),
    "avr": re.compile(r"(ld|ldd|lds|lpm|elpm|pop)$"),
}
_STORES = {
    "arm": re.compile(r"(str|stm|push)\w*$"),
    "riscv": re.compile(r"(sb|sh|sw)$"),
    "avr": re.compile(r"(st|std|sts|push)$"),
}
_CONDITIONAL = re.compile(r"b(eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?$")


def family(prefix: str) -> str:
    """``arm``, ``riscv`` or ``avr``, from the prefix of the binutils."""
    return next(name for name in _MULTIPLIES if prefix.startswith(name))


def multiplies(instruction: Instruction, isa: str) -> bool:
    """Whether it multiplies or divides, integers or floats, with or without accumulation."""
    return bool(_MULTIPLIES[isa].match(plain(instruction)))


def loads(instruction: Instruction, isa: str) -> int:
    """Values read from memory: as many as registers for a multiple load, else 0 or 1."""
    return max(1, registers(instruction)) if _LOADS[isa].match(plain(instruction)) else 0


def stores(instruction: Instruction, isa: str) -> int:
    """Values written to memory."""
    return max(1, registers(instruction)) if _STORES[isa].match(plain(instruction)) else 0


def plain(instruction: Instruction) -> str:
    """The mnemonic without its width (``ldr.w``); RISC-V's dots (``fmul.s``) stay."""
    return re.sub(r"\.[nw]$", "", instruction.mnemonic)


def registers(instruction: Instruction) -> int:
    """Registers between braces."""
    listed = re.search(r"\{(.*)\}", instruction.operands)
    count = 0
    for part in listed[1].split(",") if listed else ():
        first, _, last = part.strip().partition("-")
        count += int(last[1:]) - int(first[1:]) + 1 if last else 1
    return count


def cortex_m0_cycles(instruction: Instruction, runs: int, jumps: int) -> int:
    """Cycles without wait states, by the Cortex-M0 Technical Reference Manual (Arm DDI 0432C, table 3-1), 1-cycle MULS.

    A core with the 32-cycle multiplier takes 31 more for each multiplication.
    """
    name, count = plain(instruction), registers(instruction)
    if name == "pop" and "pc" in instruction.operands:
        return runs * (4 + count)
    if name.startswith(("push", "pop", "stm", "ldm")):
        return runs * (1 + count)
    if name == "bl":
        return runs * 4
    if name in ("bx", "blx"):
        return runs * 3
    if _CONDITIONAL.match(name):
        return runs + 2 * jumps
    return runs * (2 if name.startswith(("ldr", "str")) else 1)
