"""Named training runs: a model, data, a shift configuration and a training configuration that belong together.

One file a recipe: it holds ``RECIPE``, and its docstring says where the figures it reached stand.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from dataclasses import dataclass

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to train.

    ``float_train`` trains the float twin first: the teacher of the shift network (``train.distill_weight``) and, with
    ``shift.init="pretrained"``, its start. ``augment`` is a name in ``train.data.AUGMENTS``. ``shift`` None trains the
    float network alone.
    """

    name: str
    about: str
    data: str
    model: str
    shift: ShiftConfig | None
    train: TrainConfig
    float_train: TrainConfig | None = None
    augment: str | None = None


def _collect() -> dict[str, Recipe]:
    found = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        recipe = importlib.import_module(f"{__name__}.{module}").RECIPE
        if recipe.name != module:
            raise ValueError(f"recipe {recipe.name!r} stands in a file of another name, {module}.py")
        found[recipe.name] = recipe
    return found


RECIPES: dict[str, Recipe] = _collect()


def get_recipe(name: str) -> Recipe:
    """The recipe called ``name``; ValueError lists the near misses and what exists."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"unknown recipe {name!r}{hint} Known recipes: {', '.join(RECIPES)}")
    return RECIPES[name]


__all__ = ["RECIPES", "Recipe", "get_recipe"]
