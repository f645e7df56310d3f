"""Write the tables of docs/recipes.md from the recipes, between ``<!-- recipes -->`` and ``<!-- /recipes -->``.

python tools/recipes.py            rewrite the page if it is not current
python tools/recipes.py --check    change nothing; exit 1 if it is not current
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from bitshift.cli.recipes import COLUMNS, fixed_text, recipe_lines, recipe_rows
from bitshift.train.recipes import RECIPES, Recipe

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
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
    old = PAGE.read_text()
    new = page_text(old)
    if new == old:
        return 0
    if arguments:
        print("docs/recipes.md: not current; run `make generate`")
        return 1
    PAGE.write_text(new)
    print("docs/recipes.md: rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
