"""One run of an image in its emulator: bytes in, bytes out, and what was executed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulated.build import Image
from emulated.host import is_avr, program

INPUTS, OUTPUTS, COUNTS = "inputs.bin", "outputs.bin", "counts.txt"


class RunFailedError(RuntimeError):
    """The program faulted, hung, or ended with another status than 0; the message holds what it printed."""


@dataclass(frozen=True)
class Executed:
    """How often the instruction at ``address`` ran and jumped in ``region``; ``cycles`` is 0 but on AVR."""

    region: int
    address: int
    runs: int
    jumps: int
    cycles: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run gave: its output bytes, its text, and (counted runs) every executed instruction."""

    output: bytes
    text: str
    executed: tuple[Executed, ...] = ()


def run(
    image: Image,
    inputs: bytes = b"",
    *,
    count: bool = False,
    marks: Sequence[str] = ("region_begin",),
    stop: str = "region_end",
    timeout: float = 300,
) -> Run:
    """Run ``image`` until it ends.

    Args:
        image: what runs.
        inputs: what ``feed_read`` hands out.
        count: whether every executed instruction is counted.
        marks: functions whose entry begins a region of the counts: that of the n-th begins region n.
        stop: the function whose entry ends the region.
        timeout: seconds.

    Raises:
        RunFailedError: a fault, a time-out or an exit status.
    """
    folder = image.elf.path.parent
    (folder / INPUTS).write_bytes(inputs)
    (folder / OUTPUTS).write_bytes(b"")
    names = {f.name for f in image.elf.functions}
    addresses = [f"{image.elf.address(name):x}" for name in marks if name in names]
    end = f"{image.elf.address(stop):x}" if stop in names else "0"
    command = (_avr if is_avr(image.board) else _qemu)(image, addresses, end, count=count)
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise RunFailedError(f"{image.elf.path} on {image.board.name} did not end within {timeout} seconds") from error
    text = done.stdout + done.stderr
    if done.returncode:
        raise RunFailedError(f"{image.elf.path} on {image.board.name}: exit status {done.returncode}\n{text[-2000:]}")
    executed = _executed(folder / COUNTS) if count else ()
    return Run(output=(folder / OUTPUTS).read_bytes(), text=text, executed=executed)


def _qemu(image: Image, marks: Sequence[str], stop: str, *, count: bool) -> list[str]:
    plugin = [f"{program('count.c')},out={COUNTS}", *(f"mark={mark}" for mark in marks), f"stop={stop}"]
    return [*image.board.emulator, str(image.elf.path), *(["-plugin", ",".join(plugin)] if count else [])]


def _avr(image: Image, marks: Sequence[str], stop: str, *, count: bool) -> list[str]:
    names = {f.name: f"{f.address:x}" for f in image.elf.functions}
    feeds = [names.get(name, "ffffffff") for name in ("feed_read", "feed_write")]
    board = image.board
    part = board.name.partition("-")[0]
    ends = ["0", "0"] if board.emulator else ["ffff", f"{board.flash - 1:x}"]
    return [
        str(program("avr_host.c")),
        part,
        *ends,
        str(image.elf.path),
        *feeds,
        COUNTS if count else "-",
        stop,
        *marks,
    ]


def _executed(path: Path) -> tuple[Executed, ...]:
    """Lines of ``count.c`` and ``avr_host.c``, an address once a region: a block may have been translated twice."""
    sums: dict[tuple[int, int], list[int]] = {}
    for line in path.read_text().splitlines():
        region, address, _, runs, jumps, cycles = line.split()
        total = sums.setdefault((int(region), int(address, 16)), [0, 0, 0])
        for i, text in enumerate((runs, jumps, cycles)):
            total[i] += int(text)
    return tuple(Executed(region, address, *total) for (region, address), total in sorted(sums.items()))
