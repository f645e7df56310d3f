"""Recipes as the verbs see them. Imports torch (the recipes live in the training floor)."""

from __future__ import annotations

from bitshift.cli.training import Plan
from bitshift.train.recipes import RECIPES, get_recipe


def recipe_plan(name: str) -> Plan:
    """The plan of the recipe called ``name``; ValueError lists the near misses and what exists."""
    recipe = get_recipe(name)
    return Plan(
        name=recipe.name,
        model=recipe.model,
        data=recipe.data,
        shift=recipe.shift,
        train=recipe.train,
        float_train=recipe.float_train,
        augment=recipe.augment,
    )


def recipe_rows() -> list[tuple[str, ...]]:
    """(name, data, model, what it is) of every recipe."""
    return [(r.name, r.data, r.model, r.about) for r in RECIPES.values()]
