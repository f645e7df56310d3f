"""`--epochs` and its like: what is allowed, and what follows from it."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from bitshift.cli import main
from bitshift.cli.verbs.train import Train
from bitshift.train.recipes import get_recipe

NEW = ["train", "--data", "mnist_5k", "--model", "lenet"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", "1.5"], "Error parsing --epochs: found '1.5', needed is a whole number"),
        (["--lr", "fast"], "Error parsing --lr: found 'fast', needed is a number"),
        (["--epochs", "0"], "error: --epochs 0: allowed is a whole number from 1"),
        (["--epochs", "-2"], "error: --epochs -2: allowed is a whole number from 1"),
        (["--set", "epochs=1.5"], "error: --epochs 1.5: allowed is a whole number from 1"),
        (["--set", "compile=off"], "error: --set compile='off': allowed is true or false"),
        (["--distill-weight", "0.5"], "error: --distill-weight 0.5: nobody teaches this network; --float-epochs or"),
        (["--method", "float", "--float-epochs", "2"], "error: --float-epochs trains the float twin of a shift"),
        (["--pretrained", __file__, "--float-epochs", "2"], "and --pretrained brings one; leave one of them out"),
        (["--pretrained-normalise", "imagenet"], "--pretrained-normalise imagenet says what --pretrained was trained"),
        (["--set", "lr=abc"], "error: --lr 'abc': allowed is a number"),
        (["--set", "momentum=x"], "error: --set momentum='x': allowed is a number"),
        (["--set", "milestones=a"], "error: --set milestones='a': allowed is None or a list of numbers"),
        (["--set", "foo"], "error: --set 'foo': write NAME=VALUE"),
        (["--set", "amp=fast"], "error: --set amp='fast': allowed is off, auto, bf16, fp16"),
        (
            ["--warmup-epochs", "3", "--epochs", "2"],
            "--warmup-epochs 3.0: allowed is 0 up to, not including, epochs = 2",
        ),
    ],
)
def test_a_number_out_of_place_names_the_option_and_what_is_allowed(flags, message, capsys) -> None:
    assert main([*NEW, *flags]) == 2
    said = re.sub(r"[\s│]+", " ", capsys.readouterr().err)
    assert message in said
    assert "TrainConfig" not in said


def test_a_shortened_recipe_shortens_the_float_twin_it_trains_first(caplog: pytest.LogCaptureFixture) -> None:
    recipe = get_recipe("demo_mnist")
    assert recipe.float_train is not None
    whole, half = recipe.train.epochs, recipe.train.epochs // 2
    with caplog.at_level(logging.INFO, logger="bitshift"):
        twins = {
            name: Train(recipe="demo_mnist", **flags).plan().float_train
            for name, flags in {
                "whole": {}, "half": {"epochs": half}, "one": {"epochs": 1}, "longer": {"epochs": 3 * whole},
                "asked": {"epochs": 1, "float_epochs": 5},
            }.items()
        }  # fmt: skip
    epochs = {name: twin.epochs for name, twin in twins.items() if twin is not None}
    full = recipe.float_train.epochs
    assert epochs == {
        "whole": full, "half": round(full * half / whole), "one": max(1, round(full / whole)), "longer": full,
        "asked": 5,
    }  # fmt: skip
    assert (
        f"float twin: {epochs['half']} of its {full} epochs, as --epochs {half} is of the recipe's {whole}"
        in caplog.text
    )
    assert len(caplog.messages) == 2


def test_weights_that_are_given_leave_no_float_twin_to_shorten(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="bitshift"):
        plan = Train(recipe="demo_mnist", epochs=1, pretrained=Path(__file__)).plan()
    assert plan.float_train is None
    assert not caplog.messages
