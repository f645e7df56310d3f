"""Every board starts, runs, takes inputs, gives outputs, and its faults and refusals are told."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest
from emulated.build import TooLargeError
from emulated.host import MissingToolError, call
from emulated.machine import RunFailedError, run
from emulated.network import build_network

from bitshift.backends.c99.boards import BOARDS, get_board, with_boards
from bitshift.backends.c99.example import example_files
from bitshift.backends.c99.targets import TARGETS, get_target
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node, Value
from firmware_programs import QUICK, board, compiled

ADD_LAST = """
    #include "model.h"

    static int16_t total = 5; /* initial data */
    static uint8_t seen[300]; /* zeroed data */

    void model_run(const int8_t *x, const int16_t *w, int16_t *y, uint8_t *z) {
        for (int i = 0; i < 3; i++) {
            total = (int16_t)(total + *x++ + *w++);
            *y++ = total;
        }
        seen[299]++;
        *z = seen[299];
    }

    int model_selftest(void) {
        const int8_t x[3] = {1, 2, 3};
        const int16_t w[3] = {0, 0, EXTRA};
        int16_t y[3];
        uint8_t z;
        model_run(x, w, y, &z);
        return y[2] != 11;
    }
"""
HEADER = """
    #include <stdint.h>
    void model_run(const int8_t *x, const int16_t *w, int16_t *y, uint8_t *z);
    int model_selftest(void);
"""


def two_ports() -> Graph:
    """A graph with the ports of ``model_run``; its nodes do not matter here."""
    shapes = {"x": (3,), "w": (3,), "y": (3,), "t": (1,), "z": (1,)}
    types = {"x": FixedPoint(8, 0), "w": FixedPoint(16, 0), "y": FixedPoint(16, 0), "z": FixedPoint(8, 0, signed=False)}
    types["t"] = types["w"]
    nodes = (
        Node("add", ("x", "w"), "y"),
        Node("slice", ("w",), "t", {"start": (0,), "stop": (1,), "step": (1,)}),
        Node("requantize", ("t",), "z"),
    )
    return Graph(("x", "w"), ("y", "z"), {n: Value(n, shapes[n], types[n]) for n in shapes}, nodes, {})


def write_model(folder, *, extra: int = 0):
    folder.mkdir(exist_ok=True)
    (folder / "model.h").write_text(HEADER)
    (folder / "model.c").write_text(ADD_LAST.replace("EXTRA", str(extra)))
    (folder / "model_selftest.c").write_text("#include <stdint.h>\n")
    return folder


def check_ports(name: str, tmp_path) -> None:
    """Feed 200 samples through both inputs and compare both outputs; data and bss must have been initialised."""
    network = build_network(write_model(tmp_path), two_ports(), board(name).targets[0], tmp_path, boards=[board(name)])
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (200, 3)).astype(np.int8)
    w = rng.integers(-100, 100, (200, 3)).astype(np.int16)
    got, _ = network.evaluate({"x": x, "w": w})
    running = 5 + np.cumsum((x + w).astype(np.int64).reshape(-1))
    assert np.array_equal(got["y"], running.astype(np.int16).reshape(200, 3))
    assert np.array_equal(got["z"][:, 0], np.arange(1, 201).astype(np.uint8))


@pytest.mark.parametrize("name", QUICK)
def test_every_input_byte_arrives_and_every_output_byte_comes_back(name, tmp_path):
    check_ports(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BOARDS if name not in QUICK])
def test_the_other_boards_move_the_same_bytes(name, tmp_path):
    check_ports(name, tmp_path)


def example(name: str, folder, *, extra: int = 0) -> subprocess.CompletedProcess:
    """``make run`` in an example beside the small model."""
    write_model(folder, extra=extra)
    (folder / "example").mkdir()
    for file, text in example_files("model", board(name)).items():
        (folder / "example" / file).write_text(text)
    return subprocess.run(["make", "-C", str(folder / "example"), "run"], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", QUICK)
def test_make_run_in_the_example_prints_that_the_self_test_passed(name, tmp_path):
    done = example(name, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "model: self-test passed" in done.stdout


@pytest.mark.parametrize("name", ["microbit", "virt-rv32i", "atmega328p"])
def test_make_run_in_the_example_fails_when_an_output_differs(name, tmp_path):
    done = example(name, tmp_path, extra=1)
    assert done.returncode != 0
    assert "model: self-test FAILED" in done.stdout


def test_the_example_names_the_missing_compiler_and_its_package(tmp_path):
    write_model(tmp_path)
    (tmp_path / "example").mkdir()
    for file, text in example_files("model", BOARDS["microbit"]).items():
        (tmp_path / "example" / file).write_text(text)
    command = ["make", "-C", str(tmp_path / "example"), "CC=no-such-gcc"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "no-such-gcc is missing: apt-get install gcc-arm-none-eabi" in done.stdout


def test_no_word_of_the_example_stays_unfilled():
    for name, item in BOARDS.items():
        for file, text in example_files("net", item).items():
            assert not re.search(r"@[A-Z]+@", text), f"{name}: {file}"


@pytest.mark.parametrize("name", ["microbit", "virt-rv32i"])
def test_a_fault_ends_the_run_with_a_message(name, tmp_path):
    trap = "udf #0" if name == "microbit" else ".word 0"
    image = compiled(name, tmp_path, f'int main(void) {{ __asm__ volatile("{trap}"); return 0; }}')
    with pytest.raises(RunFailedError, match="fault: illegal instruction"):
        run(image)


@pytest.mark.parametrize("name", ["microbit", "virt-rv32i"])
def test_the_status_of_main_is_the_emulators(name, tmp_path):
    image = compiled(name, tmp_path, "int main(void) { return 7; }")
    with pytest.raises(RunFailedError, match="exit status 7"):
        run(image)


@pytest.mark.parametrize("name", ["microbit", "atmega328p"])
def test_a_program_that_never_ends_is_stopped_and_named(name, tmp_path):
    image = compiled(name, tmp_path, 'int main(void) { for (;;) { __asm__ volatile(""); } }')
    with pytest.raises(RunFailedError, match="did not end within 1 seconds"):
        run(image, timeout=1)


@pytest.mark.parametrize("name", ["microbit", "atmega328p"])
def test_data_beyond_the_memory_of_the_board_is_refused_with_its_numbers(name, tmp_path):
    size = BOARDS[name].ram - 40
    text = f'char big[{size}]; int main(void) {{ __asm__ volatile("" :: "r"(big)); return 0; }}'
    with pytest.raises(TooLargeError, match=rf"{name} has .* of RAM; the program takes .* and {size}"):
        compiled(name, tmp_path, text)


@pytest.mark.slow
def test_a_network_too_large_for_one_board_goes_to_the_next(tmp_path):
    write_model(tmp_path)
    (tmp_path / "model.c").write_text(ADD_LAST.replace("EXTRA", "0").replace("300", "20000").replace("299", "19999"))
    board("microbit")
    network = build_network(tmp_path, two_ports(), "cortex-m0", tmp_path)
    assert network.image.board.name == "microbit-large"


def test_the_board_of_a_target_is_the_smallest_that_fits():
    assert get_board("cortex-m0").name == "microbit"
    assert get_board("cortex-m0", ram=16 * 1024).name == "microbit-large"
    assert [get_board("avr", ram=ram).name for ram in (1000, 4000, 40000)] == [
        "atmega328p",
        "atmega2560",
        "atmega2560-xmem",
    ]


def test_a_budget_that_no_board_has_is_refused_with_the_largest():
    with pytest.raises(ValueError, match=r"no emulated avr board .* atmega2560-xmem, has 262_144 and 56_832"):
        get_board("avr", ram=60000)
    with pytest.raises(ValueError, match="'generic' has no emulated board; with a board: cortex-m0"):
        get_board("generic")


def test_every_target_with_a_cross_compiler_has_a_board():
    assert set(with_boards()) == {name for name in TARGETS if get_target(name).compiler}


def test_a_tool_that_is_not_installed_is_named():
    with pytest.raises(MissingToolError, match="no-such-tool is not installed"):
        call(["no-such-tool"])
