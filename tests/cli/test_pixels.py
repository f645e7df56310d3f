"""Pretrained weights of other pixels: folded, remembered, and built again."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitshift.cli import main
from bitshift.cli.network import NetworkSpec
from bitshift.train.recipes import NORMALISE

NET = """
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(216, num_classes),
    )
"""
PIXELS = ["--normalise", "pixel", "--pretrained-normalise", "imagenet"]


def verb(*argv: str) -> Any:
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        code = main([*argv, "--json"])
    assert code == 0, stream.getvalue()
    return json.loads(stream.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A net whose first layer has no bias, its weights, and images labelled by it on ImageNet's pixels."""
    path = tmp_path_factory.mktemp("pixels")
    (path / "net_of_pixels.py").write_text(NET)
    x = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8), dtype=np.uint8)
    with contextlib.chdir(path), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        torch.manual_seed(0)
        net = NetworkSpec(model="net_of_pixels:net", num_classes=3, input_shape=(3, 8, 8)).build_float().eval()
        with torch.no_grad():
            logits = net(NORMALISE["imagenet"](torch.from_numpy(x)))
            y = (logits - logits.mean(0)).argmax(1).numpy()
            net[-1].bias -= logits.mean(0)
        torch.save(net.state_dict(), "w.pt")
        np.savez("d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        yield path


@pytest.mark.parametrize("flags", [[], ["--activations", "8"], ["--activations", "8", "--multiplier", "True"]])
def test_convert_takes_weights_of_other_pixels_and_the_run_is_built_again(folder: Path, flags: list[str]) -> None:
    common = ["convert", "net_of_pixels:net", "--weights", "w.pt", "--data", "d.npz", "--bits", "5", *flags]
    run = f"run-{len(flags)}"
    moved = verb(*common, *PIXELS, "--output", run)
    assert moved["float_accuracy"] == 1.0
    about = json.loads(Path(run, "config.json").read_text())["about"]
    assert about["pretrained_pixels"]["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert verb("eval", run)["accuracy"] == moved["accuracy"]


def test_the_report_shows_the_grids_that_data_have_set(folder: Path) -> None:
    def types(*flags: str) -> list[str]:
        rows = verb("convert", "net_of_pixels:net", "--activations", "8", *flags)["rows"]
        return [row["quantiser"] for row in rows if row["quantiser"]]

    assert set(types("--input-shape", "3", "8", "8")) == {
        "s8, grid from the first data", "u8, grid from the first data",
    }  # fmt: skip
    assert all(re.fullmatch(r"[su]8\.-?\d+", found) for found in types("--data", "d.npz"))


def test_without_the_flag_the_same_weights_see_other_pixels(folder: Path) -> None:
    weights = ["convert", "net_of_pixels:net", "--weights", "w.pt", "--data", "d.npz"]
    assert verb(*weights, "--normalise", "pixel")["float_accuracy"] < 1.0
    assert verb(*weights, "--normalise", "imagenet")["float_accuracy"] == 1.0


def test_a_folded_training_is_exported_compared_and_trained_on(folder: Path) -> None:
    common = ["train", "--data", "d.npz", "--model", "net_of_pixels:net", "--epochs", "1", "--batch-size", "20"]
    start = ["--pretrained", "w.pt", *PIXELS, "--init", "pretrained", "--bits", "4", "--lr", "1e-6"]
    trained = verb(*common, *start, "--run-dir", "trained")
    assert verb("eval", "trained")["accuracy"] == trained["accuracy"]
    float_net = verb(*common, *start[:-4], "--lr", "1e-6", "--method", "float", "--no-export", "--run-dir", "float")
    assert json.loads(Path("float/config.json").read_text())["about"]["network"]["input_bias"] is True
    again = [*common, "--lr", "1e-9", "--method", "float", "--no-export", "--normalise", "pixel"]
    assert verb(*again, "--pretrained", "float", "--run-dir", "again")["accuracy"] == float_net["accuracy"]
    assert verb(*again, "--backbone", "float", "--new-head", "4", "--run-dir", "onward")["samples" if 0 else "run_dir"]
    assert (
        "0.bias"
        in NetworkSpec.from_dict(json.loads(Path("onward/config.json").read_text())["about"]["network"])
        .build_float()
        .state_dict()
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input-shape", "3", "8", "8", "--weights", "w.pt"], "--pretrained-normalise imagenet needs --data"),
        (["--data", "d.npz"], "--pretrained-normalise imagenet needs --weights"),
        (["--data", "d.npz", "--weights", "w.pt", "--pretrained-normalise", "pixels"], "did you mean 'pixel'"),
    ],
)
def test_what_the_flag_needs_is_said(folder: Path, capsys: pytest.CaptureFixture[str], flags, message) -> None:
    assert main(["convert", "net_of_pixels:net", *PIXELS, *flags]) == 2
    assert message in capsys.readouterr().err
