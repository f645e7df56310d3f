"""Images for boards: the sources of a program, the board's start-up code, and no library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitshift.backends.c99.boards import Board
from bitshift.backends.c99.example import board_files, source
from bitshift.backends.c99.targets import Target, get_target
from emulated.elf import Elf
from emulated.host import HERE, call

OPTIMISE = ("-Os",)
WARNINGS = ("-Wall", "-Wextra", "-Werror")


class TooLargeError(RuntimeError):
    """A program that the memory of a board does not hold."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A linked program and the board that runs it; ``objects`` are its files by name."""

    elf: Elf
    board: Board
    objects: dict[str, Elf]


def build(
    board: Board,
    sources: Sequence[Path],
    folder: Path,
    *,
    target: Target | None = None,
    include: Sequence[Path] = (),
    options: Sequence[str] = OPTIMISE,
    libraries: Sequence[str] = (),
) -> Image:
    """Compile ``sources`` with the board's start-up code and ``feed.c`` into ``folder``.

    Args:
        board: where it is to run.
        sources: C and assembly files, each name once.
        folder: where objects, start-up files and ``image.elf`` go.
        target: the instruction set to compile for, where the board runs more than one; None for its first.
        include: folders of headers.
        options: of the compiler, for ``sources`` only.
        libraries: flags behind the objects; only a benchmark of somebody else's code links libgcc.

    Raises:
        TooLargeError: the memory of the board does not hold the program.
        RuntimeError: what the compiler or the linker said.
    """
    target = target or get_target(board.targets[0])
    folder = folder.resolve()  # an emulator runs in it
    folder.mkdir(parents=True, exist_ok=True)
    for name in board_files(board):
        (folder / name).write_text(source(name), encoding="utf-8")
    flags = [target.compiler, *board.compile_flags(target), *(f"-I{path}" for path in (folder, HERE, *include))]
    prefix = target.compiler.removesuffix("gcc")
    objects = {}
    for path in [*(folder / name for name in board.sources), HERE / "feed.c"]:
        objects[path.name] = _compile([*flags, "-Os", "-w"], path, folder, prefix)
    for path in sources:
        if path.name in objects:
            raise ValueError(f"two files of the program are called {path.name}")
        objects[path.name] = _compile([*flags, *options], path, folder, prefix)
    image = folder / "image.elf"
    files = [str(item.path) for item in objects.values()]
    try:
        call([*flags, *board.link_flags(str(folder)), *files, *libraries, "-o", str(image)])
    except RuntimeError as error:
        if "overflowed by" in str(error) or "will not fit in region" in str(error):
            raise TooLargeError(f"{board.name}: {error}") from error
        raise
    elf = Elf(image, prefix)
    if elf.flash > board.flash or elf.ram + board.stack > board.ram:
        raise TooLargeError(
            f"{board.name} has {board.flash} bytes of flash and {board.ram} of RAM; the program takes {elf.flash} "
            f"and {elf.ram}, and the stack {board.stack} more"
        )
    return Image(elf=elf, board=board, objects=objects)


def _compile(command: list[str], path: Path, folder: Path, prefix: str) -> Elf:
    out = folder / f"{path.name}.o"
    call([*command, "-c", str(path), "-o", str(out)])
    return Elf(out, prefix)
