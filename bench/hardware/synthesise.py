"""What the operators of ``operators.v`` cost, synthesised with free tools; docs/hardware.md has this command's figures:

    apt-get install yosys opensta qflow-tech-osu018
    .venv/bin/python bench/hardware/synthesise.py --json docs/results/hardware.json && make generate

First yosys' SAT solver proves every shift operator equal to activation times level. Then, for each operator: LUT4 of
an iCE40 (no DSP block), and, mapped to the OSU 0.18 um library by abc, area, gates (area in NAND2 of that library) and
the longest path. Power is OpenSTA's, vectorless: every input changes in half of the cycles of 20 ns; a ratio only.
Without OpenSTA there is no power. About two minutes of processor time.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import Row, arguments, main

from hardware.operators import Operator, Proof, operators, proofs

SOURCE = Path(__file__).with_name("operators.v")
LIBERTY = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")
INSTALL = "apt-get install yosys opensta qflow-tech-osu018"
MAP = "+strash;dc2;dretime;strash;&get,-n;&dch,-f;&nf;&put;topo;stime,-p"
"""What yosys gives to abc for a library without the sweeps (``&fraig -x``, ``scorr``), and the mapped netlist's time.

The sweeps look for equal nodes by SAT. In a unit of int8 they find none (the same netlist comes out); in a multiplier
of 31 bits they take five seconds or do not end, by the order of its wires."""
PERIOD_NS, ACTIVITY, LOAD_PF = 20, 0.5, 0.01


class ToolError(RuntimeError):
    """A tool that failed or wrote what cannot be read; names the operator."""


def prove(proof: Proof, folder: Path) -> Row:
    """The row of one proof.

    Raises:
        ToolError: the operator differs, with yosys' counterexample, or the solver failed.
    """
    (folder / "proof.v").write_text(proof.text)
    _yosys(
        f"read_verilog {SOURCE} proof.v; hierarchy -top {proof.top}; proc; flatten; opt; memory_map; opt -full; "
        f"sat -prove ok 1 -verify -show-inputs {proof.top}",
        folder,
        proof.case,
    )
    return Row(case=proof.case, metric="inputs proved equal", value=proof.inputs, unit="inputs")


def measure(operator: Operator, folder: Path, liberty: Path, nand2: float, *, power: bool) -> list[Row]:
    """Its rows: LUT4, area, gates, delay and, with OpenSTA, power."""
    (folder / "top.v").write_text(operator.text)
    read = f"read_verilog {SOURCE} top.v; hierarchy -top {operator.top}"
    _yosys(f"{read}; synth_ice40 -flatten -top {operator.top}; tee -o luts.txt stat", folder, operator.case)
    # a process of its own: behind another synthesis names are numbered otherwise, and abc's result follows their order
    log = _yosys(
        f"{read}; synth -flatten -noabc -top {operator.top}; dfflibmap -liberty {liberty}; "
        f"abc -liberty {liberty} -script {MAP}; "
        f"opt_clean; tee -o area.txt stat -liberty {liberty}; splitnets -ports; opt_clean -purge; "
        f"write_verilog -noattr mapped.v",
        folder,
        operator.case,
    )
    luts = int(_found(r"SB_LUT4\s+(\d+)", (folder / "luts.txt").read_text(), operator.case))
    area = float(_found(r"Chip area for (?:top )?module.*: ([\d.]+)", (folder / "area.txt").read_text(), operator.case))
    delay = float(_found(r"Delay =\s*([\d.]+) ps", log, operator.case)) / 1e3
    rows = [
        Row(case=operator.case, metric="LUT4", value=luts, unit="iCE40"),
        Row(case=operator.case, metric="gates", value=round(area / nand2), unit="NAND2"),
        Row(case=operator.case, metric="area", value=area, unit="um2"),
        Row(case=operator.case, metric="delay", value=round(delay, 3), unit="ns"),
    ]
    if power:
        rows.append(Row(case=operator.case, metric="power", value=_power(operator, folder, liberty), unit="mW"))
    return rows


def nand2_area(liberty: Path) -> float:
    """Area of the library's smallest two-input NAND."""
    text = liberty.read_text()
    cells = re.findall(r"cell \((NAND2\w*)\)\s*\{.*?area\s*:\s*([\d.]+)", text, re.DOTALL)
    if not cells:
        raise ToolError(f"{liberty}: no cell NAND2... with an area")
    return min(float(area) for _, area in cells)


def versions(*, power: bool) -> dict[str, str]:
    """What ran, as the tools call themselves."""
    tools = {"yosys": ["yosys", "-V"], **({"OpenSTA": ["sta", "-version"]} if power else {})}
    return {
        name: subprocess.run(c, capture_output=True, text=True, check=True).stdout.strip() for name, c in tools.items()
    }


def _power(operator: Operator, folder: Path, liberty: Path) -> float:
    """Milliwatts of the mapped netlist, vectorless."""
    clock = "[get_ports clk]" if "input clk" in operator.text else ""
    (folder / "power.tcl").write_text(
        f"read_liberty {liberty}\nread_verilog mapped.v\nlink_design {operator.top}\n"
        f"create_clock -name c -period {PERIOD_NS} {clock}\nset_input_delay 0 -clock c [all_inputs]\n"
        f"set_load {LOAD_PF} [all_outputs]\nset_power_activity -input -activity {ACTIVITY} -duty 0.5\n"
        "report_power -digits 6\nexit\n"
    )
    done = subprocess.run(
        ["sta", "-no_splash", "-exit", "power.tcl"], cwd=folder, capture_output=True, text=True, check=False
    )
    watts = _found(
        r"^Total\s+\S+\s+\S+\s+\S+\s+(\S+)", done.stdout, f"{operator.case}: OpenSTA\n{done.stdout}{done.stderr}"
    )
    return round(float(watts) * 1e3, 4)


def _yosys(script: str, folder: Path, case: str) -> str:
    done = subprocess.run(["yosys", "-p", script], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"{case}: yosys failed\n{done.stdout[-2000:]}{done.stderr}")
    return done.stdout


def _found(pattern: str, text: str, case: str) -> str:
    """The last match: yosys prints a statistic after each of its passes, too."""
    matches = re.findall(pattern, text, re.MULTILINE)
    if not matches:
        raise ToolError(f"{case}: found nothing for {pattern}")
    return matches[-1]


def rows(options: argparse.Namespace) -> Sequence[Row]:
    """Proofs first; then every operator."""
    power = shutil.which("sta") is not None
    if shutil.which("yosys") is None or not options.liberty.is_file():
        raise SystemExit(f"this needs yosys and the library {options.liberty}: {INSTALL}")
    if not power:
        print(f"no OpenSTA (sta): the rows have no power; {INSTALL}", file=sys.stderr)
    chosen = ("pot3d",) if options.quick else ()
    made: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made += [prove(p, folder) for p in proofs() if not chosen or p.case.endswith(chosen)]
        nand2 = nand2_area(options.liberty)
        for operator in operators():
            if not chosen or operator.case.endswith(chosen):
                print(operator.case, file=sys.stderr, flush=True)
                made += measure(operator, folder, options.liberty, nand2, power=power)
    options.extra = {
        "tools": versions(power=power),
        "library": f"{options.liberty.name}: NAND2 of {nand2:g} um2",
        "power": f"vectorless, inputs change in {ACTIVITY:g} of the cycles of {PERIOD_NS} ns, {LOAD_PF} pF an output",
    }
    return made


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--liberty", type=Path, default=LIBERTY, metavar="FILE", help="cells to map to (%(default)s)")
    main(__doc__, rows, parser=parser)
