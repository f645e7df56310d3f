"""The example beside a generated network: start-up code and a Makefile that runs its self-test in an emulator."""

from __future__ import annotations

from importlib.resources import files

from bitshift.backends.c99.boards import Board
from bitshift.backends.c99.targets import Target, get_target

SOURCES = files("bitshift.backends.c99") / "example"


def example_files(name: str, board: Board, target: Target | None = None) -> dict[str, str]:
    """The files of ``example/`` by name, for the network called ``name`` (its C prefix) on ``board``.

    ``make -C example run`` builds ``../NAME.c`` and ``../NAME_selftest.c`` with them, runs the image in the emulator,
    prints the result of ``NAME_selftest()`` (0: all equal), and fails unless it passed.
    """
    target = target or get_target(board.targets[0])
    words = {
        "NAME": name,
        "TITLE": board.title,
        "PACKAGES": " ".join(board.packages),
        "COMPILER": target.compiler,
        "EMULATOR": " ".join(board.emulator),
        "FLAGS": " ".join(board.compile_flags(target)),
        "LINK": " ".join(board.link_flags(".")),
        "SOURCES": " ".join(board.sources),
    }
    return {file: _fill(source(file), words) for file in board_files(board, "Makefile", "main.c")}


def board_files(board: Board, *more: str) -> tuple[str, ...]:
    """Names of the files that start ``board``, and ``more`` before them."""
    return (*more, "board.h", *board.sources, *filter(None, [board.script]))


def source(file: str) -> str:
    """The text of a file of ``example/``, its ``@WORDS@`` unfilled."""
    return (SOURCES / file).read_text(encoding="utf-8")


def _fill(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


__all__ = ["board_files", "example_files", "source"]
