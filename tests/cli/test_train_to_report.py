"""The whole way through the verbs on made data: train, eval, export, run, inspect, report, and a resumed training."""

from __future__ import annotations

import contextlib
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bitshift import runtime
from bitshift.cli import main

NET = """
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4 * 4 * 4, num_classes),
    )
"""
FLAGS = [
    "--data", "made.npz", "--model", "cli_smoke_net:net", "--method", "denseshift", "--bits", "3", "--activations", "8",
    "--init", "pretrained", "--float-epochs", "2", "--epochs", "2", "--batch-size", "24", "--lr", "0.02",
    "--set", "log_every=2", "progress=off", "calibration_rows=48",
]  # fmt: skip


def made(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright bar whose place is the class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = generator.integers(0, 60, (count, 1, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[0, :, label * 3 : label * 3 + 2] += 150
    return images.astype(np.uint8), labels.astype(np.int64)


def verb(*argv: str | Path) -> Any:
    """The JSON of a verb that has to succeed."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        code = main([*map(str, argv), "--json"])
    assert code == 0, stream.getvalue()
    return json.loads(stream.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of this module: data, the user's model, and a trained, compared run in ``run``."""
    path = tmp_path_factory.mktemp("smoke")
    (path / "cli_smoke_net.py").write_text(NET)
    x, y = made(96, 0)
    x_test, y_test = made(45, 1)
    names = np.array(["left", "middle", "right"])
    np.savez(path / "made.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test, class_names=names)
    with contextlib.chdir(path), contextlib.redirect_stderr(io.StringIO()):
        (path / "answer.json").write_text(json.dumps(verb("train", *FLAGS, "--run-dir", "run", "--compare")))
        yield path


def test_train_leaves_a_whole_run_directory(folder: Path) -> None:
    found = {p.name for p in (folder / "run").iterdir()}
    assert found >= {
        "config.json", "metrics.jsonl", "checkpoint.safetensors", "model.safetensors", "net.safetensors", "report.html",
        "evaluation.json", "comparison.json", "float", "uniform3", "int8.safetensors",
    }  # fmt: skip
    answer = json.loads((folder / "answer.json").read_text())
    assert answer["network"]["shift"]["method"] == "denseshift"
    assert answer["file_bytes"] == (folder / "run" / "net.safetensors").stat().st_size


def test_the_file_and_the_simulation_have_one_accuracy(folder: Path) -> None:
    simulated = verb("eval", "run")
    by_file = verb("eval", "run/net.safetensors", "--data", "made.npz")
    assert simulated["by"] == "simulation"
    assert by_file["by"] in ("engine", "reference")
    assert simulated["accuracy"] == by_file["accuracy"]
    assert simulated["confusion"] == by_file["confusion"]
    assert simulated["samples"] == 45


def test_export_again_gives_the_same_file_and_checks_it(folder: Path) -> None:
    got = verb("export", "run", "--output", "again.safetensors", "--rows", "20")
    assert got["differing_outputs"] == 0
    assert got["checked_outputs"] == 20 * 3
    one, two = (runtime.load(p).graph for p in (folder / "again.safetensors", folder / "run" / "net.safetensors"))
    assert one.pretty() == two.pretty()
    assert all(np.array_equal(one.constants[k], two.constants[k]) for k in two.constants)


def test_run_names_a_picture_by_the_classes_of_the_data(folder: Path) -> None:
    from PIL import Image

    images, _ = made(3, 5)
    Image.fromarray(images[1, 0]).save(folder / "middle.png")
    np.save(folder / "pixels.npy", images)
    by_picture = verb("run", "run/net.safetensors", "middle.png")["results"][0]["outputs"]
    by_array = verb("run", "run/net.safetensors", "pixels.npy", "--pixels")["results"][1]["outputs"]
    assert by_picture == by_array
    (top,) = (answer["top"] for answer in by_picture.values())
    assert {t["label"] for t in top} == {"left", "middle", "right"}


def test_the_exported_network_is_integer_and_multiplication_free(folder: Path) -> None:
    got = verb("inspect", "run/net.safetensors")
    assert got["multiplications"] == 0
    assert "float32" not in got["values"]
    assert {layer["format"] for layer in got["layers"]} == {"pot3d"}
    assert got["meta"]["labels"] == ["left", "middle", "right"]


def test_the_comparison_measured_all_four_networks(folder: Path) -> None:
    rows = json.loads((folder / "run" / "comparison.json").read_text())["rows"]
    assert [row["kind"] for row in rows] == ["float", "int8", "uniform", "ours"]
    assert [row["weight_bits"] for row in rows] == ["float32", "int8", "int3", "pot3d"]
    assert all(row["samples"] == 45 and 0 <= row["accuracy"] <= 1 for row in rows)
    products = [row["cost"]["multiplications"] + row["cost"]["float_multiplications"] for row in rows]
    assert products[3] == 0
    assert min(products[:3]) > 0


def test_the_report_of_the_run_shows_every_section(folder: Path) -> None:
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    ET.fromstring(page.partition("\n")[2])
    for section in ("comparison", "curves", "levels", "flips", "sizes", "operations", "confusion", "graph"):
        assert f'<section id="{section}">' in page
    assert "not measured" not in page
    assert "Not in this report" not in page


def test_the_report_of_the_file_can_evaluate_it(folder: Path) -> None:
    got = verb("report", "run/net.safetensors", "--data", "made.npz", "--output", "file.html")
    page = (folder / "file.html").read_text(encoding="utf-8")
    assert got["bytes"] == len(page.encode())
    assert '<section id="confusion"><h2>Confusion matrix</h2><p>made.npz, test rows' in page


def test_train_again_returns_the_finished_run_and_no_resume_refuses(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "run" / "model.safetensors").read_bytes()
    again = verb("train", *FLAGS, "--run-dir", "run")
    assert again["accuracy"] == json.loads((folder / "answer.json").read_text())["accuracy"]
    assert (folder / "run" / "model.safetensors").read_bytes() == before
    assert main(["train", *FLAGS, "--run-dir", "run", "--no-resume"]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_another_configuration_in_a_used_directory_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *FLAGS, "--run-dir", "run", "--seed", "5"]) == 2
    assert "another configuration" in capsys.readouterr().err


def test_a_used_directory_is_refused_before_a_float_twin_is_trained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*FLAGS[:4], "--epochs", "1", "--batch-size", "24", "--set", "progress=off"]
    assert main(["train", *flags, "--pretrained", "run/float", "--run-dir", "taught", "--no-export"]) == 0
    assert main(["train", *flags, "--float-epochs", "1", "--run-dir", "taught", "--no-export"]) == 2
    assert "pretrained: 'run/float' then, '' now" in capsys.readouterr().err
    assert not (folder / "taught" / "float").exists()


def test_convert_rounds_calibrates_and_leaves_a_run_that_exports(folder: Path) -> None:
    got = verb(
        "convert", "cli_smoke_net:net", "--weights", "run/float", "--data", "made.npz", "--format", "pot4x2",
        "--activations", "8", "--output", "rounded",
    )  # fmt: skip
    assert {row["format"] for row in got["rows"] if row["format"]} == {"pot4x2"}
    assert 0 <= got["accuracy"] <= 1
    assert verb("eval", "rounded")["accuracy"] == got["accuracy"]
    assert verb("export", "rounded")["differing_outputs"] == 0
    verb("report", "rounded")
    page = (folder / "rounded" / "report.html").read_text(encoding="utf-8")
    assert "not measured; <" in page
    assert "bitshift report rounded --measure" in page


def test_convert_takes_the_pixels_and_the_augmentation_of_the_training(folder: Path) -> None:
    flags = ["--weights", "run/float", "--data", "made.npz", "--format", "pot4x2", "--activations", "8"]
    verb("convert", "cli_smoke_net:net", *flags, "--augment", "shift", "--normalise", "pixel", "--output", "shifted")
    assert json.loads((folder / "shifted" / "config.json").read_text())["data"]["normalise"] == {
        "mean": [128.0], "scale": [1 / 64],
    }  # fmt: skip
    verb("convert", "cli_smoke_net:net", *flags, "--normalise", "pixel", "--output", "plain_images")
    grids = [load_file(folder / name / "model.safetensors") for name in ("shifted", "plain_images")]
    assert any(not torch.equal(grids[0][key], grids[1][key]) for key in grids[0]), "the augmentation changed nothing"
    assert main(["convert", "cli_smoke_net:net", *flags, "--augment", "shiftt"]) == 2


def test_an_export_says_how_often_the_file_multiplies_and_its_name_does_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb("convert", "cli_smoke_net:net", "--weights", "run/float", "--data", "made.npz", "--method", "nearest",
         "--format", "int8", "--activations", "8", "--output", "run-int8")  # fmt: skip
    for run, words in (("run-int8", "multiplications a sample"), ("run", "8-bit activations, multiplication-free")):
        assert main(["export", run, "--output", "said.safetensors"]) == 0
        assert words in capsys.readouterr().out
        assert "multiplication" not in verb("inspect", "said.safetensors")["meta"]["name"]
    assert "multiplication-free" not in (verb("report", "run-int8") and Path("run-int8/report.html").read_text())


def test_uniform_weights_are_measured_beside_a_run_of_rules(folder: Path) -> None:
    """What `bitshift search` writes; a rule that says only options keeps its layer from the rule behind it."""
    net = ("--model", "cli_smoke_net:net", "--pretrained", "run/float", "--init", "pretrained", "--method", "nearest")
    found = {x["name"]: x["weights"] for x in verb("inspect", "run/net.safetensors")["layers"]}
    (first, _), *_ = found.items()
    rules = [{"pattern": first, "options": {"scale": "pot"}}, {"pattern": "*", "format": "pot4x2"}]
    (folder / "rules.json").write_text(json.dumps(rules))
    shared = ("--data", "made.npz", "--activations", "8", "--batch-size", "32", "--set", "progress=off")
    verb("train", *shared, *net, "--rules", "rules.json", "--epochs", "1", "--run-dir", "run-mixed")
    verb("report", "run-mixed", "--measure")
    rows = json.loads(Path("run-mixed/comparison.json").read_text())["rows"]
    (row,) = (row for row in rows if row["kind"] == "uniform")
    assert row["weight_bits"] == "int3, int4"
    mean = (3 * found[first] + 4 * (sum(found.values()) - found[first])) / sum(found.values())
    assert row["name"] == f"uniform {mean:.2f} bits a weight"


def test_a_weight_only_network_exports_within_a_tolerance(folder: Path) -> None:
    verb("convert", "cli_smoke_net:net", "--weights", "run/float", "--data", "made.npz", "--output", "floats")
    got = verb("export", "floats")
    assert got["largest_error"] < 1e-4
    assert (
        verb("eval", "floats")["accuracy"] == verb("eval", "floats/net.safetensors", "--data", "made.npz")["accuracy"]
    )


def test_a_float_network_trains_without_a_twin(folder: Path) -> None:
    flags = [*FLAGS[:4], "--method", "float", "--epochs", "1", "--batch-size", "24", "--set", "progress=off"]
    got = verb("train", *flags, "--run-dir", "plain", "--no-export")
    assert got["network"]["shift"] is None
    assert got["float_accuracy"] is None
    assert '<section id="curves">' in (folder / "plain" / "report.html").read_text(encoding="utf-8")


def test_pixels_divided_by_255_train_the_same_network_and_features_stay_apart(folder: Path) -> None:
    x, y = made(96, 0)
    x_test, y_test = made(45, 1)
    x[0, 0, 0, 0] = x_test[0, 0, 0, 0] = 255
    for name, factor in (("bytes", None), ("floats", 255), ("features", 254.5)):
        images = [pixels if factor is None else pixels / np.float32(factor) for pixels in (x, x_test)]
        np.savez(f"{name}.npz", x_train=images[0], y_train=y, x_test=images[1], y_test=y_test)
    answers = {
        name: verb("train", "--data", f"{name}.npz", *FLAGS[2:], "--run-dir", f"run-{name}", "--epochs", "1")
        for name in ("bytes", "floats", "features")
    }
    assert answers["bytes"]["loss"] == answers["floats"]["loss"] != answers["features"]["loss"]
    assert verb("eval", "run-features")["accuracy"] == answers["features"]["accuracy"]
    for words, message in (
        (("eval", "run-bytes", "--data", "features.npz"), "trained on uint8 pixels 0..255, and the data hold float32"),
        (("eval", "run-features", "--data", "bytes.npz"), "trained on float32 features, and the data hold uint8"),
        (("eval", "run-bytes/net.safetensors", "--data", "features.npz"), "the model takes pictures"),
        (("train", "--data", "features.npz", *FLAGS[2:], "--normalise", "imagenet"), "--normalise data"),
        (("train", "--data", "features.npz", *FLAGS[2:], "--pretrained", "run-bytes",
          "--pretrained-normalise", "pixel", "--float-epochs", "0"),
         "--pretrained-normalise pixel is for pixels"),
    ):  # fmt: skip
        stream = io.StringIO()
        with contextlib.redirect_stderr(stream):
            assert main([*map(str, words)]) == 2
        assert message in stream.getvalue()


def test_an_array_is_scaled_and_the_run_remembers_the_size(folder: Path) -> None:
    (folder / "cli_any_size_net.py").write_text(
        "from torch import nn\ndef net(num_classes, in_channels):\n"
        "    parts = nn.Conv2d(in_channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    return nn.Sequential(*parts, nn.Linear(4, num_classes))\n"
    )
    size = ("--model", "cli_any_size_net:net", "--image-size", "12")
    verb("train", *FLAGS, *size, "--run-dir", "run-scaled", "--epochs", "1", "--float-epochs", "0")
    about = json.loads(Path("run-scaled/config.json").read_text())["about"]
    assert about["network"]["input_shape"] == [1, 12, 12]
    assert verb("eval", "run-scaled")["samples"] == 45
