"""Small hand-written C programs for the emulated boards, and the boards of the quick tests."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from emulated.build import Image, build
from emulated.host import missing

from bitshift.backends.c99.boards import BOARDS, Board

QUICK = ("microbit", "mps2-an385", "mps2-an386", "virt-rv32i", "atmega328p")
"""Cortex-M0, M3, M4, RV32I without multiplier, AVR."""


def board(name: str) -> Board:
    """The board, or a skip that says what this machine lacks for it."""
    if reason := missing(BOARDS[name]):
        pytest.skip(reason)
    return BOARDS[name]


def compiled(name: str, folder: Path, text: str, *options: str) -> Image:
    """``text`` built for the board ``name``."""
    folder.mkdir(exist_ok=True)
    path = folder / "program.c"
    path.write_text(textwrap.dedent(text))
    return build(board(name), [path], folder / "out", options=["-Os", *options])
