"""Packed codes read one after the other."""

from __future__ import annotations

from bitshift.backends.c99.text import Lines


def streamed(bits: int, pointer: str) -> tuple[Lines, Lines]:
    """What stands before a row, and what defines ``code``, the row's next one; ``pointer`` ends behind the row.

    Compilers do not see how many bits are held: in an unrolled loop GCC makes a multiplication of a byte's shift by a
    constant.
    """
    if bits == 8:
        return [], [f"const uint_fast8_t code = (uint8_t)BS_READ8({pointer});", f"{pointer}++;"]
    return ["uint16_t held = 0;", "uint8_t have = 0;"], [
        "BS_OPAQUE(have);",
        f"if (have < {bits}) {{",
        f"    held = (uint16_t)(held | (uint16_t)((uint16_t)BS_READ8({pointer}) << have));",
        f"    {pointer}++;",
        "    have = (uint8_t)(have + 8);",
        "}",
        f"const uint_fast8_t code = (uint_fast8_t)(held & {(1 << bits) - 1});",
        f"held = (uint16_t)(held >> {bits});",
        f"have = (uint8_t)(have - {bits});",
    ]
