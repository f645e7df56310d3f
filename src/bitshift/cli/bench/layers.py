"""Where the time of a model goes, layer by layer, and how near each layer comes to what the machine can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitshift.cli.bench.machine import Limits


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """One executed step of a model for a whole batch.

    ``roofline`` is the share of the bound ``max(operations / peak, bytes / bandwidth)`` that it reaches; more than 1 is
    possible where an exact Winograd kernel needs fewer products than the direct sum that ``operations`` counts.
    """

    name: str
    op: str
    source: str
    kernel: str
    seconds: float
    share: float
    gops: float
    roofline: float


def layer_times(steps: Sequence[Mapping[str, Any]], batch: int, limits: Limits) -> tuple[LayerTime, ...]:
    """``steps`` as ``Executable.profile`` gives them; seconds are of the batch, the other figures of one sample."""
    total = sum(step["seconds"] for step in steps) or 1.0
    found = []
    for step in steps:
        operations = step["operations"] * batch
        size = (step["in_bytes"] + step["out_bytes"]) * batch + step["weight_bytes"]
        seconds = max(step["seconds"], 1e-9)
        found.append(
            LayerTime(
                name=step["name"], op=step["op"], source=step["source"],
                kernel=f"{step['kernel']} {step['isa']}".strip(),
                seconds=step["seconds"], share=step["seconds"] / total, gops=operations / seconds / 1e9,
                roofline=limits.seconds(operations, size) / seconds,
            )
        )  # fmt: skip
    return tuple(found)
