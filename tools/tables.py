"""Write the tables of the docs from benchmark JSON, between ``<!-- table: FILE ... -->`` and ``<!-- /table -->``.

    python tools/tables.py            rewrite every table that is not current
    python tools/tables.py --check    change nothing; exit 1 and name the tables that are not current

Options inside the comment: ``rows=FIELD columns=FIELD`` make a grid of values, ``where=FIELD:VALUE`` selects rows and
``has=FIELD:TEXT`` those that contain a text (each may be given again; ``_`` stands for a space), ``digits=N`` sets
significant digits (default 4). FILE is relative to the repository. An empty block stays empty while there is no FILE.

``<!-- demo: FILE -->`` and ``<!-- /demo -->`` hold the figures of a ``runs/demo/result.json`` that was copied to FILE:

    make demo && cp runs/demo/result.json docs/results/demo.json && make generate

The block stays empty as long as there is no FILE.

``<!-- energies: FILE -->`` and ``<!-- /energies -->`` hold the published energies of core/hardware.json, with sources.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIELDS = ("case", "metric", "value", "unit", "against", "runs", "spread")
BLOCK = re.compile(r"(?P<head><!-- table: (?P<spec>[^>]*?) -->\n)(?P<body>.*?)(?P<tail><!-- /table -->)", re.DOTALL)
DEMO = re.compile(r"(?P<head><!-- demo: (?P<spec>[^>\s]*) -->\n)(?P<body>.*?)(?P<tail><!-- /demo -->)", re.DOTALL)
ENERGIES = re.compile(
    r"(?P<head><!-- energies: (?P<spec>[^>\s]*) -->\n)(?P<body>.*?)(?P<tail><!-- /energies -->)", re.DOTALL
)
FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)


class TableError(ValueError):
    """A table comment or JSON file that cannot be drawn; names the file and the reason."""


def number(value: float, digits: int) -> str:
    """``value`` to ``digits`` significant digits, thousands grouped, integers without a point."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def parse(spec: str) -> tuple[str, dict[str, str], list[tuple[str, str, str]]]:
    """File, options and selections of a table comment."""
    path, *words = spec.split()
    options: dict[str, str] = {}
    where: list[tuple[str, str, str]] = []
    for word in words:
        key, separator, value = word.partition("=")
        if key in ("where", "has") and ":" in value:
            field, _, wanted = value.partition(":")
            where.append((key, field, wanted.replace("_", " ")))
        elif separator and key in ("rows", "columns", "digits"):
            options[key] = value
        else:
            raise TableError(
                f"{path}: unknown option {word!r}; allowed: rows=, columns=, digits=, where=FIELD:VALUE, has=FIELD:TEXT"
            )
    for field in [options.get("rows", "case"), options.get("columns", "metric"), *(f for _, f, _ in where)]:
        if field not in FIELDS:
            raise TableError(f"{path}: unknown field {field!r}; allowed: {', '.join(FIELDS)}")
    if ("rows" in options) != ("columns" in options):
        raise TableError(f"{path}: rows= and columns= go together")
    return path, options, where


def load(path: Path) -> list[dict[str, Any]]:
    """The rows of a benchmark's JSON, each checked to have the contract's fields."""
    try:
        rows = json.loads(path.read_text())["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(f"{path}: not a benchmark's JSON ({error})") from error
    for row in rows:
        if set(row) != set(FIELDS):
            raise TableError(f"{path}: a row has the fields {sorted(row)}; the contract has {sorted(FIELDS)}")
    return rows


def draw(spec: str, root: Path = ROOT) -> str:
    """The markdown of one table comment."""
    name, options, where = parse(spec)
    rows = [row for row in load(root / name) if all(_selected(row, *rule) for rule in where)]
    if not rows:
        raise TableError(f"{name}: no row matches {where}")
    digits = int(options.get("digits", 4))
    if "rows" not in options:
        cells = [
            [row["case"], row["metric"], *_measured(row, digits), row["against"], number(row["runs"], digits)]
            for row in rows
        ]
        return _markdown(["case", "metric", "value", "unit", "against", "runs"], cells)
    across, down = options["columns"], options["rows"]
    columns = list(dict.fromkeys((str(row[across]), row["unit"]) for row in rows))
    grid: dict[str, dict[tuple[str, str], str]] = {}
    for row in rows:
        line = grid.setdefault(str(row[down]), {})
        column = (str(row[across]), row["unit"])
        if column in line:
            raise TableError(
                f"{name}: two rows for {down} {row[down]!r} and {across} {row[across]!r}; select with where="
            )
        line[column] = _measured(row, digits)[0]
    head = [down, *(f"{label} [{unit}]" if across != "unit" else unit for label, unit in columns)]
    return _markdown(head, [[label, *(line.get(column, "") for column in columns)] for label, line in grid.items()])


def _selected(row: dict[str, Any], kind: str, field: str, wanted: str) -> bool:
    return str(row[field]) == wanted if kind == "where" else wanted in str(row[field])


def _measured(row: dict[str, Any], digits: int) -> tuple[str, str]:
    spread = f" ± {number(row['spread'], max(2, digits - 2))}" if row["spread"] else ""
    return number(row["value"], digits) + spread, row["unit"]


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def documents(root: Path = ROOT) -> Iterator[Path]:
    """Every markdown page that may hold a table."""
    yield from sorted(root.glob("*.md"))
    for folder in ("docs", "bench"):
        yield from sorted((root / folder).rglob("*.md"))


def draw_demo(name: str, root: Path = ROOT) -> str:
    """The figures of one demo's ``result.json``."""
    try:
        result = json.loads((root / name).read_text())
        size = result["float_bytes"] / result["file_bytes"]
        rows = [
            ["float network", f"{result['float_accuracy']:.2%}", f"{result['float_bytes']:,}"],
            ["shift network, training simulation", f"{result['simulation_accuracy']:.2%}", ""],
            ["exported file, engine, no torch", f"{result['engine_accuracy']:.2%}", f"{result['file_bytes']:,}"],
        ]
        return (
            _markdown([f"{result['test_samples']:,} test digits", "accuracy", "bytes"], rows)
            + f"\n{result['differing_outputs']} of {result['compared_outputs']:,} output integers differ; "
            f"the file is {size:.1f} times smaller than the float weights; "
            f"{result['multiplications']} multiplications a digit; "
            f"{result['seconds']:.0f} s on two cores.\n"
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(f"{name}: not the result.json of a demo ({error!r})") from error


def draw_energies(name: str, root: Path = ROOT) -> str:
    """The published energies of one file of constants."""
    try:
        data = json.loads((root / name).read_text())
        rows = [[e["what"], f"{e['pj']:g}", data["sources"][e["source"]]] for e in data["energies"].values()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(f"{name}: no energies with what, pj and source ({error!r})") from error
    return _markdown(["one operation", "pJ", "source"], rows)


def rewrite(text: str, root: Path = ROOT) -> str:
    """``text`` with every table drawn anew; comments inside fenced code are examples and stay."""
    for pattern, made in ((BLOCK, draw), (DEMO, draw_demo), (ENERGIES, draw_energies)):
        fences = [match.span() for match in FENCE.finditer(text)]

        def replace(match: re.Match[str], made: Callable = made, fences: list = fences) -> str:
            if any(begin <= match.start() < end for begin, end in fences):
                return match[0]
            if not match["body"] and not (root / match["spec"].split()[0]).exists():
                return match[0]
            return match["head"] + made(match["spec"], root) + match["tail"]

        text = pattern.sub(replace, text)
    return text


def main(arguments: list[str]) -> int:
    """Command line; returns the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    stale = []
    for path in documents():
        old = path.read_text()
        try:
            new = rewrite(old)
        except TableError as error:
            print(f"{path.relative_to(ROOT)}: {error}", file=sys.stderr)
            return 1
        if new != old:
            stale.append(path)
            if not arguments:
                path.write_text(new)
    for path in stale:
        print(
            f"{path.relative_to(ROOT)}: {'tables are not current; run `make generate`' if arguments else 'rewritten'}"
        )
    return int(bool(stale) and bool(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
