"""``bitshift search`` from a float network to a rules file that ``convert`` takes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bitshift.cli import main
from bitshift.train.models import build


@pytest.fixture
def trained(tmp_path):
    """Weights of a small network and a data set of its shape."""
    torch.manual_seed(0)
    net = build("lenet_bn", num_classes=3, in_channels=1).train()
    for _ in range(3):
        net(torch.randn(16, 1, 28, 28))
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "net.safetensors")
    rng = np.random.default_rng(0)
    arrays = {f"x_{s}": rng.integers(0, 256, (24, 28, 28), dtype=np.uint8) for s in ("train", "test")}
    arrays |= {f"y_{s}": np.arange(24) % 3 for s in ("train", "test")}
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path


def search(folder, *flags: str) -> int:
    common = ["--weights", str(folder / "net.safetensors"), "--data", str(folder / "data.npz"), "--rows", "24"]
    return main(["search", "lenet_bn", *common, "--output", str(folder / "rules.json"), *flags])


def test_a_rules_file_as_small_as_three_bits_everywhere(trained, capsys):
    assert search(trained, "--like", "pot3d", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["bits_a_weight"] <= 3
    uniform = sum(layer["kl"]["pot3d"] for layer in answer["layers"])
    assert answer["sum_of_kl"] <= uniform
    rules = json.loads((trained / "rules.json").read_text())
    assert [rule["pattern"] for rule in rules] == [layer["path"] for layer in answer["layers"]]
    flags = ["--weights", str(trained / "net.safetensors"), "--data", str(trained / "data.npz"), "--json"]
    assert main(["convert", "lenet_bn", *flags, "--rules", str(trained / "rules.json")]) == 0
    converted = json.loads(capsys.readouterr().out)
    formats = {row["path"]: row["format"] for row in converted["rows"] if row.get("format")}
    assert formats == {rule["pattern"]: rule["format"] for rule in rules}


def test_rules_that_are_given_keep_their_layers(trained, capsys):
    (trained / "kept.json").write_text(json.dumps([{"pattern": "conv1", "keep": "int8"}]))
    assert search(trained, "--bits", "2.5", "--rules", str(trained / "kept.json"), "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert "conv1" not in [layer["path"] for layer in answer["layers"]]
    assert json.loads((trained / "rules.json").read_text())[0] == {"pattern": "conv1", "keep": "int8"}


def test_a_budget_of_time_is_measured_in_the_engine(trained, capsys):
    assert search(trained, "--ms", "1000", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["unit"] == "ms"
    assert 0 < answer["cost"] < 1000
    assert search(trained, "--ms", "0.000001") != 0
    assert "raise the budget" in capsys.readouterr().err


def test_a_run_s_normalisation_is_that_of_its_weights(trained, capsys):
    """``search`` and ``convert`` take a run directory; its network must see the pixels that it was trained on."""
    (trained / "run").mkdir()
    (trained / "net.safetensors").rename(trained / "run" / "model.safetensors")
    said = {"data": {"normalise": {"mean": [0.0], "scale": [0.125]}}}
    (trained / "run" / "config.json").write_text(json.dumps(said))
    divergences = []
    for more in ((), ("--normalise", "data")):
        common = ["--data", str(trained / "data.npz"), "--output", str(trained / "rules.json"), "--rows", "24"]
        assert (
            main(["search", "lenet_bn", "--weights", str(trained / "run"), *common, "--bits", "3", "--json", *more])
            == 0
        )
        divergences.append(json.loads(capsys.readouterr().out)["sum_of_kl"])
    assert divergences[0] != divergences[1]
    flags = ["--weights", str(trained / "run"), "--data", str(trained / "data.npz"), "--output", str(trained / "made")]
    assert main(["convert", "lenet_bn", *flags]) == 0
    assert json.loads((trained / "made" / "config.json").read_text())["data"]["normalise"] == said["data"]["normalise"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give one budget"),
        (("--bits", "3", "--kb", "10"), "give one budget"),
        (("--bits", "1"), "the narrowest of --formats has 2"),
        (("--kb", "1"), "below"),
        (("--like", "pot3e"), "pot3e"),
        (("--bits", "3", "--formats", "pot3d", "pot9"), "pot9"),
        (("--bits", "3", "--normalise", "mnist"), "mnist"),
        (("--bits", "3", "--rows", "0"), "--rows 0"),
    ],
)
def test_bad_flags_are_named(trained, capsys, flags, message):
    assert search(trained, *flags) != 0
    assert message in capsys.readouterr().err


def test_a_budget_of_kilobytes_counts_the_layers_that_rules_keep(trained, capsys):
    rules = trained / "kept.json"
    rules.write_text(json.dumps([{"pattern": "fc1", "keep": "int8"}, {"pattern": "conv1", "keep": "float"}]))
    net = build("lenet_bn", num_classes=3, in_channels=1)
    kept = net.fc1.weight.numel() + 4 * net.conv1.weight.numel()
    assert search(trained, "--kb", str((kept + 1) / 1000), "--rules", str(rules)) == 2
    assert "is below" in capsys.readouterr().err
    assert search(trained, "--kb", str((kept + 9000) / 1000), "--rules", str(rules), "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["cost"] / 8 == answer["bytes"] + kept <= kept + 9000


def test_a_rule_that_matches_nothing_is_refused_before_the_scan(trained, capsys):
    (trained / "kept.json").write_text(json.dumps([{"pattern": "layer9.*", "format": "pot3d"}]))
    assert search(trained, "--like", "pot3d", "--rules", str(trained / "kept.json")) == 2
    assert "'layer9.*' matches no layer" in capsys.readouterr().err
    assert not (trained / "rules.json").exists()
