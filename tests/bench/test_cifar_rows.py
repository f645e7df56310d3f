"""Every row of bench/cifar_table.py is a row of a recipe, and both train the same."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from cifar_cases import TABLES, Case
from cifar_table import EPOCHS, budget, parser

from bitshift.cli import _parse
from bitshift.cli.recipes import Line, recipe_lines
from bitshift.cli.verbs.train import Train
from bitshift.core.formats import get_format
from bitshift.nn.config import ShiftConfig
from bitshift.nn.method import get_method
from bitshift.train.recipes import RECIPES

CASES = [
    pytest.param(table, case, id=f"{table}: {case.name}")
    for table in ("pretrained", "scratch")
    for case in TABLES[table]
]
SAME = (
    "batch_size", "lr", "optimizer", "weight_decay", "latent_decay", "decay_all", "schedule", "warmup_epochs",
    "clip_norm", "label_smoothing", "amp", "reestimate_rows", "epochs", "eval_every",
)  # fmt: skip


def lines_of(table: str, case: Case) -> list[Line]:
    """The recipes' lines for a row of the table."""
    lines = [line for recipe in RECIPES.values() for line in recipe_lines(recipe)]
    return [
        line
        for line in lines
        if line.reached is not None and (line.reached.source, line.reached.case) == (f"cifar_{table}.json", case.name)
    ]


def resolved(shift: ShiftConfig) -> tuple[object, ...]:
    """What a conversion does, with the format instead of the width."""
    method = get_method(shift.method)
    name = shift.format or method.format_for(shift.bits or 3)
    assert get_format(name)
    return (
        shift.method, name, shift.activations, shift.multiplier, shift.keep_first, shift.keep_last, shift.init,
        {k: v for k, v in shift.options.items() if v != method.options[k]},
    )  # fmt: skip


@pytest.mark.parametrize(("table", "case"), CASES)
def test_a_row_of_the_table_is_the_row_of_one_recipe(table: str, case: Case, tmp_path: Path) -> None:
    found = lines_of(table, case)
    assert len(found) == 1, f"recipes have {len(found)} rows for {table}: {case.name!r}"
    (tmp_path / "net.th").touch()
    words = {"DIR": str(tmp_path), "FILE": str(tmp_path / "net.th")}
    verb = _parse("train", [words.get(w, w) for w in shlex.split(found[0].command)[2:]])
    assert isinstance(verb, Train)
    plan = verb.plan()
    assert plan.model == "resnet20"
    assert plan.augment == "pad_crop_flip"
    assert plan.normalise == ("pixel" if case.pixel else "imagenet")
    assert (plan.pretrained is not None) == (table == "pretrained")
    if case.shift is None:
        assert plan.shift is None
    else:
        start = {"init": "pretrained"} if table == "pretrained" else {}
        assert plan.shift is not None
        assert resolved(plan.shift) == resolved(ShiftConfig(**(start | case.shift)))
    options = parser().parse_args([table, str(tmp_path), "--state", str(tmp_path / "net.th")])
    options.epochs = options.epochs or EPOCHS[table]
    bench = budget(case, options, 0)
    assert {n: getattr(plan.train, n) for n in SAME} == {n: getattr(bench, n) for n in SAME}
    if bench.optimizer == "sgd":
        assert (plan.train.momentum, plan.train.nesterov) == (bench.momentum, bench.nesterov)
    taught = (plan.train.distill_weight, plan.train.distill_temperature)
    assert taught == ((bench.distill_weight, bench.distill_temperature) if table == "pretrained" else (0.0, 4.0))
