"""docs/recipes.md holds every recipe and every row as the recipes have them."""

from __future__ import annotations

import pytest
import recipes

from bitshift.cli.recipes import recipe_lines
from bitshift.train.recipes import RECIPES


def test_the_page_is_current():
    text = recipes.PAGE.read_text()
    assert recipes.page_text(text) == text, "run `make generate`"


def test_a_stale_page_is_drawn_anew_between_its_marks():
    old = "# Recipes\n\n<!-- recipes -->\nstale\n<!-- /recipes -->\n\nbelow\n"
    new = recipes.page_text(old)
    assert "stale" not in new
    assert new.startswith("# Recipes\n\n<!-- recipes -->\n| recipe |")
    assert new.endswith("<!-- /recipes -->\n\nbelow\n")
    assert recipes.page_text(new) == new
    for recipe in RECIPES.values():
        assert f"\n## {recipe.name}\n" in new
        assert all(f"`{line.command}`" in new for line in recipe_lines(recipe))


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="holds 0 blocks"):
        recipes.page_text("# Recipes\n")
