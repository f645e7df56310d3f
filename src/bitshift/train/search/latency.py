"""How long each layer takes in each format, measured in the engine on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from bitshift import runtime
from bitshift.lower import export
from bitshift.nn.activations import calibrate
from bitshift.nn.config import ShiftConfig
from bitshift.nn.convert import convert
from bitshift.nn.freeze import freeze


def layer_latencies(
    model: nn.Module, config: ShiftConfig, formats: Sequence[str], paths: Sequence[str], images: Tensor,
    *, threads: int = 1, repeats: int = 30,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Milliseconds of one image, float64 (paths, formats), and those of all other steps together.

    For each format the whole network is converted to it, exported, and profiled in the engine with a batch of one; a
    layer's time is the median of the steps that come from its module. Layers that run fused are counted where they run.

    Args:
        model: float network.
        config: an integer configuration (``activations`` 2 to 8) without rules for the chosen layers.
        formats: columns of the result.
        paths: layers, the rows of the result.
        images: (N, C, ...) that calibrate the grids; the first is the one that is timed.
        threads: of the engine.
        repeats: runs behind each median.

    Raises:
        ValueError: float activations, or a layer that no step of the engine names.
    """
    if not config.integer:
        raise ValueError("latencies are those of integer networks; set activations to 2..8")
    columns, others = [], []
    for name in formats:
        times = _profile(model, replace(config, format=name, bits=None), images, threads, repeats)
        missing = [path for path in paths if path not in times]
        if missing:
            raise ValueError(
                f"no step of the engine comes from the layer {missing[0]!r}; found {', '.join(sorted(times))}"
            )
        columns.append([times[path] for path in paths])
        others.append(sum(times.values()) - sum(columns[-1]))
    return np.array(columns, dtype=np.float64).T, float(np.median(others))


def _profile(model: nn.Module, config: ShiftConfig, images: Tensor, threads: int, repeats: int) -> Mapping[str, float]:
    """Milliseconds by source module; "" collects the steps without one."""
    shifted, _ = convert(model, config, sample=images[:2])
    calibrate(shifted.eval(), [images])
    frozen = freeze(shifted, images[:2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        export(frozen, path)
        loaded = runtime.load(path, backend="engine", threads=threads)
        profile = loaded.profile(images[:1].numpy(), repeats=repeats)
    times: dict[str, float] = {}
    for found in profile.times:
        times[found.step.source] = times.get(found.step.source, 0.0) + 1e3 * found.seconds
    return times


__all__ = ["layer_latencies"]
