"""Recipes: complete, nameable, and each one trains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bitshift.nn import convert
from bitshift.train.data import AUGMENTS, ArrayData
from bitshift.train.loop import fit
from bitshift.train.models import MODELS, build
from bitshift.train.recipes import RECIPES, get_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_what_exists_and_says_what_it_reaches(name):
    recipe = RECIPES[name]
    assert recipe.model in MODELS
    assert recipe.augment is None or recipe.augment in AUGMENTS
    assert recipe.about
    module = __import__(f"bitshift.train.recipes.{name}", fromlist=["RECIPE"])
    assert "reached" in module.__doc__.lower() or "%" in module.__doc__


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_two_steps(name, tmp_path):
    recipe = RECIPES[name]
    channels = 1 if recipe.model.startswith("lenet") else 3
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, channels, *MODELS[recipe.model].input_size)).astype(np.uint8)
    data = ArrayData(images=images, labels=rng.integers(0, 10, 16), class_names=tuple("0123456789"))
    torch.manual_seed(0)
    model = build(recipe.model, num_classes=10, in_channels=channels)
    if recipe.shift is not None:
        sample = data.normalise(data.batch(np.arange(2))[0])
        model = convert(model, recipe.shift, sample=sample, generator=torch.Generator().manual_seed(0))[0]
    short = replace(recipe.train, epochs=1, batch_size=8, warmup_epochs=0.0, progress="off")
    augment = AUGMENTS[recipe.augment] if recipe.augment else None
    result = fit(model, short, data, data, run_dir=tmp_path, augment=augment)
    assert result.steps == 2
    assert np.isfinite(result.valid.loss)


def test_an_unknown_recipe_gets_a_hint():
    with pytest.raises(ValueError, match="did you mean 'demo_mnist'"):
        get_recipe("demo_minst")
