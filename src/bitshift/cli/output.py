"""Where a verb's words go: tables and lines for a person, or one JSON object on stdout for a machine."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Output:
    """One verb's output. State: whether JSON was asked for, and the rich console, made when first needed.

    With ``as_json`` everything meant for people goes to stderr, so that stdout holds exactly one JSON object.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def note(self, text: str) -> None:
        """A line about progress or about something done on the user's behalf: always stderr."""
        print(text, file=sys.stderr, flush=True)

    def line(self, text: str = "") -> None:
        """A line of the answer for a person; dropped when JSON was asked for."""
        if not self.as_json:
            print(text, flush=True)

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        right: Sequence[int] = (),
    ) -> None:
        """A table of the answer for a person; columns in ``right`` are numbers. Dropped when JSON was asked for.

        On a terminal it fits the width; into a pipe or file every row is written whole.
        """
        if self.as_json:
            return
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        width = None
        if not sys.stdout.isatty():
            cells = zip(columns, *rows, strict=True)
            width = 4 + sum(3 + max(len(line) for cell in column for line in cell.split("\n")) for column in cells)
        table = Table(box=SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False)
        for i, name in enumerate(columns):
            table.add_column(Text(name), justify="right" if i in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console = Console(file=sys.stdout, width=width, highlight=False)
        with console.capture() as capture:  # so that a closed pipe raises here and not inside rich, which would exit
            if title:
                console.print(Text(title, style="bold"), no_wrap=True, soft_wrap=True)
            console.print(table)
            console.print()
        print(capture.get(), end="", flush=True)

    def result(self, value: Mapping[str, Any]) -> None:
        """The verb's answer for machines: printed only when JSON was asked for."""
        if self.as_json:
            print(to_json(value), flush=True)


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """JSON text of nested mappings, sequences, numpy values and paths; NaN and infinity become null."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return _plain(value.tolist())
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def size_text(size: int) -> str:
    """Bytes for a person: ``1,234 B``, ``12.3 kB`` (1000 B), ``4.56 MB``."""
    if size < 10_000:
        return f"{size:,} B"
    return f"{size / 1e3:.1f} kB" if size < 1e6 else f"{size / 1e6:.2f} MB"


def percent(share: float | None) -> str:
    """A share of 1 as per cent with two digits; ``-`` for None."""
    return "-" if share is None else f"{100 * share:.2f} %"
