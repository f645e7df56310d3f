"""Give the recipes the figures that were reached, and write the tables of docs/recipes.md.

    python tools/recipes.py            rewrite what is not current
    python tools/recipes.py --check    change nothing; exit 1 if something is not current

Figures of ``Recipe.reached`` come from docs/results/*.json and go to train/recipes/reached.json, which is part of the
package. The page's tables stand between ``<!-- recipes -->`` and ``<!-- /recipes -->``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitshift.cli.recipes import COLUMNS, fixed_text, recipe_lines, recipe_rows
from bitshift.train.recipes import FIGURES, RECIPES, Figure, Recipe

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "recipes.md"
RESULTS = ROOT / "docs" / "results"
REACHED = ROOT / "src" / "bitshift" / "train" / "recipes" / "reached.json"
METRIC = "test accuracy"
BLOCK = re.compile(r"(?P<head><!-- recipes -->\n).*?(?P<tail><!-- /recipes -->)", re.DOTALL)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def section(recipe: Recipe) -> str:
    """One recipe: what it fixes, its rows, its notes, its sources."""
    lines = [(*cells, f"`{command}`") for *cells, command in (line.cells() for line in recipe_lines(recipe))]
    shown = [0, 1, 2, *(i for i in (3, 4, 5) if any(line[i] for line in lines)), 6]
    parts = [f"## {recipe.name}\n\n{recipe.about}.\n"]
    parts.append(table(("fixed", ""), fixed_text(recipe)))
    if lines:
        parts.append(table([COLUMNS[i] for i in shown], [[line[i] for i in shown] for line in lines]))
    sources = list(dict.fromkeys(p.source for p in recipe.published))
    notes = [f"- Recipe: {recipe.source}.\n"] if recipe.source else []
    notes += [f"- Figures: {'; '.join(sources)}.\n"] if sources else []
    notes += [recipe.notes.strip() + "\n"] if recipe.notes else []
    parts += ["".join(notes)] if notes else []
    return "\n".join(parts)


def figures(results: Path = RESULTS) -> dict[tuple[str, str], Figure]:
    """What the JSON files of docs/results say about the rows of ``Recipe.reached``."""
    files: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    found: dict[tuple[str, str], Figure] = {}
    for row in (row for recipe in RECIPES.values() for row in recipe.reached):
        if row.source not in files:
            path = results / row.source
            lines = json.loads(path.read_text())["rows"] if path.exists() else []
            files[row.source] = {(line["case"], line["metric"]): line for line in lines}
        cells = files[row.source]
        measured = cells.get((row.case, METRIC))
        if measured is not None:
            twin = cells.get((row.float_case or "", METRIC))
            found[row.source, row.case] = Figure(
                value=measured["value"], runs=measured["runs"], spread=measured["spread"],
                epochs=int(cells[row.case, "epochs"]["value"]), float_value=twin["value"] if twin else None,
            )  # fmt: skip
    return found


def reached_text(found: dict[tuple[str, str], Figure]) -> str:
    """reached.json: one line a figure, sorted."""
    rows = [{"source": source, "case": case, **vars(found[source, case])} for source, case in sorted(found)]
    return "[" + ",".join("\n " + json.dumps(row) for row in rows) + ("\n]\n" if rows else "]\n")


def page_text(old: str) -> str:
    """The page with its block drawn anew."""
    overview = [
        (f"[{name}](#{name})", data, model, published, reached)
        for name, data, model, published, reached, _ in recipe_rows()
    ]
    head = table(("recipe", "data", "model", "published", "reached here"), overview)
    body = "\n".join([head, *map(section, RECIPES.values())])
    new, count = BLOCK.subn(lambda m: m["head"] + body + m["tail"], old)
    if count != 1:
        raise ValueError(f"{PAGE}: holds {count} blocks <!-- recipes --> ... <!-- /recipes -->; one is needed")
    return new


def main(arguments: list[str]) -> int:
    """Command line; returns the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    found = figures()
    FIGURES.clear()  # the page shows what the results say now
    FIGURES.update(found)
    stale = False
    for path, new in ((REACHED, reached_text(found)), (PAGE, page_text(PAGE.read_text()))):
        if new != path.read_text():
            stale = True
            print(f"{path.relative_to(ROOT)}: {'not current; run `make generate`' if arguments else 'rewritten'}")
            if not arguments:
                path.write_text(new)
    return int(stale and bool(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
