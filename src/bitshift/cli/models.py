"""Open an exported model for a verb, with messages about paths and names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitshift.cli.errors import CliError, near_miss
from bitshift.train.files import CHECKPOINT, CONFIG, NET, WEIGHTS

if TYPE_CHECKING:
    from bitshift.core.graph import Graph
    from bitshift.runtime import Model


def model_path(path: Path) -> Path:
    """``path`` if it is a file; CliError says what stands there instead and where the model may be."""
    if path.is_dir():
        if (path / NET).exists():
            raise CliError(f"{path} is a run directory; its model file is {path / NET}")
        if (path / CONFIG).exists():
            raise CliError(f"{path} is a run that is not exported yet; run: bitshift export {path}")
        raise CliError(f"{path} is a directory; give a model file written by `bitshift export`")
    if not path.exists():
        near = _neighbours(path)
        raise CliError(f"no such file: {path}" + (f"; there is {near}" if near else ""))
    if path.name in (WEIGHTS, CHECKPOINT) and (path.parent / CONFIG).exists() and not _is_ours(path):
        net = path.parent / NET
        step = f"its model file is {net}" if net.exists() else f"run: bitshift export {path.parent}"
        raise CliError(f"{path} is the training state of a run, not a model file; {step}")
    return path


def _is_ours(path: Path) -> bool:
    """Whether the header of a safetensors file says that it is a model file, or cannot be read."""
    with path.open("rb") as file:
        try:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            return header.get("__metadata__", {}).get("format") == "bitshift"
        except (ValueError, AttributeError, OverflowError, MemoryError):
            return True  # what reads it says what is wrong


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    return ", ".join(str(p) for p in sorted(path.parent.glob("*.safetensors"))[:3])


def check_backend(name: str) -> str:
    """``name`` if it is a backend's name or ``auto``."""
    from bitshift.backends import BACKENDS

    if name not in ("auto", *BACKENDS):
        raise CliError(near_miss(name, ("auto", *BACKENDS), "backend"))
    return name


def open_model(path: Path, *, backend: str = "auto", **options: Any) -> Model:
    """The runnable model in ``path``; ModelFileError for a file that is no bitshift model."""
    from bitshift import runtime

    return runtime.load(model_path(path), backend=check_backend(backend), **options)


def open_graph(path: Path) -> Graph:
    """The graph in ``path`` without choosing a backend."""
    from bitshift.core import modelfile

    return modelfile.load(model_path(path))
