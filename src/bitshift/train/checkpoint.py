"""Checkpoints: one safetensors file that is replaced atomically, and a readable copy of its JSON part.

``checkpoint.safetensors`` holds every tensor (model, optimiser, generators, metrics) and, in its metadata, the JSON
state. One rename makes the whole checkpoint current, so a kill at any moment leaves either the old or the
new one. ``checkpoint.json`` repeats the JSON for people and tools; nothing is read back from it.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bitshift.nn.layers.base import PACE
from bitshift.train.files import CHECKPOINT, CHECKPOINT_TEXT

VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Tensors by name, and JSON-ready state."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def write_atomic(path: Path, content: bytes, *, writer: str = "") -> None:
    """Replace ``path`` by ``content`` so that a reader, or a crash, sees the old bytes or the new ones.

    Where several processes may write ``path`` at a time, each needs a ``writer`` of its own.
    """
    temporary = path.with_name(f".{path.name}{writer}.tmp")  # a left-over one is overwritten
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace ``path`` by readable JSON, atomically."""
    write_atomic(path, json.dumps(dict(value), indent=1).encode())


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file; tensors are copied to the CPU, so shared storage is fine."""
    plain = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    return save(plain, metadata=metadata)


def save_model(path: Path, model: nn.Module, metadata: dict[str, str] | None = None) -> None:
    """The state dict of ``model`` as safetensors, atomically."""
    write_atomic(path, tensor_bytes(model.state_dict(), metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; CheckpointError when it is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def load_model(path: Path, model: nn.Module) -> None:
    """Fill ``model`` from :func:`save_model`'s file; CheckpointError lists what does not fit."""
    tensors, _ = load_tensors(path)
    load_state(model, tensors, str(path))


def load_state(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Fill ``model``; CheckpointError names missing, unexpected and misshapen tensors.

    A state of an older version may lack the pace of folded latents (``ShiftLayer.fold_gain``): the model's stays.
    """
    own = model.state_dict()
    missing = sorted(name for name in own.keys() - tensors.keys() if name.rpartition(".")[2] != PACE)
    extra = sorted(tensors.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, the model's {tuple(own[name].shape)}"
        for name in own.keys() & tensors.keys()
        if own[name].shape != tensors[name].shape
    ]
    if missing or extra or shapes:
        raise CheckpointError(
            f"{where} belongs to another model: missing {missing[:5]}, unexpected {extra[:5]}, "
            f"shapes {sorted(shapes)[:5]}; "
            "build the model with the same arguments and the same convert() call, or choose another run directory"
        )
    model.load_state_dict(dict(tensors))


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Make ``checkpoint`` the current one of ``folder``."""
    text = json.dumps({"version": VERSION, **checkpoint.state}, indent=1, allow_nan=True)
    write_atomic(folder / CHECKPOINT, tensor_bytes(checkpoint.tensors, {"state": text}))
    write_atomic(folder / CHECKPOINT_TEXT, text.encode())


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The current checkpoint of ``folder``, None if there is none; left-over temporary files are ignored."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        tensors, metadata = load_tensors(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; delete it to begin anew, or choose another run directory") from error
    try:
        state = json.loads(metadata["state"])
    except (KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: no checkpoint of bitshift (its metadata has no readable 'state')") from error
    if state.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: version {state.get('version')}, this program reads {VERSION}; start a new run directory"
        )
    return Checkpoint(tensors=tensors, state=state)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with ``prefix.``, without it."""
    return {name[len(prefix) + 1 :]: t for name, t in tensors.items() if name.startswith(prefix + ".")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as tensors named ``INDEX.NAME``; numbers become float64 scalars."""
    out: dict[str, Tensor] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            if value is not None:
                out[f"{index}.{name}"] = (
                    value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
                )
    return out


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put :func:`optimizer_tensors` back; groups and rates, and state that ``tensors`` lack, stay the optimiser's."""
    own = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {index: dict(entries) for index, entries in own["state"].items()}
    for name, tensor in tensors.items():
        index, entry = name.split(".", 1)
        state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's, numpy's and python's global generators as tensors."""
    name, keys, position, has_gauss, gauss = cast("tuple", np.random.get_state(legacy=True))  # noqa: NPY002 - the user's code may use it
    if name != "MT19937":
        raise CheckpointError(f"numpy's global generator is {name}; only its default MT19937 can be stored")
    version, words, gauss_next = random.getstate()
    out = {
        "torch": torch.get_rng_state(),
        "numpy_keys": torch.from_numpy(keys.astype(np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, gauss], dtype=torch.float64),
        "python_words": torch.tensor(words, dtype=torch.int64),
        "python_rest": torch.tensor([version, gauss_next is not None, gauss_next or 0.0], dtype=torch.float64),
    }
    if device.type == "cuda":
        out["cuda"] = torch.cuda.get_rng_state(device)
    return out


def restore_random_state(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Set the generators back to :func:`random_state`'s result."""
    torch.set_rng_state(tensors["torch"])
    position, has_gauss, gauss = tensors["numpy_rest"].tolist()
    keys = tensors["numpy_keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))  # noqa: NPY002
    version, has_next, gauss_next = tensors["python_rest"].tolist()
    words = tuple(int(w) for w in tensors["python_words"].tolist())
    random.setstate((int(version), words, gauss_next if has_next else None))
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)


__all__ = [
    "Checkpoint",
    "CheckpointError",
    "load_checkpoint",
    "load_model",
    "load_optimizer",
    "load_state",
    "load_tensors",
    "optimizer_tensors",
    "random_state",
    "restore_random_state",
    "save_checkpoint",
    "save_model",
    "tensor_bytes",
    "under",
    "write_atomic",
    "write_json",
]
