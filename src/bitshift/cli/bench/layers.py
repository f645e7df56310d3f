"""Where the time of a model goes, layer by layer, and how near each layer comes to what the machine can do."""

from __future__ import annotations

from dataclasses import dataclass

from bitshift.backends.profiling import Profile
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


def layer_times(profile: Profile, limits: Limits) -> tuple[LayerTime, ...]:
    """The steps of ``profile`` against ``limits`` of as many threads."""
    total = sum(found.seconds for found in profile.times) or 1.0
    rows = []
    for found in profile.times:
        step, samples = found.step, found.samples
        least = limits.seconds(step.operations * samples, step.activation_bytes * samples + step.weight_bytes)
        rows.append(
            LayerTime(
                name=step.name, op=step.op, source=step.source, kernel=f"{step.kernel} {step.isa}".strip(),
                seconds=found.seconds, share=found.seconds / total, gops=found.gops,
                roofline=least / found.seconds if found.seconds else 0.0,
            )
        )  # fmt: skip
    return tuple(rows)
