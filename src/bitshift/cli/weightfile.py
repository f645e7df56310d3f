"""Weights out of the files that people have; what is no state dict is named, with the way out. Imports torch."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitshift.cli.errors import CliError
from bitshift.core.listing import listed
from bitshift.train.checkpoint import CheckpointError, load_tensors
from bitshift.train.files import WEIGHTS

WRAPPED = ("state_dict", "model_state_dict", "model", "net", "network", "model_state")
"""Entries under which training scripts keep the weights in their checkpoints."""
_SAVE = "in Python, torch.save(model.state_dict(), 'weights.pt')"
_log = logging.getLogger("bitshift")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a run directory's weights, a safetensors file, or a torch file (tensors only), whatever its name.

    Raises:
        CliError: no such file, or not a state dict; says what it is and what to do.
    """
    if path.is_dir():
        path = path / WEIGHTS
    if not path.exists():
        raise CliError(f"no such file: {path}")
    with path.open("rb") as file:
        head = file.read(64)
    if _is_safetensors(head, path.stat().st_size):
        return _plain_safetensors(path)
    if head.startswith((b"PK\x03\x04", b"\x80")) or _is_old_tar(path):
        return _load_torch_file(path)
    raise CliError(
        f"{path}: {_kind(head, path)}; give a state dict: a .safetensors, .pt, .pth, .th file or a run directory"
    )


def _is_safetensors(head: bytes, size: int) -> bool:
    """Eight bytes of the header's length, little endian, and a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8


def _is_old_tar(path: Path) -> bool:
    """Whether it is a tar, which torch wrote before version 0.1.10."""
    import tarfile

    return tarfile.is_tarfile(path)


def _kind(head: bytes, path: Path) -> str:
    """What a file that is neither torch's nor safetensors is."""
    if not head:
        return "the file is empty; its download or its writing was cut short"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return "an HTML page, not weights; download the file itself, not the page that shows it"
    if head.startswith(b"\x89HDF"):
        return "an HDF5 file (Keras?), not PyTorch's"
    if head.startswith(b"\x93NUMPY"):
        return "a NumPy array, not weights by name"
    if path.suffix in (".safetensors", ".pt", ".pth", ".th", ".bin"):
        return f"damaged: it does not begin as a safetensors or torch file, in spite of its {path.suffix}"
    return "neither a safetensors nor a torch file"


def _plain_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors, metadata = load_tensors(path)
    except CheckpointError as error:
        raise CliError(f"{error}; it may be cut short, get it again") from None
    if metadata.get("format") == "bitshift":
        raise CliError(
            f"{path}: an exported model file, whose integers cannot be trained or converted; give the run directory "
            "that it was exported from"
        )
    if any(name.startswith("optim.") for name in tensors) and any(name.startswith("model.") for name in tensors):
        beside = path.parent / WEIGHTS
        raise CliError(f"{path}: the checkpoint of a run, with its optimiser; give the weights beside it, {beside}")
    return tensors


def _load_torch_file(path: Path) -> dict[str, Tensor]:
    """A torch file through its tensors-only reader: no code in it can run."""
    if zipfile.is_zipfile(path):
        _refuse_other_zips(path)
    try:
        with path.open("rb") as file:  # by its name torch would take a .safetensors for what it says
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise CliError(f"{path}: {_unreadable(path, error)}") from None
    return _state_in(path, content)


def _refuse_other_zips(path: Path) -> None:
    """Name a TorchScript archive, or a zip that is not torch's."""
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise CliError(
            f"{path}: a TorchScript archive (a program with its weights), not a state dict; in Python, "
            f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pt')"
        )
    if "data.pkl" not in names:
        what = "arrays of NumPy (.npz)" if any(name.endswith(".npy") for name in archive.namelist()) else "other files"
        raise CliError(f"{path}: a zip of {what}, not a torch file; give a state dict ({_SAVE})")


def _unreadable(path: Path, error: Exception) -> str:
    """What a file holds that the tensors-only reader refuses."""
    if not isinstance(error, pickle.UnpicklingError):
        return f"a torch file that is damaged or cut short ({str(error).partition('.')[0]}); get it again"
    try:
        with path.open("rb") as file:
            classes = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except (RuntimeError, ValueError, AttributeError, pickle.UnpicklingError, EOFError):
        classes = []
    if not classes:
        return f"not a file of plain tensors ({str(error).partition(chr(10))[0]}); save a state dict ({_SAVE})"
    shown = listed(classes, 3)
    whole = any(name.startswith("torch.nn.modules") for name in classes)
    what, name, state = "tensors and other pickled objects", "content", "content['state_dict']"
    if whole:
        what, name, state = "a whole pickled module", "model", "model.state_dict()"
    return (
        f"{what} ({shown}), not a state dict: reading it would run its code. Where you trust it and its classes can be "
        f"imported: {name} = torch.load({path.name!r}, weights_only=False); torch.save({state}, 'weights.pt')"
    )


def _state_in(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dict that a torch file holds, alone or as an entry of a training script's checkpoint."""
    if _is_state(content):
        return dict(content)
    if not isinstance(content, Mapping):
        raise CliError(f"{path}: holds a {type(content).__name__}, not a state dict of tensors; save one ({_SAVE})")
    if not content:
        raise CliError(f"{path}: holds an empty dict, no weights; save a state dict ({_SAVE})")
    if {"state", "param_groups"} <= set(content):
        raise CliError(
            f"{path}: the state of an optimiser, not of a network; give the file that model.state_dict() was saved to "
            f"({_SAVE})"
        )
    states = [name for name, value in content.items() if _is_state(value)]
    found = [name for name in WRAPPED if name in states] or (states if len(states) == 1 else [])
    if found:
        others = ", ".join(str(name) for name in content if name != found[0])
        _log.info("%s: a checkpoint; taking its entry %r%s", path, found[0], f", leaving {others}" if others else "")
        return dict(content[found[0]])
    entries = ", ".join(f"{name} ({type(value).__name__})" for name, value in list(content.items())[:8])
    several = f"; {' and '.join(map(repr, states))} could each be the network's" if states else ""
    raise CliError(f"{path}: a dict of {entries}, no state dict of tensors{several}; save one ({_SAVE})")


def _is_state(value: Any) -> bool:
    """Whether every entry, of at least one, is a tensor with a name."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


__all__ = ["read_state"]
