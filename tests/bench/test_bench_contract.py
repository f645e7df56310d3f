"""Every benchmark keeps the contract of bench/README.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import tables
from emulated.host import missing

from bitshift.backends.c99.boards import BOARDS

BENCH = Path(__file__).resolve().parents[2] / "bench"
SHARED = {"common.py", "nets.py", "torch_nets.py", "freezing_plots.py", "cifar_cases.py", "seeds.py"}
NEEDS_DATA = {"mcu_exact.py", "bf16_latents.py", "freezing.py", "transfer.py", "transfer_segmentation.py"}
"""Beside cifar_*.py: they train on data sets that a test does not have."""
FILES = sorted(path for path in BENCH.glob("*.py") if path.name not in SHARED)


def calls(path: Path) -> set[str]:
    """Names of all functions that the file calls."""
    nodes = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {f.id if isinstance(f, ast.Name) else f.attr for f in nodes if isinstance(f, ast.Name | ast.Attribute)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_says_what_it_measures_and_checks_equality_before_it_times(path: Path) -> None:
    called = calls(path)
    assert "main" in called, f"{path.name} must end in common.main"
    if called & {"paired", "interleave", "perf_counter", "time", "process_time"}:
        checks = {"check_equal", "check_exact"}
        assert called & checks, f"{path.name} times something: it must call common.check_equal (or check_exact) first"
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [p for p in FILES if not p.name.startswith("cifar_") and p.name not in NEEDS_DATA],
    ids=lambda path: path.stem,
)
def test_its_quick_run_writes_rows_of_the_contract(path: Path, tmp_path: Path) -> None:
    if path.stem == "mcu" and (reason := missing(BOARDS["microbit-large"])):
        pytest.skip(reason)
    out = tmp_path / "out.json"
    command = [sys.executable, str(path), "--quick", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tables.load(out)
