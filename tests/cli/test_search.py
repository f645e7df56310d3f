"""``bitshift search`` from a float network to a rules file that ``convert`` takes."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bitshift.cli import main
from bitshift.cli.errors import CliError
from bitshift.cli.verbs.search import Search
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
        (("--bits", "3", "--normalise", "minst"), "mnist"),
        (("--bits", "3", "--rows", "0"), "--rows 0"),
        (("--kb", "-1"), "--kb -1: a budget must be a finite number above 0"),
        (("--bits", "nan"), "--bits nan: a budget must be a finite number above 0"),
        (("--ms", "nan"), "--ms nan"),
        (("--ms", "inf"), "--ms inf"),
        (("--ms", "1", "--activations", "9"), "activations=9"),
    ],
)
def test_bad_flags_are_named_before_anything_is_measured(trained, capsys, flags, message, monkeypatch):
    monkeypatch.setattr("bitshift.train.search.sensitivity._divergence", measured_too_early)
    assert search(trained, *flags) == 2
    assert message in capsys.readouterr().err


def measured_too_early(*_):
    raise AssertionError("a layer was measured")


TIED = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.a, self.b = (nn.Linear(28, 28, bias=bias) for bias in (True, False))
        self.b.weight = self.a.weight
        self.fc = nn.Linear(28 * 28, classes)

    def forward(self, x):
        return self.fc(self.b(self.a(x).relu()).relu().flatten(1))

def net(num_classes):
    return Net(num_classes)
"""


@pytest.fixture
def tied(trained, monkeypatch):
    """Weights of a network whose first two layers have one weight, and what it takes of the command line."""
    (trained / "tied_net.py").write_text(TIED)
    monkeypatch.syspath_prepend(trained)
    import tied_net

    torch.manual_seed(0)
    torch.save(tied_net.net(3).state_dict(), trained / "tied.pt")
    return ["tied_net:net", "--weights", str(trained / "tied.pt"), "--data", str(trained / "data.npz")]


@pytest.mark.parametrize("budget", [("--like", "pot3d"), ("--ms", "1000")], ids=["like", "ms"])
def test_layers_with_one_weight_cost_once_and_take_one_format(trained, tied, budget, capsys):
    flags = [*tied, "--rows", "24", "--output", str(trained / "rules.json"), *budget, "--json"]
    assert main(["search", *flags]) == 0
    answer = json.loads(capsys.readouterr().out)
    first, _ = answer["layers"]
    assert (first["path"], first["tied"], first["weights"]) == ("a", ["b"], 784)
    rules = {rule["pattern"]: rule["format"] for rule in json.loads((trained / "rules.json").read_text())}
    assert list(rules) == ["a", "b", "fc"]
    assert rules["a"] == rules["b"]
    if budget[0] == "--ms":
        return
    assert answer["bytes"] <= 3 * (784 + 3 * 784) / 8
    assert main(["convert", *tied, "--method", "nearest", "--rules", str(trained / "rules.json"), "--json"]) == 0
    converted = json.loads(capsys.readouterr().out)
    assert {row["path"]: row["format"] for row in converted["rows"] if row.get("format")} == rules


def test_a_budget_of_kilobytes_counts_a_kept_weight_of_two_layers_once(trained, tied, capsys):
    rules = trained / "kept.json"
    rules.write_text(json.dumps([{"pattern": "[ab]", "keep": "int8"}]))
    flags = [*tied, "--rows", "24", "--output", str(trained / "rules.json"), "--rules", str(rules), "--json"]
    assert main(["search", *flags, "--kb", str((784 + 3 * 784 / 4) / 1000)]) == 0
    assert [layer["path"] for layer in json.loads(capsys.readouterr().out)["layers"]] == ["fc"]


def test_a_budget_of_kilobytes_may_be_exactly_the_cheapest():
    """1.001 kB are 8008 bits, but 8e3 * 1.001 is less in floats."""
    flags = {"model": "lenet_bn", "weights": Path("w"), "data": "d", "output": Path("o.json"), "formats": ("int8",)}
    layers = (SimpleNamespace(weights=1001),)
    Search(kb=1.001, **flags)._check_kb(layers, nn.Linear(1, 1), ())
    with pytest.raises(CliError, match=r"--kb 1 is below 1\.001"):
        Search(kb=1.0, **flags)._check_kb(layers, nn.Linear(1, 1), ())


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
