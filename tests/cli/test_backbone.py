"""`bitshift train --backbone`: everything but the head comes from another training."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bitshift.cli import main
from bitshift.cli.backbone import Backbone, build_on
from bitshift.cli.errors import CliError
from bitshift.cli.network import NetworkSpec
from bitshift.cli.runs import open_run
from bitshift.nn.transfer import discrete_weights
from bitshift.train.models import build

FLAGS = ["--epochs", "1", "--batch-size", "16", "--lr", "0.01", "--no-export"]


def digits(path: Path, classes: int, seed: int) -> Path:
    """A small set of noisy blobs in a .npz file."""
    rng = np.random.default_rng(seed)
    y = np.arange(48) % classes
    x = rng.integers(0, 60, (48, 1, 28, 28)) + (60 + 150 * y[:, None, None, None] // classes)
    np.savez(path, x_train=x.astype(np.uint8), y_train=y, x_test=x[:16].astype(np.uint8), y_test=y[:16])
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a DenseShift network on four classes."""
    folder = tmp_path_factory.mktemp("backbone")
    run = folder / "run"
    data = digits(folder / "four.npz", 4, 0)
    args = ["train", "--data", str(data), "--model", "lenet_bn", "--run-dir", str(run), *FLAGS]
    assert main([*args, "--init", "pretrained", "--seed", "3"]) == 0
    return run


def train(out: Path, data: Path, *args: str) -> dict[str, Any]:
    """Run the verb; the new run's config.json."""
    assert main(["train", "--data", str(data), "--run-dir", str(out), *FLAGS, *args]) == 0
    return json.loads((out / "config.json").read_text())


def test_latents_and_layout_come_from_the_run_and_only_the_head_is_new(source: Path, tmp_path: Path) -> None:
    data = digits(tmp_path / "three.npz", 3, 1)
    config = train(tmp_path / "new", data, "--backbone", str(source), "--lr", "1e-12")
    network = config["about"]["network"]
    assert (network["model"], network["num_classes"]) == ("lenet_bn", 3)
    assert network["shift"]["rules"][0]["pattern"] == "fc2"
    assert network["shift"]["rules"][0]["init"] == "random"
    old, new = (load_file(run / "model.safetensors") for run in (source, tmp_path / "new"))
    for name in ("conv1.method.stack", "fc1.method.stack"):
        assert np.allclose(old[name], new[name], atol=1e-8)
    assert new["fc2.method.stack"].shape == (4, 3, 500)
    assert float(new["fc2.method.stack"].std()) == pytest.approx(1e-3, rel=0.1)
    assert open_run(tmp_path / "new").network().fc2.method.shape == (3, 500)


def test_discrete_weights_alone_start_the_backbone_on_the_same_levels(source: Path, tmp_path: Path) -> None:
    trained = open_run(source).network()
    save_file(discrete_weights(trained), tmp_path / "weights.safetensors")
    data = digits(tmp_path / "three.npz", 3, 1)
    config = train(
        tmp_path / "new", data, "--backbone", str(tmp_path / "weights.safetensors"), "--model", "lenet_bn",
        "--option", "start=sign_consistent", "--lr", "1e-12",
    )  # fmt: skip
    assert config["about"]["network"]["shift"]["init"] == "pretrained"
    network = open_run(tmp_path / "new").network()
    assert np.array_equal(network.conv2.weight.detach(), trained.conv2.weight.detach())
    assert float(network.conv2.method.stack.detach().std()) == pytest.approx(1e-3, rel=0.1)


def test_an_integer_network_s_latents_norms_and_grids_are_carried_over(tmp_path: Path) -> None:
    first = digits(tmp_path / "four.npz", 4, 0)
    train(tmp_path / "run", first, "--model", "lenet_bn", "--activations", "8")
    data = digits(tmp_path / "three.npz", 3, 1)
    config = train(tmp_path / "new", data, "--backbone", str(tmp_path / "run"), "--lr", "1e-12")
    assert config["about"]["network"]["shift"]["activations"] == 8
    old, new = (load_file(tmp_path / run / "model.safetensors") for run in ("run", "new"))
    latents = [name for name in old if name.endswith("method.stack") and not name.startswith("fc2")]
    grids = [name for name in old if "quant" in name and name.endswith("log2_step")]
    assert latents
    assert grids
    for name in latents:
        assert np.allclose(old[name], new[name], atol=1e-8)
    assert new["fc2.method.stack"].shape == (4, 3, 500)


def test_a_float_backbone_stays_float_or_starts_a_shift_network(source: Path, tmp_path: Path) -> None:
    first = digits(tmp_path / "four.npz", 4, 0)
    train(tmp_path / "float", first, "--model", "lenet_bn", "--method", "float")
    data = digits(tmp_path / "three.npz", 3, 1)
    backbone = ["--backbone", str(tmp_path / "float")]
    assert train(tmp_path / "a", data, *backbone)["about"]["network"]["shift"] is None
    config = train(tmp_path / "b", data, *backbone, "--method", "denseshift", "--new-head", "fc*")
    assert [r["pattern"] for r in config["about"]["network"]["shift"]["rules"]] == ["fc1", "fc2"]


def test_pixels_are_those_of_the_backbone_s_run_unless_a_flag_says_otherwise(source: Path, tmp_path: Path) -> None:
    data = digits(tmp_path / "data.npz", 5, seed=2)
    recorded = {"mean": [10.0], "scale": [0.01]}
    run = shutil.copytree(source, tmp_path / "source")
    config = json.loads((run / "config.json").read_text())
    config["data"]["normalise"] = recorded
    (run / "config.json").write_text(json.dumps(config))
    choices = ((), ("--normalise", "pixel"))
    runs = [train(tmp_path / f"run{n}", data, "--backbone", str(run), *flags) for n, flags in enumerate(choices)]
    assert [config["data"]["normalise"] for config in runs] == [recorded, {"mean": [128.0], "scale": [1 / 64]}]


def test_what_cannot_be_a_backbone_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(digits(tmp_path / "three.npz", 3, 1))

    def refused(*args: str) -> str:
        assert main(["train", "--data", data, "--run-dir", str(tmp_path / "x"), *FLAGS, *args]) != 0
        return capsys.readouterr().err

    assert "--new-head needs --backbone" in refused("--model", "lenet", "--new-head", "fc2")
    assert "no such file or directory" in refused("--backbone", str(tmp_path / "nowhere"))
    assert "replaces --pretrained" in refused("--backbone", str(source), "--pretrained", str(source))
    assert "'head' matches no module" in refused("--backbone", str(source), "--new-head", "head")
    said = refused("--backbone", str(source), "--bits", "2")
    assert "(4, 20, 1, 5, 5) there and (2, 20, 1, 5, 5) here" in said
    assert "Latents fit a network of the same model, method and format only: leave out --model" in said
    said = refused("--backbone", str(source), "--method", "s3", "--bits", "3")
    assert "layer 'conv1' was trained as denseshift in pot3d and is s3 in pot3 here" in said
    assert "leave out --method float" in refused("--backbone", str(source), "--method", "float")
    assert "--new-head takes patterns of module paths" in refused("--backbone", str(source), "--new-head", "head")


def test_a_float_backbone_that_does_not_fit_names_the_option_that_would(tmp_path: Path) -> None:
    def refused(state: dict[str, Any], *new: str) -> str:
        save_file(state, tmp_path / "b.safetensors")
        spec = NetworkSpec(model="lenet_bn", num_classes=3, input_shape=(1, 28, 28))
        with pytest.raises(CliError) as caught:
            build_on(Backbone(path=tmp_path / "b.safetensors", new=new), spec, generator=torch.Generator())
        assert "new=" not in str(caught.value)
        return str(caught.value)

    own = build("lenet_bn", num_classes=3, in_channels=1).state_dict()
    state = {name: t for name, t in own.items() if not name.startswith(("conv1", "fc1"))}
    said = refused(state)
    assert "the backbone has no conv1.weight, fc1.weight.\n" in said
    assert "Begin these parts anew: --new-head conv1 fc1 (and the last layer" in said
    said = refused(build("resnet8", num_classes=9, in_channels=3).state_dict())
    assert re.search(r"the backbone has no .* and \d+ more; .* there and .* here", said)
    assert "These are weights of resnet8: --model resnet8" in said
