"""Every proof of "nothing multiplies" fails on a program that does, and passes on one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulated import isa, multiplications
from emulated.elf import Instruction
from emulated.machine import RunFailedError, run

from firmware_programs import QUICK, compiled

PRODUCT = """
    #include <stdint.h>
    volatile int16_t a = 11, b = 13, result;
    __attribute__((noinline)) void times(void) { result = a * b; }
    __attribute__((noinline)) void shifts(void) { result = (a << 3) + b; }
    int main(void) { times(); shifts(); return 0; }
"""
NO_PRODUCT = PRODUCT.replace("a * b", "a + b")
WITH_MULTIPLIER = tuple(name for name in QUICK if name != "virt-rv32i")


@pytest.mark.parametrize("name", WITH_MULTIPLIER)
def test_a_multiply_instruction_is_found_in_the_function_that_holds_it(name, tmp_path):
    found = multiplications.in_code(compiled(name, tmp_path, PRODUCT).objects["program.c"])
    assert {item.function for item in found} == {"times"}
    assert "mul" in found[0].text or "mla" in found[0].text


@pytest.mark.parametrize("name", WITH_MULTIPLIER)
def test_shifts_and_adds_are_no_multiplication(name, tmp_path):
    assert multiplications.in_code(compiled(name, tmp_path, NO_PRODUCT).objects["program.c"]) == ()


@pytest.mark.parametrize("name", WITH_MULTIPLIER)
def test_executed_multiplications_are_counted_in_their_function_only(name, tmp_path):
    image = compiled(name, tmp_path, PRODUCT)
    counted = run(image, count=True)
    assert multiplications.executed(image, counted, ["times", "shifts"]) >= 1
    assert multiplications.executed(image, counted, ["shifts"]) == 0


def test_a_count_over_functions_that_never_ran_proves_nothing(tmp_path):
    image = compiled("microbit", tmp_path, PRODUCT)
    with pytest.raises(ValueError, match="none of the functions ran"):
        multiplications.executed(image, run(image, count=True), ["model_run"])


@pytest.mark.parametrize(
    ("name", "text", "helper"),
    [
        ("virt-rv32i", "return a * b;", "__mulsi3"),
        ("virt-rv32i", "return a / b;", "__divsi3"),
        ("microbit", "return a % b;", "__aeabi_idivmod"),
        ("microbit", "return (int)(((int64_t)a * b) >> 20);", "__aeabi_lmul"),
        ("mps2-an386", "return (float)a < 1.5f;", "__aeabi_fcmplt"),
        ("atmega328p", "return (int)(((int32_t)a << 3) / b);", "__divmodsi4"),
    ],
)
def test_what_needs_libgcc_to_multiply_does_not_link_and_is_named(name, text, helper, tmp_path):
    program = f"#include <stdint.h>\nvolatile int a = 3, b = 4;\nint main(void) {{ {text} }}"
    with pytest.raises(RuntimeError, match=f"undefined reference to `{helper}'"):
        compiled(name, tmp_path, program)
    prefix = {"virt-rv32i": "riscv64-unknown-elf-", "atmega328p": "avr-"}.get(name, "arm-none-eabi-")
    built = multiplications.Elf(tmp_path / "out" / "program.c.o", prefix)
    assert helper in multiplications.helpers(built)
    assert any(helper in item.text for item in multiplications.in_code(built))


def test_rv32i_traps_on_a_multiply_instruction_and_rv32im_runs_it(tmp_path):
    program = """
        int main(void) {
            volatile int a = 6, b = 7;
            int product, x = a, y = b;
            __asm__ volatile(".option push\\n.option arch, +m\\nmul %0, %1, %2\\n.option pop"
                             : "=r"(product) : "r"(x), "r"(y));
            return product != 42;
        }
    """
    run(compiled("virt-rv32im", tmp_path / "with", program))
    with pytest.raises(RunFailedError, match="fault: illegal instruction"):
        run(compiled("virt-rv32i", tmp_path / "without", program))


def test_a_flash_table_of_avr_that_reads_like_code_is_no_multiplication(tmp_path):
    table = """
        #include <avr/pgmspace.h>
        static const unsigned table[4] PROGMEM = {0x9c01, 0x0213, 0x0301, 0x9fff};
        __attribute__((noinline)) unsigned value(unsigned char i) { return pgm_read_word(&table[i]); }
        volatile unsigned char index = 2;
        int main(void) { return value(index) != 0x0301; }
    """
    image = compiled("atmega328p", tmp_path, table)
    assert multiplications.in_code(image.elf) == ()
    run(image)


def mnemonics(text: str) -> list[Instruction]:
    return [Instruction(0, word, "") for word in text.split()]


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        (
            "arm",
            "mul muls mla mls smulbb smlabb smlad smuad smull umull umlal umaal smmul sdiv udiv vmul.f32 vfma.f32",
            "movs mov.w lsls adds add.w sub mvn ldmia stmia umax smax ssat usat uxtb sxth",
        ),
        ("riscv", "mul mulh mulhsu div divu rem fmul.s fmadd.s fdiv.d", "mv slli add sub srai li mret fence"),
        ("avr", "mul muls mulsu fmul fmuls", "mov movw add adc sub lsl rol lpm"),
    ],
)
def test_mnemonics_are_told_apart(name, bad, good):
    assert [i.mnemonic for i in mnemonics(bad) if not isa.multiplies(i, name)] == []
    assert [i.mnemonic for i in mnemonics(good) if isa.multiplies(i, name)] == []


def test_helpers_of_other_kinds_are_not_taken_for_multiplications():
    for name in ("memcpy", "memset", "__do_copy_data", "__aeabi_memcpy", "__aeabi_lasr", "__ashldi3", "multiple"):
        assert not multiplications.HELPER.match(name), name
    for name in ("__aeabi_lmul", "__aeabi_uidiv", "__aeabi_fmul", "__aeabi_i2f", "__mulsi3", "__mulhi3", "__umulhisi3",
                 "__divdi3", "__umodsi3", "__addsf3", "__floatsisf", "__fixsfsi"):  # fmt: skip
        assert multiplications.HELPER.match(name), name


def test_the_proof_covers_no_file_but_the_one_it_is_asked_about(tmp_path: Path):
    image = compiled("microbit", tmp_path, PRODUCT)
    assert multiplications.in_code(image.objects["board_arm.c"]) == ()
    assert multiplications.in_code(image.elf, ["shifts"]) == ()
    assert len(multiplications.in_code(image.elf, ["times"])) == 1


def test_the_multiply_instruction_that_avr_gcc_makes_of_a_shift_is_found(tmp_path):
    shift = """
        #include <stdint.h>
        volatile int8_t a = 11;
        volatile int16_t result;
        int main(void) { result = (int16_t)((uint16_t)(int16_t)a << 3); return 0; }
    """
    assert multiplications.in_code(compiled("atmega328p", tmp_path, shift).objects["program.c"]) != ()


def test_a_multiplication_behind_a_loop_of_a_risc_v_object_is_found(tmp_path):
    text = """
        volatile int a = 3;
        int main(void) { int s = 0; while (a) { s += a; } return s * a; }
    """
    found = multiplications.in_code(compiled("virt-rv32im", tmp_path, text).objects["program.c"])
    assert [item.function for item in found] == ["main"]
