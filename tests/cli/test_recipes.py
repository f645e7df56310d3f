"""Every recipe is listed, every row's command is understood as that row, and what they train is what they say."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bitshift.cli import _parse, main
from bitshift.cli.errors import CliError
from bitshift.cli.exporting import export_network
from bitshift.cli.recipes import Line, recipe_lines, recipe_plan
from bitshift.cli.runs import open_run
from bitshift.cli.training import _twin, spec_for, train
from bitshift.cli.verbs.train import Train
from bitshift.core.formats import get_format
from bitshift.train.data import ArrayData
from bitshift.train.models import MODELS, build
from bitshift.train.recipes import FIGURES, NORMALISE, RECIPES, Figure, Published, Reached, Recipe, get_recipe

LINES = [line for recipe in RECIPES.values() for line in recipe_lines(recipe)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What DIR, FILE and RUN stand for."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "weights.th").touch()
    return {"DIR": str(folder), "FILE": str(folder / "weights.th"), "RUN": str(folder / "weights.th")}


def verb(command: str, files: dict[str, str]) -> Train:
    """The parsed verb of a listed command."""
    program, name, *words = (files.get(word, word) for word in shlex.split(command))
    assert (program, name) == ("bitshift", "train")
    parsed = _parse("train", words)
    assert isinstance(parsed, Train)
    return parsed


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.command.removeprefix("bitshift train "))
def test_the_command_of_a_row_trains_that_row(line: Line, files: dict[str, str]) -> None:
    plan, row, recipe = verb(line.command, files).plan(), line.row, line.recipe
    assert plan.model == row.model
    assert plan.train.epochs == (row.epochs or recipe.train.epochs)
    if row.bits is None:
        assert plan.shift is None
    else:
        assert plan.shift is not None
        width = get_format(plan.shift.format).bits if plan.shift.format else plan.shift.bits
        assert width == row.bits
        if recipe.start == "pretrained":
            assert plan.shift.init == "pretrained"
    assert (plan.pretrained is not None) == (recipe.start == "pretrained")
    assert (plan.backbone is not None) == (recipe.start == "backbone")
    own = "half" if row.model == "googlenet" else recipe.normalise  # what torchvision trained it on
    assert plan.normalise == own


def test_a_recipe_on_a_backbone_is_refused_without_one(files: dict[str, str]) -> None:
    with pytest.raises(CliError, match="needs --backbone with a trained run"):
        verb("bitshift train transfer_cifar100 --data DIR", files).plan()


def test_every_published_row_is_listed_once() -> None:
    for recipe in RECIPES.values():
        lines = recipe_lines(recipe)
        assert [line.published for line in lines if line.published is not None] == list(recipe.published)
        assert {id(line.reached) for line in lines if line.reached is not None} == {id(r) for r in recipe.reached}


def test_ours_stands_beside_the_papers_row_of_the_same_budget_first() -> None:
    base = RECIPES["denseshift_imagenet"]
    ours = Reached(model="resnet18", bits=2, epochs=90, source="x.json", case="a")
    other = Reached(model="resnet18", bits=8, epochs=3, source="x.json", case="b")
    lines = recipe_lines(replace(base, reached=(ours, other)))
    beside = [line for line in lines if line.reached is ours]
    assert [line.published.epochs for line in beside if line.published] == [90]
    assert lines[-1].published is None
    assert lines[-1].command.endswith("--bits 8 --epochs 3")


def test_the_list_shows_published_and_reached_and_json_has_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in RECIPES)
    assert "69.83 / 89.23" in shown
    assert main(["train", "--list", "s3_imagenet"]) == 0
    shown = capsys.readouterr().out
    assert "bitshift train s3_imagenet --data DIR --option init=dense" in shown
    assert main(["train", "--list", "deepshift_ps_cifar10", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {"model": "resnet18_cifar", "bits": 4, "published": 94.12} in [
        {"model": r["model"], "bits": r["bits"], "published": r["published"]["value"]} for r in rows
    ]


def test_fewer_epochs_keep_the_schedules_shape(files: dict[str, str]) -> None:
    plan = verb("bitshift train deepshift_q_cifar10 --data DIR --epochs 20", files).plan()
    assert plan.train.milestones == pytest.approx((8, 12, 16, 18))
    plan = verb("bitshift train deepshift_q_imagenet --data DIR --epochs 9 --lr 0.02", files).plan()
    assert plan.train.milestones == pytest.approx((3, 6))
    assert plan.train.lr == 0.02
    plan = verb("bitshift train deepshift_q_mnist_pretrained --data DIR --epochs 3 --float-epochs 6", files).plan()
    assert plan.float_train is not None
    assert (plan.train.epochs, plan.float_train.epochs) == (3, 6)
    plan = verb("bitshift train deepshift_q_cifar10 --data DIR --epochs 20 --set step_size=5", files).plan()
    assert (plan.train.step_size, plan.train.milestones) == (5, None)


def test_the_float_twin_runs_where_and_as_the_flags_say_with_a_budget_of_its_own(files: dict[str, str]) -> None:
    words = "bitshift train deepshift_q_mnist_pretrained --data DIR --device cpu --seed 3 --lr 0.5"
    twin = verb(f"{words} --set checkpoint_every_steps=7", files).plan().float_train
    own = recipe_plan("deepshift_q_mnist_pretrained").float_train
    assert own is not None
    assert twin == replace(own, device="cpu", seed=3, checkpoint_every_steps=7)


def test_a_recipe_without_its_data_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "s3_imagenet"]) == 2
    assert "needs --data with ImageNet" in capsys.readouterr().err


def tiny_folder(recipe: Recipe, root: Path) -> Path:
    """Twelve pictures in the layout that the recipe's user has: ImageNet's differ in size."""
    from PIL import Image

    rng = np.random.default_rng(0)
    if recipe.data == "mnist":
        arrays = {f"x_{s}": rng.integers(0, 256, (12, 28, 28), dtype=np.uint8) for s in ("train", "test")}
        labels = {f"y_{s}": np.arange(12) % 10 for s in ("train", "test")}
        np.savez(root / "mnist.npz", **arrays, **labels)
        return root / "mnist.npz"
    photos = recipe.data == "imagenet"
    for split in ("train", "val" if photos else "test"):
        for row in range(12):
            height, width = rng.integers(70, 120, 2) if photos else (32, 32)
            folder = root / split / f"n{row % 3:08}"
            folder.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            picture.save(folder / (f"{row}.JPEG" if photos else f"{row}.png"))
    return root


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("deepshift_ps_mnist", None),
        ("cifar10_pretrained", None),
        ("deepshift_q_imagenet_pretrained", "resnet20"),  # a small net on ImageNet's data, for the quick suite
        *(
            pytest.param(name, None, marks=pytest.mark.slow)
            for name in ("ours_cifar10", "s3_imagenet", "apot_imagenet", "deepshift_ps_imagenet")
        ),
    ],
)
def test_a_recipe_runs_from_the_command_line_on_a_folder(
    name: str,
    model: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    recipe = RECIPES[name]
    words = ["train", name, "--data", str(tiny_folder(recipe, tmp_path)), "--epochs", "1", "--batch-size", "4"]
    if recipe.start == "pretrained":
        classes = 10 if recipe.data == "mnist" else 3
        net = build(model or recipe.model, num_classes=classes, in_channels=3)
        torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "net.th")
        words += ["--pretrained", str(tmp_path / "net.th")]
    words += ["--model", model] if model else []
    words += ["--image-size", "64", "--data-workers", "0"] if recipe.data == "imagenet" else []
    words += ["--set", "progress=off", "calibration_rows=8", "eval_batch_size=4", "--run-dir", str(tmp_path / "run")]
    assert main([*words, "--no-export", "--json"]) == 0, capsys.readouterr().err
    done = json.loads(capsys.readouterr().out)
    assert done["steps"] == 3
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["about"]["recipe"] == name
    expected = NORMALISE[recipe.normalise].mean[0] if recipe.normalise else 128.0
    assert config["data"]["normalise"]["mean"][0] == pytest.approx(expected)


def test_published_weights_may_be_of_other_pixels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build("resnet8", num_classes=10, in_channels=3).eval()
    torch.save({"state_dict": net.state_dict()}, tmp_path / "net.th")
    images = np.random.default_rng(0).integers(0, 256, (16, 3, 32, 32), dtype=np.uint8)
    data = ArrayData(images=images, labels=np.arange(16) % 10, class_names=tuple(map(str, range(10))))
    plan = replace(
        recipe_plan("ours_cifar10"), model="resnet8", pretrained=tmp_path / "net.th", shift=None,
        train=replace(recipe_plan("ours_cifar10").train, epochs=1, batch_size=8, lr=1e-9, warmup_epochs=0.0, amp="off"),
    )  # fmt: skip
    assert (plan.normalise, plan.pretrained_normalise) == ("pixel", "imagenet")
    start, teacher, _ = _twin(plan, spec_for("resnet8", data, None), (data, data), tmp_path / "run", True, None)
    assert start is not None
    assert teacher is not None
    pixels = torch.from_numpy(images)
    with torch.no_grad():
        expected = net(NORMALISE["imagenet"](pixels))
        torch.testing.assert_close(teacher.eval()(NORMALISE["pixel"](pixels)), expected, rtol=1e-4, atol=1e-4)
        # the padding is of another grey, so the folded start is only near
        assert (start.eval()(NORMALISE["pixel"](pixels)) - expected).std() < 0.5 * expected.std()
    done = train(plan, (data, data), tmp_path / "run")
    again = replace(plan, pretrained=done.result.run_dir, pretrained_normalise="imagenet")  # the run knows better
    start, _, _ = _twin(again, spec_for("resnet8", data, None), (data, data), tmp_path / "run", True, None)
    assert start is not None
    with torch.no_grad():
        trained = open_run(done.result.run_dir).network()(NORMALISE["pixel"](pixels))
        torch.testing.assert_close(start.eval()(NORMALISE["pixel"](pixels)), trained)


EXPORTED = ("demo_mnist", "cifar10_scratch", "ours_cifar10")


@pytest.mark.parametrize(
    "name", [n if n == "demo_mnist" else pytest.param(n, marks=pytest.mark.slow) for n in EXPORTED]
)
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


def test_a_row_without_a_figure_is_unknown_or_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Reached(model="resnet18", bits=4, source="x.json", case="a")
    paper = Published(model="resnet18", bits=4, value=None, source="somewhere")
    line = Line(recipe=RECIPES["s3_imagenet"], published=paper, reached=ours)
    assert line.cells()[4:6] == ("unknown", "")
    assert line.as_dict()["reached"] is None
    monkeypatch.setitem(FIGURES, ("x.json", "a"), Figure(value=60.0, runs=3, spread=0.5, epochs=9, float_value=61.0))
    assert line.cells()[5] == "60.00 ± 0.50 (float 61.00, 9 epochs)"
    reached = line.as_dict()["reached"]
    assert (reached["value"], reached["float"], reached["epochs"]) == (60.0, 61.0, 9)
    assert reached["command"] == "bitshift train s3_imagenet --data DIR --bits 4 --epochs 9"


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
