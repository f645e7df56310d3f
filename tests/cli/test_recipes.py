"""Every recipe is listed, and two steps of it train, export and agree with the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitshift.cli.exporting import export_network
from bitshift.cli.recipes import recipe_plan
from bitshift.cli.runs import open_run
from bitshift.cli.training import train
from bitshift.train.data import ArrayData
from bitshift.train.models import MODELS
from bitshift.train.recipes import RECIPES, get_recipe


@pytest.mark.parametrize("name", [n if n == "demo_mnist" else pytest.param(n, marks=pytest.mark.slow) for n in RECIPES])
def test_two_steps_of_a_recipe_train_and_export(name: str, tmp_path: Path) -> None:
    plan = recipe_plan(name)
    channels = 1 if plan.data.startswith("mnist") else 3
    images = np.random.default_rng(0).integers(0, 256, (16, channels, *MODELS[plan.model].input_size), dtype=np.uint8)
    names = tuple(map(str, range(10)))
    data = ArrayData(images=images, labels=np.arange(16) % 10, class_names=names)

    def short(epochs: int) -> dict[str, object]:
        return {"epochs": epochs, "batch_size": 8, "warmup_epochs": 0.0, "progress": "off", "calibration_rows": 16}

    plan = replace(
        plan,
        train=replace(plan.train, **short(1)),
        float_train=replace(plan.float_train, **short(1)) if plan.float_train else None,
    )
    trained = train(plan, (data, data), tmp_path / "run")
    assert trained.result.steps == 2
    if plan.shift is not None:
        done = export_network(open_run(tmp_path / "run").network(), data, tmp_path / "net.safetensors", rows=8)
        assert done.differing == 0


def test_an_unknown_recipe_names_the_near_miss() -> None:
    with pytest.raises(ValueError, match="did you mean 'demo_mnist'"):
        get_recipe("demo_minst")


def test_the_demos_recipe_is_what_the_demo_promises() -> None:
    recipe = RECIPES["demo_mnist"]
    assert recipe.shift is not None
    assert recipe.data == "mnist_5k"
    assert (recipe.shift.method, recipe.shift.activations, recipe.shift.multiplier) == ("denseshift", 8, False)
    assert recipe.shift.format == "pot3d" or recipe.shift.bits == 3
    assert recipe.shift.rules == ()
    assert (recipe.shift.keep_first, recipe.shift.keep_last) == (False, False)
