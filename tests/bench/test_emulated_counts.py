"""Counts are exact: of a program whose instructions are known one by one, in regions and by function."""

from __future__ import annotations

import pytest
from emulated import counting, isa
from emulated.counting import Counts
from emulated.elf import Instruction
from emulated.host import CACHE, program
from emulated.machine import run

from firmware_programs import compiled

LOOP = """
    #include "feed.h"
    static int memory[4];
    int loop(int *at);
    __asm__(".section .text.loop, \\"ax\\"\\n.global loop\\n.type loop, %function\\n.thumb_func\\n"
            ".syntax unified\\n"
            "loop:\\n"
            "movs r1, #10\\n"
            "1: ldr r2, [r0, #4]\\n"
            "muls r2, r1\\n"
            "str r2, [r0, #8]\\n"
            "subs r1, #1\\n"
            "bne 1b\\n"
            "ldmia r0!, {r1, r2, r3}\\n"
            "bx lr\\n"
            ".size loop, . - loop\\n.text\\n");
    int main(void) {
        for (int i = 0; i < 3; i++) {
            region_begin();
            loop(memory);
            region_end();
        }
        loop(memory);
        return 0;
    }
"""


def test_instructions_accesses_and_cycles_of_a_known_loop_are_exact(tmp_path):
    image = compiled("microbit", tmp_path, LOOP)
    counts = counting.by_function(image, run(image, count=True))["loop"]
    assert counts == Counts(
        instructions=4 * (1 + 10 * 5 + 2),
        loads=4 * (10 + 3),
        stores=4 * 10,
        multiplies=4 * 10,
        jumps=4 * (9 + 1),
        cycles=4 * (1 + 10 * (2 + 1 + 2 + 1 + 1) + 9 * 2 + 4 + 3),
    )
    assert counts.with_slow_multiplier() == counts.cycles + 31 * 40


def test_a_region_holds_what_runs_between_its_marks(tmp_path):
    image = compiled("microbit", tmp_path, LOOP)
    counts = counting.region(image, run(image, count=True))
    assert counts.multiplies == 30
    assert 3 * 53 < counts.instructions <= 3 * (53 + 5), "the loop, and the calls around it"


def test_functions_given_as_marks_begin_regions_of_their_own(tmp_path):
    text = LOOP.replace(
        "int main(void) {",
        "__attribute__((noinline)) void other(void) { loop(memory + 1); }\nint main(void) {\n        other();",
    )
    image = compiled("microbit", tmp_path, text)
    counts = counting.by_region(image, run(image, count=True, marks=["other", "loop"]))
    assert counts[2].multiplies == 50
    assert counts[1].instructions < 10, "other's own instructions, until loop begins the next region"


def test_counts_do_not_change_from_run_to_run(tmp_path):
    image = compiled("microbit", tmp_path, LOOP)
    assert run(image, count=True).executed == run(image, count=True).executed


def test_a_run_that_was_not_counted_has_no_counts(tmp_path):
    image = compiled("microbit", tmp_path, LOOP)
    with pytest.raises(ValueError, match="not counted"):
        counting.by_function(image, run(image))


def test_a_region_that_never_ran_is_refused(tmp_path):
    image = compiled("microbit", tmp_path, LOOP)
    with pytest.raises(ValueError, match="region 7 never ran"):
        counting.region(image, run(image, count=True), 7)


def test_avr_cycles_are_those_of_the_data_sheet(tmp_path):
    text = """
        void loop(void);
        __asm__(".section .text.loop, \\"ax\\"\\n.global loop\\n.type loop, @function\\n"
                "loop:\\n"
                "ldi r24, 10\\n"
                "1: mul r24, r24\\n"
                "dec r24\\n"
                "brne 1b\\n"
                "clr r1\\n"
                "ret\\n"
                ".size loop, . - loop\\n.text\\n");
        int main(void) { loop(); return 0; }
    """
    image = compiled("atmega328p", tmp_path, text)
    counts = counting.by_function(image, run(image, count=True))["loop"]
    assert counts.instructions == 1 + 30 + 2
    assert counts.cycles == 1 + 10 * (2 + 1) + 9 * 2 + 1 + 1 + 4
    assert counts.multiplies == 10


@pytest.mark.parametrize(
    ("mnemonic", "operands", "jumps", "cycles"),
    [
        ("adds", "r0, r1, r2", 0, 1), ("muls", "r0, r1", 0, 1), ("ldr", "r0, [r1]", 0, 2),
        ("strb", "r0, [r1, #3]", 0, 2), ("ldmia", "r0!, {r1, r2, r3}", 0, 4), ("push", "{r4, r5, lr}", 0, 4),
        ("pop", "{r4, r5}", 0, 3), ("pop", "{r4, r5, pc}", 1, 7), ("bl", "c4 <f>", 1, 4), ("bx", "lr", 1, 3),
        ("b.n", "10", 1, 3), ("beq.n", "10", 0, 1), ("beq.n", "10", 1, 3), ("bics", "r0, r1", 0, 1),
        ("stmia", "r0!, {r4-r7}", 0, 5),
    ],
)  # fmt: skip
def test_the_cycle_model_is_that_of_the_reference_manual(mnemonic, operands, jumps, cycles):
    assert isa.cortex_m0_cycles(Instruction(0, mnemonic, operands), 1, jumps) == cycles


def test_our_c_programs_are_built_once(tmp_path):
    compiled("microbit", tmp_path, "int main(void) { return 0; }")
    built = program("count.c")
    before = built.stat().st_mtime_ns
    assert program("count.c") == built
    assert built.stat().st_mtime_ns == before
    assert built.parent == CACHE
