"""Data, run directories and networks that do not belong together, refused before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bitshift.cli import main

NETS = """
from torch import nn

def small(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, num_classes)
    )

def pooled(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))

def dense():
    return nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1))

def one():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
"""
BUDGET = ["--epochs", "1", "--batch-size", "4", "--set", "progress=off", "--no-export"]


def pictures(path: Path, size: int) -> str:
    x = np.random.default_rng(0).integers(0, 256, (8, 3, size, size), dtype=np.uint8)
    np.savez(path, x_train=x, y_train=np.arange(8) % 2, x_test=x, y_test=np.arange(8) % 2)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory: networks, pictures of 8x8 and 12x12, and a trained run of ``small`` with a float twin."""
    path = tmp_path_factory.mktemp("unfit")
    (path / "unfit_nets.py").write_text(NETS)
    pictures(path / "8.npz", 8)
    pictures(path / "12.npz", 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        train = ["train", "--data", "8.npz", *BUDGET]
        assert main([*train, "--model", "unfit_nets:small", "--float-epochs", "1", "--run-dir", "run"]) == 0
        assert main([*train, "--model", "unfit_nets:pooled", "--method", "float", "--run-dir", "pooled"]) == 0
        yield path


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["eval", "run", "--data", "12.npz"],
            "12.npz: the data are (3, 12, 12) a sample, the run takes (3, 8, 8); the sample ([1, 3, 12, 12]) does not",
        ),
        (["export", "run", "--data", "12.npz"], "12.npz: the data are (3, 12, 12) a sample, the run takes (3, 8, 8)"),
        (
            ["train", "--data", "12.npz", "--backbone", "run", *BUDGET, "--run-dir", "new"],
            "12.npz: the data are (3, 12, 12) a sample, --backbone run was trained on (3, 8, 8); ",
        ),
        (
            ["train", "--data", "8.npz", "--model", "unfit_nets:dense", *BUDGET, "--run-dir", "new"],
            "one logit a class is needed, [N, 2], found [N, 2, 8, 8]; a map of classes is trained as in bench/",
        ),
        (
            ["train", "--data", "8.npz", "--model", "unfit_nets:one", *BUDGET, "--run-dir", "new"],
            "one logit a class is needed, [N, 2], found [N, 1]; give the last layer 2 outputs",
        ),
        (
            ["train", "--data=8.npz", "--model", "unfit_nets:small", "--pretrained", "run", *BUDGET, "--run-dir=new"],
            "run holds the latents of a shift network; give its float twin, run/float, or go on",
        ),
        (
            ["search", "unfit_nets:small", "--weights", "run", "--data", "8.npz", "--bits", "3", "--output", "r.json"],
            "run holds the latents of a shift network; give its float twin, run/float, or go on",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_on_both_sides(words, message, capsys) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not Path("new").exists()


def test_a_network_for_any_size_is_evaluated_on_another(capsys) -> None:
    assert main(["eval", "pooled", "--data", "12.npz"]) == 0


def test_an_integer_network_without_grids_yet_starts_from_a_float_backbone() -> None:
    words = ["train", "--data", "8.npz", "--backbone", "pooled", *BUDGET, "--run-dir", "based"]
    assert main([*words, "--method", "denseshift", "--activations", "8"]) == 0


def test_grids_without_data_are_named_with_the_command_that_sets_them(capsys) -> None:
    words = ["unfit_nets:small", "--activations", "8"]
    assert main(["convert", *words, "--input-shape", "3", "8", "8", "--output", "bare"]) == 0
    said = capsys.readouterr()
    assert "bare cannot be exported yet: the same command with --data DATA in place of --input-shape" in said.err
    assert "bitshift export" not in said.out
    assert main(["export", "bare", "--data", "8.npz"]) == 2
    assert "`bitshift convert unfit_nets:small --data DATA` with its other flags" in capsys.readouterr().err
    assert main(["convert", *words, "--data", "8.npz", "--output", "made"]) == 0
    assert "next, bitshift export made" in capsys.readouterr().out
    assert main(["export", "made"]) == 0


def test_what_an_early_end_leaves_is_no_foreign_folder(folder: Path) -> None:
    started = folder / "started"
    (started / "float").mkdir(parents=True)
    for name in (".lock", "train.log", "slurm-1.out"):
        (started / name).touch()
    words = ["train", "--data", "8.npz", "--model", "unfit_nets:small", *BUDGET, "--run-dir", "started"]
    assert main(words) == 0
    assert main(words) == 0
