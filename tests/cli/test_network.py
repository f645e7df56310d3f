"""A run's network is built again from its description, and weights come from every kind of file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitshift.cli.errors import CliError
from bitshift.cli.network import NetworkSpec, call_user_function
from bitshift.nn.config import Rule, ShiftConfig
from bitshift.train.checkpoint import save_model

FLOAT = NetworkSpec(model="lenet_bn", num_classes=10, input_shape=(1, 28, 28))


def trained(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return FLOAT.build_float()


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_spec_survives_json() -> None:
    import json

    shift = ShiftConfig(
        method="denseshift", bits=3, activations=8, keep_first="int8", rules=(Rule(pattern="fc*", keep="float"),),
        options={"std": 0.1},
    )  # fmt: skip
    spec = NetworkSpec(model="lenet", num_classes=10, input_shape=(1, 28, 28), shift=shift)
    assert NetworkSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec
    assert NetworkSpec.from_dict(json.loads(json.dumps(FLOAT.as_dict()))) == FLOAT


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (None, "lenet_bn, float32"),
        (ShiftConfig(method="s3", bits=2), "lenet_bn, s3 2-bit, float activations"),
        (
            ShiftConfig(method="deepshift_q", bits=5, activations="16.16"),
            "lenet_bn, deepshift_q 5-bit, 16.16 fixed-point",
        ),
        (
            ShiftConfig(format="pot3d", activations=8),
            "lenet_bn, denseshift pot3d, 8-bit activations",
        ),
        (
            ShiftConfig(method="nearest", format="int8", activations=8, keep_last="int8"),
            "lenet_bn, nearest int8, 8-bit activations",
        ),
        (ShiftConfig(bits=3, activations=6, multiplier=True), "6-bit activations, one multiplier a channel"),
    ],
)
def test_a_network_is_described_in_a_line(shift: ShiftConfig | None, words: str) -> None:
    spec = NetworkSpec(model="lenet_bn", num_classes=10, input_shape=(1, 28, 28), shift=shift)
    assert words in spec.describe()
    assert "multiplication" not in spec.describe(), "only a graph can be counted"


def test_weights_load_from_safetensors_torch_files_and_run_directories(tmp_path: Path) -> None:
    model = trained(1)
    save_model(tmp_path / "model.safetensors", model)
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "wrapped.th")
    for path in (tmp_path / "model.safetensors", tmp_path / "plain.pt", tmp_path / "wrapped.th", tmp_path):
        torch.manual_seed(2)
        assert same(FLOAT.build_float(path), model)


def test_state_dicts_from_before_the_norms_counter_load(tmp_path: Path) -> None:
    model = trained(1)
    old = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(old) < len(model.state_dict())
    torch.save(old, tmp_path / "old.pth")
    assert same(FLOAT.build_float(tmp_path / "old.pth"), model)


USER = """
from torch import nn
def plain(): return nn.Linear(2, 2)
def wide(num_classes): return nn.Linear(2, num_classes)
def anything(**given): return nn.Linear(given["in_channels"], given["num_classes"])
def unwilling(depth): return nn.Linear(2, 2)
def nothing(): return None
def broken(): import package_that_does_not_exist
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "cli_user_net.py").write_text(USER)
    monkeypatch.syspath_prepend(tmp_path)
    return "cli_user_net"


def test_a_users_function_gets_the_keywords_it_names(user_module: str) -> None:
    shapes = [
        call_user_function(f"{user_module}:{name}", num_classes=7, in_channels=3).weight.shape
        for name in ("plain", "wide", "anything")
    ]
    assert [tuple(s) for s in shapes] == [(2, 2), (7, 2), (7, 3)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unwilling", r"needs the argument\(s\) depth; bitshift gives only num_classes, in_channels"),
        ("nothing", "returned NoneType; a torch.nn.Module is needed"),
        ("plane", "has no function 'plane'; it has plain, wide"),
    ],
)
def test_a_users_function_that_does_not_fit_is_refused(name: str, message: str, user_module: str) -> None:
    with pytest.raises(CliError, match=message):
        call_user_function(f"{user_module}:{name}", num_classes=7, in_channels=3)


def test_an_integer_network_is_built_again_with_the_same_state_names() -> None:
    spec = NetworkSpec(model="lenet", num_classes=10, input_shape=(1, 28, 28), shift=ShiftConfig(bits=3, activations=8))
    first, report = spec.build()
    second, _ = spec.build()
    assert report is not None
    assert report.converted
    assert list(first.state_dict()) == list(second.state_dict())
