"""What the development machine brings: cross compilers, emulators, and our own small C programs, built on demand."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from bitshift.backends.c99.boards import Board
from bitshift.backends.c99.targets import get_target

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / "build" / "emulated"
SIMAVR = Path("/usr/include/simavr/sim_avr.h")
PROGRAMS = {
    "count.c": ("-shared", "-fPIC", "-fvisibility=hidden"),
    "avr_host.c": ("-lsimavr", "-lelf"),
}


class MissingToolError(RuntimeError):
    """A compiler, emulator or library that this machine lacks; the message says which package brings it."""


def missing(board: Board) -> str | None:
    """None, or what ``board`` needs and this machine lacks, as a reason to skip."""
    needs = [get_target(board.targets[0]).compiler, os.environ.get("CC", "cc")]
    needs += [] if is_avr(board) else [board.emulator[0]]
    lacking = [tool for tool in needs if shutil.which(tool) is None]
    packages = list(board.packages)
    if is_avr(board):
        packages += ["libsimavr-dev", "libelf-dev"]
        lacking += [] if SIMAVR.exists() else ["libsimavr's headers"]
    if not lacking:
        return None
    return f"{board.name} needs {', '.join(lacking)}: apt-get install {' '.join(packages)}"


def is_avr(board: Board) -> bool:
    """Whether the board is run by ``avr_host.c``, and not by QEMU."""
    return board.targets == ("avr",)


def program(source: str) -> Path:
    """The compiled form of one of our C files, from the cache if its text and flags are those of the last time."""
    compiler = os.environ.get("CC", "cc")
    text = (HERE / source).read_bytes()
    flags = PROGRAMS[source]
    name = hashlib.sha256(b"\0".join([text, compiler.encode(), *map(str.encode, flags)])).hexdigest()[:16]
    built = CACHE / f"{Path(source).stem}-{name}"
    if not built.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = built.with_name(f"{built.name}.{os.getpid()}")  # two test workers may build at once
        call([*compiler.split(), "-O2", "-Wall", "-Wextra", str(HERE / source), "-o", str(part), *flags])
        part.replace(built)
    return built


def call(command: list[str], *, cwd: Path | None = None) -> str:
    """Standard output of a command that must succeed; MissingToolError or RuntimeError with what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, errors="replace")
    except FileNotFoundError as error:
        raise MissingToolError(f"{command[0]} is not installed") from error
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)}: exit status {done.returncode}\n{(done.stderr or done.stdout)[-4000:]}"
        )
    return done.stdout
