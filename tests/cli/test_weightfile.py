"""Files that people give as weights: what is read, and what is said of the rest."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bitshift.cli.errors import CliError
from bitshift.cli.weightfile import read_state

TENSORS = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2)}


def optimiser() -> dict:
    net = nn.Linear(3, 2)
    return torch.optim.SGD(net.parameters(), lr=0.1).state_dict()


def same(state: dict[str, Tensor]) -> bool:
    return state.keys() == TENSORS.keys() and all(torch.equal(t, TENSORS[name]) for name, t in state.items())


def test_the_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "safe.pt")
    torch.save(TENSORS, tmp_path / "torch.safetensors")
    torch.save(TENSORS, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    torch.save(TENSORS, tmp_path / "model.pth.tar")
    for name in ("safe.pt", "torch.safetensors", "old.bin", "model.pth.tar"):
        assert same(read_state(tmp_path / name)), name


def test_the_weights_of_a_checkpoint_are_found_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("state_dict", "model", "model_state_dict", "generator"):
        torch.save({"epoch": 3, name: TENSORS, "optimizer": optimiser()}, tmp_path / "c.pt")
        with caplog.at_level(logging.INFO, logger="bitshift"):
            assert same(read_state(tmp_path / "c.pt"))
        assert f"c.pt: a checkpoint; taking its entry {name!r}, leaving epoch, optimizer" in caplog.text


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)


def write(path: Path, kind: str) -> Path:
    """A file of some wrong kind."""
    things = {
        "module": Own, "optimiser": optimiser, "list": lambda: [1, 2], "empty dict": dict,
        "numpy inside": lambda: {"best": np.float64(3), "state_dict": TENSORS},
        "two": lambda: {"student": TENSORS, "teacher": TENSORS}, "scalars": lambda: {"epoch": 3},
    }  # fmt: skip
    raw = {
        "empty": b"", "page": b"<!DOCTYPE html>", "lfs": b"version https://git-lfs.github.com/spec/v1\noid x",
        "text": b"hello " * 20, "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    }  # fmt: skip
    if kind in things:
        torch.save(things[kind](), path)
    elif kind in raw:
        path.write_bytes(raw[kind])
    elif kind == "script":
        torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)).save(str(path))  # pyright: ignore[reportAttributeAccessIssue]
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(3))
    elif kind == "run's checkpoint":
        save_file({"model.fc.weight": torch.ones(2), "optim.0.momentum": torch.ones(2)}, path)
    elif kind == "model file":
        save_file({"fc.codes": torch.ones(2)}, path, metadata={"format": "bitshift"})
    else:
        torch.save(TENSORS, path) if "torch" in kind else save_file(TENSORS, path)
        path.write_bytes(path.read_bytes()[:-30])
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "the file is empty"), ("page", "an HTML page, not weights; download the file itself"),
        ("lfs", "a Git LFS pointer.*git lfs pull"), ("hdf5", "an HDF5 file"),
        ("text", "damaged: it does not begin as a safetensors or torch file, in spite of its .pt"),
        ("module", r"a whole pickled module \(.*Own.*\).*run its code.*torch.save\(model.state_dict\(\), "),
        ("optimiser", r"the state of an optimiser, not of a network; give the file that model.state_dict\(\)"),
        ("script", r"a TorchScript archive.*torch.save\(torch.jit.load\('w.pt'\).state_dict\(\), 'weights.pt'\)"),
        ("npz", r"a zip of arrays of NumPy \(.npz\), not a torch file"), ("list", "holds a list, not a state dict"),
        ("empty dict", "holds an empty dict"), ("scalars", r"a dict of epoch \(int\), no state dict"),
        ("numpy inside", r"tensors and other pickled objects \(numpy.*torch.save\(content\['state_dict'\]"),
        ("two", "'student' and 'teacher' could each be the network's"),
        ("cut torch", "a torch file that is damaged or cut short"), ("cut safetensors", "it may be cut short"),
        ("run's checkpoint", "the checkpoint of a run.*give the weights beside it, .*model.safetensors"),
        ("model file", "an exported model file.*give the run directory that it was exported from"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_named_with_the_next_step(tmp_path: Path, kind: str, message: str) -> None:
    path = write(tmp_path / "w.pt", kind)
    with pytest.raises(CliError, match=message) as caught:
        read_state(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
