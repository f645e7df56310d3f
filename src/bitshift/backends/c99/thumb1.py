"""The inner loop of packed codes in Thumb-1 assembly, for Cortex-M0: GCC loads four words one by one, and spills.

One LDM loads a table entry of four words, and four sums stay in the high registers, which can be added to but not
loaded: 13 cycles a look-up. The C function of the same name and contract stands beside it for all other compilers.
"""

from __future__ import annotations

from bitshift.backends.c99.text import Lines, indent

CONDITION = (
    "defined(__GNUC__) && !defined(__clang__) && defined(__thumb__) && !defined(__thumb2__) && !defined(BS_NO_ASSEMBLY)"
)
SAVED = ["mov r4, r8", "mov r5, r9", "mov r6, r10", "mov r7, r11", "push {r4, r5, r6, r7}"]
RESTORED = ["pop {r4, r5, r6, r7}", "mov r8, r4", "mov r9, r5", "mov r10, r6", "mov r11, r7"]


def _plus(register: str, amount: int) -> Lines:
    """``register += amount`` in steps that fit an immediate."""
    steps = [255] * (amount // 255) + [amount % 255]
    return [f"adds {register}, #{step}" for step in steps if step]


def _look(bits: int, at: int) -> Lines:
    """Add the entry of the code at bit ``at`` of r1, of the row at r0, to r8..r11; r0 goes on to the next row."""
    place = "lsls r2, r1, #" if at < 4 else "lsrs r2, r1, #"
    return [
        *([f"{place}{abs(4 - at)}", "ands r2, r7"] if at != 4 else ["movs r2, r1", "ands r2, r7"]),
        "adds r2, r2, r0", "ldmia r2!, {r3, r4, r5, r6}",
        "add r8, r3", "add r9, r4", "add r10, r5", "add r11, r6",
        *_plus("r0", 16 << bits),
    ]  # fmt: skip


def add(name: str, bits: int) -> Lines:
    """``void NAME(table, codes, boxes, rest, sum)`` for four words an entry and codes in 32-bit boxes.

    r0: row; r1: codes of a box; r7: mask; lr: next box; r12: boxes left; on the stack: rest, then sum.
    """
    mask = (1 << bits) - 1
    body = [step for code in range(32 // bits) for step in _look(bits, code * bits)]
    # A conditional branch reaches 256 bytes.
    done = ["bcc 2f"] if len(body) < 112 else ["bcs 5f", "b 2f", "5:"]
    steps = [
        ".syntax unified",
        "push {r4, r5, r6, r7, lr}", *SAVED, "ldr r4, [sp, #36]", "push {r3}",
        "ldmia r4!, {r3, r5, r6, r7}", "mov r8, r3", "mov r9, r5", "mov r10, r6", "mov r11, r7",
        *([f"movs r7, #{mask << 4}"] if mask << 4 < 256 else [f"movs r7, #{mask}", "lsls r7, r7, #4"]),
        "mov lr, r1",
        "1:", "subs r2, #1", *done, "mov r12, r2", "mov r2, lr", "ldmia r2!, {r1}", "mov lr, r2",
        *body,
        "mov r2, r12", "b 1b",
        "2:", "pop {r1}", "b 4f",
        "3:", *_look(bits, 0), f"lsrs r1, r1, #{bits}",
        "4:", "cmp r1, #1", "bne 3b",
        "ldr r4, [sp, #36]", "mov r0, r8", "mov r1, r9", "mov r2, r10", "mov r3, r11", "stmia r4!, {r0, r1, r2, r3}",
        *RESTORED, "pop {r4, r5, r6, r7, pc}",
    ]  # fmt: skip
    unused = "__attribute__((unused))"
    return [
        f"__attribute__((naked, noipa)) static void {name}(",
        f"    {unused} const uint32_t *table, {unused} const uint32_t *codes, {unused} uint_fast16_t boxes,",
        f"    {unused} uint32_t rest, {unused} uint32_t *sum)",
        "{",
        "    __asm__(",
        *indent([f'"{step}\\n"' for step in steps], 2),
        "    );",
        "}",
    ]


__all__ = ["CONDITION", "add"]
