"""The operators of bench/hardware: parameters by hand; with yosys, proofs that hold and one that must not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hardware import operators, synthesise

from bitshift.core.formats import FORMATS, ShiftFormat

needs_iverilog = pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")
needs_yosys = pytest.mark.skipif(shutil.which("yosys") is None, reason="yosys is not installed")


def simulate(case: str, folder: Path, inputs: Mapping[str, tuple[int, list[int]]], out: str, bits: int) -> np.ndarray:
    """What the operator ``case`` gives for each of ``inputs`` (bits and values), signed; behind a clock edge if any."""
    (operator,) = (o for o in operators.operators() if o.case == case)
    count = len(next(iter(inputs.values()))[1])
    clocked = "input clk" in operator.text
    for name, (width, values) in inputs.items():
        (folder / f"{name}.hex").write_text("".join(f"{value % (1 << width):x}\n" for value in values))
    regs = "".join(
        f'reg [{w - 1}:0] {n}; reg [{w - 1}:0] {n}_all [0:{count - 1}]; initial $readmemh("{n}.hex", {n}_all);\n'
        for n, (w, _) in inputs.items()
    )
    ports = ", ".join(f".{n}({n})" for n in [*inputs, *(["clk", "clear"] if clocked else [])])
    bench = (
        f"module bench;\n{regs}reg clk = 0, clear = 1; integer i; wire signed [{bits - 1}:0] y;\n"
        f"{operator.top} u ({ports}, .{out}(y));\ninitial begin #1 clk = 1; #1 clk = 0; clear = 0;\n"
        f"for (i = 0; i < {count}; i = i + 1) begin {' '.join(f'{n} = {n}_all[i];' for n in inputs)} "
        '#1 clk = 1; #1 clk = 0; $display("%0d", y); end end\nendmodule\n'
    )
    (folder / "bench.v").write_text(operator.text + bench)
    build = ["iverilog", "-g2005-sv", "-o", "bench", "bench.v", str(synthesise.SOURCE)]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    done = subprocess.run(["vvp", "bench"], cwd=folder, check=True, capture_output=True, text=True)
    return np.array([int(line) for line in done.stdout.split()])


@needs_iverilog
@pytest.mark.parametrize("format", ["pot3d", "pot4x2", "int4"])
def test_a_dot_product_unit_sums_what_numpy_sums(format: str, tmp_path: Path) -> None:
    rng, form = np.random.default_rng(3), FORMATS[format]
    codes = np.array([c for c in range(1 << form.bits) if c not in form.reserved])
    a = rng.integers(-128, 128, (200, operators.LANES))
    a[0] = -128
    w = rng.choice(codes, a.shape)

    def packed(values: np.ndarray, bits: int) -> tuple[int, list[int]]:
        rows = [sum((int(v) % (1 << bits)) << (bits * i) for i, v in enumerate(row)) for row in values]
        return bits * operators.LANES, rows

    index = {"negative": packed(w >> (form.bits - 1), 1), "index": packed(w % (1 << (form.bits - 1)), form.bits - 1)}
    weights = index if form.multiplication_free else {"w": packed(w, form.bits)}
    got = simulate(f"16-lane dot product int8 x {format}", tmp_path, {"a": packed(a, 8), **weights}, "acc", 24)
    want = np.cumsum((a * form.table[w]).sum(axis=1))
    np.testing.assert_array_equal(got, (want + (1 << 23)) % (1 << 24) - (1 << 23))


@needs_iverilog
@pytest.mark.parametrize("bits", [0, 16])
def test_a_requantiser_is_rule_4(bits: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    acc = [int(v) for v in rng.integers(-(1 << 31), 1 << 31, 300)]
    mult = [int(v) for v in rng.integers(1, 1 << bits, 300)] if bits else [1] * 300
    shift = [int(v) for v in rng.integers(bits + 20, bits + 32, 300)]
    offset = [int(v) for v in rng.integers(-(1 << 40 if bits else 1 << 31), 1 << (40 if bits else 31), 300)]
    inputs = {"acc": (32, acc), "offset": (32 + bits, offset), "shift": (6 if bits else 5, shift)}
    case = f"requantise: {bits}-bit multiplier" if bits else "requantise: shift"
    got = simulate(case, tmp_path, inputs | ({"mult": (bits, mult)} if bits else {}), "y", 8)
    wide = [(a * m + o) >> s for a, m, o, s in zip(acc, mult, offset, shift, strict=True)]
    np.testing.assert_array_equal(got, np.clip(np.array(wide, dtype=object), -128, 127).astype(int))
    assert len(np.unique(got)) > 50


@needs_iverilog
def test_the_usual_requantiser_rounds_the_upper_half_of_the_product_and_then_the_shift(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    acc = [-(1 << 31), (1 << 31) - 1, *(int(v) for v in rng.integers(-(1 << 31), 1 << 31, 300))]
    mult = [(1 << 31) - 1, (1 << 31) - 1, *(int(v) for v in rng.integers(1 << 30, 1 << 31, 300))]
    shift = [0, 31, *(int(v) for v in rng.integers(20, 28, 300))]
    inputs = {"acc": (32, acc), "mult": (31, mult), "shift": (5, shift)}
    got = simulate("requantise: 31-bit multiplier", tmp_path, inputs, "y", 8)
    high = [(a * m + (1 << 30)) >> 31 for a, m in zip(acc, mult, strict=True)]
    want = [min(127, max(-128, (h + ((1 << s) >> 1)) >> s)) for h, s in zip(high, shift, strict=True)]
    np.testing.assert_array_equal(got, want)
    assert len(np.unique(got)) > 50


def test_powers_of_two_are_shifts_by_the_index() -> None:
    text = operators.parameters(FORMATS["pot3d"], product_bits=11)
    assert text == (
        ".A(8), .I(2), .P(11), .KB(2), .FAR(0), .ZERO(0), .K({2'd3, 2'd2, 2'd1, 2'd0}), .D({4'd0, 4'd0, 4'd0, 4'd0})"
    )


def test_two_terms_are_a_shift_and_a_distance() -> None:
    """apot4 has 0, 1, 2, 3, 4, 6, 8, 10: 3 = 1 + 2, 6 = 2 + 4, 10 = 2 + 8; the tables stand last index first."""
    text = operators.parameters(FORMATS["apot4"], product_bits=12)
    assert ".FAR(2), .ZERO(1)" in text
    assert ".K({2'd1, 2'd3, 2'd1, 2'd2, 2'd0, 2'd1, 2'd0, 2'd0})" in text
    assert ".D({4'd2, 4'd0, 4'd1, 4'd0, 4'd1, 4'd0, 4'd0, 4'd0})" in text


def test_products_are_wide_enough_for_the_least_activation() -> None:
    assert operators.magnitude_bits(FORMATS["pot3d"]) == 11  # -128 * 8 = -2**10
    assert operators.magnitude_bits(FORMATS["apot4"]) == 12  # -128 * 10 = -1280


def test_a_format_of_three_terms_is_refused_by_name() -> None:
    three = ShiftFormat("pot2x3", 2, (1, 7, -1, -7), (), "a test")
    with pytest.raises(ValueError, match=r"'pot2x3'.*at most two powers of two"):
        operators.parameters(three, product_bits=12)


def test_every_integer_format_has_a_unit_and_every_shift_format_its_proofs() -> None:
    cases = [operator.case for operator in operators.operators()]
    assert len(set(cases)) == len(cases)
    proved = {proof.case for proof in operators.proofs()}
    for f in FORMATS.values():
        if not f.float_only:
            assert f"multiply-accumulate int8 x {f.name}" in cases
            assert (f"multiply-accumulate int8 x {f.name}" in proved) == f.multiplication_free
            assert (f"product int8 x {f.name}" in proved) == f.multiplication_free


def test_without_the_tools_it_says_what_to_install(tmp_path: Path) -> None:
    script = Path(synthesise.__file__)
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "apt-get install yosys opensta qflow-tech-osu018" in done.stderr


@needs_yosys
@pytest.mark.parametrize("case", ["product int8 x pot3d", "product int8 x pot4x2", "product fp16 x pot3d"])
def test_the_solver_proves_an_operator_for_all_inputs(case: str, tmp_path: Path) -> None:
    (proof,) = (p for p in operators.proofs() if p.case == case)
    row = synthesise.prove(proof, tmp_path)
    assert row.value == {"product int8 x pot3d": 2048, "product int8 x pot4x2": 4096}.get(case, 2 * 31 * 1024 * 8)


@needs_yosys
def test_the_solver_refuses_an_operator_that_is_wrong_for_one_code(tmp_path: Path) -> None:
    (proof,) = (p for p in operators.proofs() if p.case == "product int8 x pot3d")
    wrong = replace(proof, text=proof.text.replace(".K({2'd3, 2'd2, 2'd1, 2'd0})", ".K({2'd3, 2'd2, 2'd2, 2'd0})"))
    assert wrong != proof
    with pytest.raises(synthesise.ToolError, match="product int8 x pot3d: yosys failed"):
        synthesise.prove(wrong, tmp_path)


@needs_yosys
@pytest.mark.slow
@pytest.mark.skipif(not synthesise.LIBERTY.is_file(), reason="qflow-tech-osu018 is not installed")
def test_a_shift_unit_has_fewer_luts_and_gates_than_an_int4_one(tmp_path: Path) -> None:
    nand2 = synthesise.nand2_area(synthesise.LIBERTY)
    wanted = {"multiply-accumulate int8 x pot3d", "multiply-accumulate int8 x int4"}
    made = {
        o.case: {
            row.metric: row.value for row in synthesise.measure(o, tmp_path, synthesise.LIBERTY, nand2, power=False)
        }
        for o in operators.operators()
        if o.case in wanted
    }
    shift, int4 = (made[name] for name in sorted(wanted, reverse=True))
    assert set(shift) == {"LUT4", "gates", "area", "delay"}
    assert shift["LUT4"] < int4["LUT4"]
    assert shift["gates"] < int4["gates"]
