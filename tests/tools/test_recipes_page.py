"""docs/recipes.md holds every recipe and every row as the recipes have them."""

from __future__ import annotations

import json

import pytest
import recipes

from bitshift.cli.recipes import recipe_lines
from bitshift.train.recipes import FIGURES, RECIPES, Figure


def test_the_figures_are_those_of_the_results():
    assert recipes.figures() == FIGURES, "run `make generate`"
    assert recipes.reached_text(FIGURES) == recipes.REACHED.read_text()


def test_a_figure_comes_with_its_float_and_its_budget(tmp_path):
    def line(case, metric, value, runs=1):
        return {"case": case, "metric": metric, "value": value, "unit": "%", "against": "", "runs": runs, "spread": 0.2}

    rows = [
        line("DenseShift-3", "test accuracy", 90.5, 3), line("DenseShift-3", "epochs", 15),
        line("float", "test accuracy", 91.0), line("float", "epochs", 15),
        line("somebody else's", "test accuracy", 1.0),
    ]  # fmt: skip
    (tmp_path / "cifar_scratch.json").write_text(json.dumps({"rows": rows}))
    found = recipes.figures(tmp_path)
    assert set(found) == {("cifar_scratch.json", "DenseShift-3"), ("cifar_scratch.json", "float")}
    expected = Figure(value=90.5, runs=3, spread=0.2, epochs=15, float_value=91.0)
    assert found["cifar_scratch.json", "DenseShift-3"] == expected
    stored = json.loads(recipes.reached_text(found))
    assert [(row["source"], row["case"]) for row in stored] == sorted(found)


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
