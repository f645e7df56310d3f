"""Freeze a trained network, write its model file, and check the file against the training simulation. Imports torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bitshift import runtime
from bitshift.cli.errors import FAILED, CliError
from bitshift.cli.runs import preprocess_of, sample_images
from bitshift.cli.summary import multiplication_words
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Value
from bitshift.lower import export
from bitshift.nn.freeze import freeze
from bitshift.train.data import TrainData

SAMPLE = 64
"""Rows on which freeze proves equality and the written file is checked."""
_log = logging.getLogger("bitshift")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A written model file and the result of its check."""

    path: Path
    bytes: int
    backend: str
    checked: int
    """Outputs compared between simulation and file."""
    differing: int
    """Of these; always 0 for integer outputs, else the export has failed."""
    largest_error: float
    """Largest difference of float outputs; 0 for integer ones."""
    multiplications: str
    """What the file's graph multiplies for one sample, in words, as counted."""


def export_network(
    model: nn.Module, data: TrainData, path: Path, *, name: str | None = None, rows: int = SAMPLE
) -> Exported:
    """Freeze ``model`` (eval mode), export it to ``path``, and run ``rows`` rows of ``data`` from the file.

    Raises:
        CliError: the file does not reproduce the simulation; it is removed.
        ValueError: freeze, lower or a bound refuses the network, by module path.
    """
    model = model.cpu().eval()
    images = sample_images(data, rows)
    frozen = freeze(model, images)
    path.parent.mkdir(parents=True, exist_ok=True)
    export(frozen, path, labels=list(data.class_names), preprocess=preprocess_of(data), name=name)
    loaded = runtime.load(path)
    (output,) = loaded.graph.outputs
    simulated = simulate(model, images, loaded.graph.values[output])
    got = loaded.run_int(images.numpy())
    different = int((got != simulated).sum())
    error = 0.0
    if got.dtype == np.float32:
        error = float(np.abs(got - simulated).max())
        scale = float(np.abs(simulated).max()) or 1.0
        if error > 1e-3 * scale:
            path.unlink()
            raise CliError(
                f"{path}: outputs of the file differ from the simulation by {error:.3g}; not written", code=FAILED
            )
        different = 0
    elif different:
        path.unlink()
        raise CliError(
            f"{path}: {different} of {got.size} integers differ from the simulation; not written", code=FAILED
        )
    return Exported(
        path=path, bytes=path.stat().st_size, backend=loaded.backend, checked=got.size, differing=different,
        largest_error=error, multiplications=multiplication_words(loaded.graph),
    )  # fmt: skip


@torch.no_grad()
def simulate(model: nn.Module, images: Tensor, output: Value, *, batch_size: int = 250) -> np.ndarray:
    """Outputs of the training simulation in eval mode, in the units of ``output``: integers, or float32 as they are.

    Raises:
        CliError: a value that is no multiple of the output's grid, which an integer network cannot have.
    """
    parts = [model(images[i : i + batch_size]).double().numpy() for i in range(0, len(images), batch_size)]
    values = np.concatenate(parts)
    if not isinstance(output.type, FixedPoint):
        return values.astype(np.float32)
    scaled = values * 2.0**output.type.frac
    integers = np.rint(scaled)
    if not (integers == scaled).all():
        raise CliError(f"the simulation's output is not on the grid {output.type} of the exported file", code=FAILED)
    return integers.astype(np.int64)
