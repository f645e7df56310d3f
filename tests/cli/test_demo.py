"""The demo on a small recipe, and the process that cannot import torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitshift.cli import main
from bitshift.cli.errors import CliError
from bitshift.cli.verbs.demo import run_without_torch
from bitshift.train.recipes import RECIPES, Recipe, get_recipe

BLOCKED = """
import sys
from bitshift.cli.torchless import block_torch
block_torch()
try:
    {statement}
except ModuleNotFoundError as error:
    assert error.name.startswith("torch"), error.name
    sys.exit(3)
"""


@pytest.mark.parametrize(
    "statement", ["import torch", "import torch.nn", "from torch import nn", "import bitshift.nn.convert"]
)
def test_every_way_to_import_torch_is_blocked(statement: str) -> None:
    program = BLOCKED.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr


def test_blocking_too_late_is_refused() -> None:
    program = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')\n"
    program += "from bitshift.cli.torchless import block_torch; block_torch()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "torch was loaded before it could be blocked" in done.stderr


def test_the_file_runs_without_torch_as_the_runtime_does_here(model_file: Path, tmp_path: Path) -> None:
    from bitshift import runtime
    from bitshift.cli.inputs import prepare

    pixels = np.random.default_rng(0).integers(0, 256, (7, 1, 4, 5), dtype=np.uint8)
    integers, about = run_without_torch(model_file, pixels, backend="reference", folder=tmp_path)
    model = runtime.load(model_file, backend="reference")
    np.testing.assert_array_equal(integers, model.run_int(prepare(model, pixels)))
    assert about["torch_blocked"] is True
    assert about["backend"] == "reference"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.safetensors"]


def test_a_failure_in_that_process_is_reported_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_text("no model")
    with pytest.raises(CliError, match=r"without torch failed: .*ModelFileError"):
        run_without_torch(
            tmp_path / "bad.safetensors", np.zeros((1, 1, 4, 5), np.uint8), backend="reference", folder=tmp_path
        )


NET = """
from torch import nn

def net(num_classes, in_channels):
    layers = nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes)
    return nn.Sequential(*layers)
"""


def small_recipe(folder: Path) -> Recipe:
    """The demo's recipe with a model and data of seconds."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = generator.integers(0, 60, (60, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[0, :, 3 * label : 3 * label + 2] += 150
    x, y = images.astype(np.uint8), labels.astype(np.int64)
    np.savez(folder / "digits.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    (folder / "cli_demo_net.py").write_text(NET)
    recipe = get_recipe("demo_mnist")
    assert recipe.float_train is not None
    return replace(
        recipe,
        data=str(folder / "digits.npz"),
        model="cli_demo_net:net",
        train=replace(recipe.train, batch_size=20, progress="off"),
        float_train=replace(recipe.float_train, batch_size=20, progress="off"),
    )


def test_the_demo_shows_equal_integers_and_writes_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RECIPES, "demo_mnist", small_recipe(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    run_dir = tmp_path / "demo"
    assert main(["demo", "--run-dir", str(run_dir), "--epochs", "1", "--no-baselines"]) == 0
    text = capsys.readouterr().out
    assert "0 of 60 output integers differ" in text
    assert str(run_dir / "report.html") in text
    result = json.loads((run_dir / "result.json").read_text())
    assert result["differing_outputs"] == 0
    assert result["compared_outputs"] == 20 * 3
    assert result["simulation_accuracy"] == result["engine_accuracy"]
    assert result["file_bytes"] == (run_dir / "net.safetensors").stat().st_size
    assert 0 <= result["float_accuracy"] <= 1
    assert result["seconds"] > 0
    assert result["torch_blocked"] is True
    assert result["multiplications"] == 0
    parameters = 4 * 9 + 4 + 2 * 4 + 144 * 3 + 3  # weights and biases, and the norm's two
    assert result["float_bytes"] == 4 * parameters
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "not measured; <" in page

    # A second demo replaces the first, and nothing else.
    config = json.loads((run_dir / "config.json").read_text())
    shutil.copytree(run_dir, tmp_path / "mine")
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config | {"about": config["about"] | {"recipe": ""}}))
    (tmp_path / "mine" / "float" / "config.json").unlink()
    before = sorted(tmp_path.glob("mine/**/*"))
    assert main(["demo", "--run-dir", str(tmp_path / "mine"), "--epochs", "1", "--no-baselines"]) == 2
    assert "no earlier demo" in capsys.readouterr().err
    assert sorted(tmp_path.glob("mine/**/*")) == before
    assert main(["demo", "--run-dir", str(run_dir), "--epochs", "1", "--no-baselines", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {k: answer[k] for k in ("engine_accuracy", "file_bytes")} == {
        k: result[k] for k in ("engine_accuracy", "file_bytes")
    }
