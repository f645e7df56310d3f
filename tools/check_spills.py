"""Fails if a micro-kernel keeps vectors on the stack inside its innermost loop.

gcc does so without a word when a kernel needs one register too many, and the kernel then runs at half its rate.
Looks at every function whose name holds "micro" in the given object files or libraries: its innermost loops that hold
a dot product must not write a vector register to the stack. (They may read one: a table that never changes.)

    python tools/check_spills.py build/libbitshift.a [--objdump aarch64-linux-gnu-objdump]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

DOT = re.compile(r"\b(vpdpbusd|vpmaddubsw|vfmadd\d+ps|fmla|[us]dot|usdot|[us]mlal2?|[us]mull2?)\b")
WRITE = re.compile(r"%[xyz]mm\d+,[^%]*\((%rsp|%rbp)[^)]*\)|^\s*[qv]\d+.*\[(sp|x29)\b")
LINE = re.compile(r"^\s*([0-9a-f]+):\t(\S+)\s*(.*)$")
JUMP = re.compile(r"^(j[a-z]+|b(\.[a-z]+)?|cbn?z|tbn?z)$")


@dataclass(frozen=True)
class Instruction:
    """A line of objdump."""

    address: int
    name: str
    operands: str


def functions(path: str, objdump: str) -> Iterator[tuple[str, list[Instruction]]]:
    """Name and instructions of each function with "micro" in its name."""
    command = [objdump, "-d", "-C", "--no-show-raw-insn", path]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for part in re.split(r"\n\n+", text):
        head = re.match(r"\s*[0-9a-f]+ <(.*)>:\n", part)
        if head is None or "micro" not in head[1].replace("(anonymous namespace)", "").split("(")[0]:
            continue
        found = (LINE.match(line) for line in part.splitlines())
        yield head[1], [Instruction(int(m[1], 16), m[2], m[3]) for m in found if m]


def innermost_loops(code: list[Instruction]) -> Iterator[list[Instruction]]:
    """Spans from the target of a backward jump to the jump, without those that hold another span."""
    spans = []
    for i in code:
        target = re.search(r"\b([0-9a-f]+) <", i.operands)
        if JUMP.match(i.name) and target and code[0].address <= int(target[1], 16) <= i.address:
            spans.append((int(target[1], 16), i.address))
    for first, last in spans:
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in spans):
            yield [i for i in code if first <= i.address <= last]


def main() -> int:
    """Print what was found; 1 if there are spills, 2 if there was nothing to look at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--objdump", default="objdump")
    arguments = parser.parse_args()
    loops, spills = 0, []
    for path in arguments.files:
        for name, code in functions(path, arguments.objdump):
            for loop in innermost_loops(code):
                if not any(DOT.search(f"{i.name} {i.operands}") for i in loop):  # {vex} vpdpbusd: the name is behind
                    continue
                loops += 1
                spills += [
                    f"{name}: {i.address:x}: {i.name} {i.operands}"
                    for i in loop
                    if WRITE.search(i.operands) and not i.name.startswith("ld")
                ]
    if loops == 0:
        print("no loop of a micro-kernel found: wrong file, or names changed", file=sys.stderr)
        return 2
    for line in spills:
        print(line, file=sys.stderr)
    print(f"{loops} loops of micro-kernels, {len(spills)} spills")
    return 1 if spills else 0


if __name__ == "__main__":
    sys.exit(main())
