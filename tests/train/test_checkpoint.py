"""Checkpoint files: atomic, exact, and refused by name when damaged."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from bitshift.nn.config import ShiftConfig
from bitshift.nn.convert import convert
from bitshift.train import checkpoint as ckpt
from bitshift.train.checkpoint import Checkpoint, CheckpointError


def some() -> Checkpoint:
    return Checkpoint(tensors={"a.x": torch.arange(3.0), "b": torch.tensor(True)}, state={"step": 7, "loss": 0.1 + 0.2})


def test_a_checkpoint_comes_back_exactly(tmp_path):
    ckpt.save_checkpoint(tmp_path, some())
    found = ckpt.load_checkpoint(tmp_path)
    assert found is not None
    assert found.state == {"version": 1, "step": 7, "loss": 0.1 + 0.2}
    assert torch.equal(found.tensors["a.x"], torch.arange(3.0))
    assert ckpt.under("a", found.tensors).keys() == {"x"}
    assert json.loads((tmp_path / "checkpoint.json").read_text()) == found.state


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert ckpt.load_checkpoint(tmp_path) is None


def test_a_write_that_fails_half_way_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    ckpt.save_checkpoint(tmp_path, some())

    def full(_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ckpt.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            ckpt.save_checkpoint(tmp_path, Checkpoint(tensors={}, state={"step": 8}))
    found = ckpt.load_checkpoint(tmp_path)
    assert found is not None
    assert found.state["step"] == 7


@pytest.mark.parametrize("damage", [lambda b: b[:40], lambda b: b"", lambda b: b"\xff" * 100, lambda b: b[:-2]])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, damage):
    ckpt.save_checkpoint(tmp_path, some())
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: not a readable .*; delete it to begin"):
        ckpt.load_checkpoint(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"state": "{"}, {"other": "x"}])
def test_a_foreign_safetensors_file_is_refused(tmp_path, metadata):
    (tmp_path / "checkpoint.safetensors").write_bytes(ckpt.tensor_bytes({"x": torch.zeros(1)}, metadata))
    with pytest.raises(CheckpointError, match="no checkpoint of bitshift"):
        ckpt.load_checkpoint(tmp_path)


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    ckpt.write_atomic(tmp_path / "checkpoint.safetensors", ckpt.tensor_bytes({}, {"state": '{"version": 99}'}))
    with pytest.raises(CheckpointError, match="version 99, this program reads 1"):
        ckpt.load_checkpoint(tmp_path)


def test_random_states_come_back_for_all_three_generators():
    def draw() -> tuple[float, ...]:
        return (
            torch.rand(()).item(),
            float(np.random.rand()),  # noqa: NPY002
            np.random.standard_normal(),  # noqa: NPY002
            random.random(),
            random.gauss(0, 1),
        )

    torch.manual_seed(1)
    np.random.seed(2)  # noqa: NPY002
    random.seed(3)
    draw()  # leaves a stored second Gaussian in numpy and python
    state = ckpt.random_state(torch.device("cpu"))
    expected = [draw() for _ in range(3)]
    draw()
    ckpt.restore_random_state(state, torch.device("cpu"))
    assert [draw() for _ in range(3)] == expected


def test_a_model_that_does_not_fit_is_described(tmp_path):
    ckpt.save_model(tmp_path / "m.safetensors", nn.Linear(2, 3))
    ckpt.load_model(tmp_path / "m.safetensors", nn.Linear(2, 3))
    with pytest.raises(CheckpointError, match=r"weight is \(3, 2\), the model's \(3, 4\)"):
        ckpt.load_model(tmp_path / "m.safetensors", nn.Linear(4, 3))
    with pytest.raises(CheckpointError, match=r"missing \['0.bias'.*unexpected \['bias'"):
        ckpt.load_model(tmp_path / "m.safetensors", nn.Sequential(nn.Linear(2, 3)))


def test_tied_weights_can_be_saved(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    ckpt.save_model(tmp_path / "m.safetensors", model)
    ckpt.load_model(tmp_path / "m.safetensors", model)


def test_a_state_of_before_the_pace_was_kept_fills_a_network():
    config = ShiftConfig(method="nearest", bits=4, activations=8, init="pretrained")
    model, _ = convert(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), config, sample=torch.zeros(2, 4))
    assert "0.gradient_factor" in model.state_dict()
    older = {k: v * 0 for k, v in model.state_dict().items() if k != "0.gradient_factor"}
    pace = model.get_submodule("0").gradient_factor.clone()
    ckpt.load_state(model, older, "older")
    assert torch.equal(model.get_submodule("0").gradient_factor, pace)
    assert not model.get_submodule("0").method.latent.any()
