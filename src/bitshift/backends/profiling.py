"""What a model run is made of: the engine's steps, their times, and a Chrome trace of them."""

from __future__ import annotations

import json
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Step:
    """One call of a kernel. Figures are those of one sample; ``operations`` counts a multiply-add as two."""

    name: str
    """The value that it makes."""
    op: str
    """Op of the node; ``convert`` between two layouts of one value."""
    source: str
    """Module in the network that was exported, "" if unknown."""
    kernel: str
    isa: str
    operations: int
    weight_bytes: int
    in_bytes: int
    out_bytes: int

    @property
    def activation_bytes(self) -> int:
        """Bytes that it reads and writes."""
        return self.in_bytes + self.out_bytes


@dataclass(frozen=True)
class Event:
    """One thread's work on one phase of a step; times in nanoseconds of one clock."""

    run: int
    step: int
    phase: int
    thread: int
    samples: int
    begin: int
    end: int


@dataclass(frozen=True)
class StepTime:
    """A step and its wall time in one run of ``samples`` samples, the median over the runs."""

    step: Step
    seconds: float
    samples: int

    @property
    def gops(self) -> float:
        """Giga-operations a second."""
        return self.step.operations * self.samples / self.seconds * 1e-9 if self.seconds else 0.0


@dataclass(frozen=True)
class Profile:
    """Times of a number of equal runs of ``samples`` samples on ``threads`` threads."""

    steps: tuple[Step, ...]
    events: tuple[Event, ...]
    runs: tuple[float, ...]
    """Seconds of each run, as its caller sees it."""
    samples: int
    threads: int
    isa: str

    @property
    def seconds(self) -> float:
        """The median run."""
        return statistics.median(self.runs)

    @property
    def times(self) -> tuple[StepTime, ...]:
        """One entry a step, in execution order."""
        walls: dict[int, list[float]] = {i: [0.0] * len(self.runs) for i in range(len(self.steps))}
        for (run, step, _), events in self._calls().items():
            walls[step][run] += (max(e.end for e in events) - min(e.begin for e in events)) * 1e-9
        return tuple(StepTime(step, statistics.median(walls[i]), self.samples) for i, step in enumerate(self.steps))

    def _calls(self) -> dict[tuple[int, int, int], list[Event]]:
        """Events by run, step and chunk: a large batch goes through the steps in several chunks."""
        calls: dict[tuple[int, int, int], list[Event]] = defaultdict(list)
        seen: dict[tuple[int, int, int, int], int] = defaultdict(int)
        for event in sorted(self.events, key=lambda e: e.begin):
            key = (event.run, event.step, event.phase, event.thread)
            calls[event.run, event.step, seen[key]].append(event)
            seen[key] += 1
        return calls

    def trace(self) -> dict[str, Any]:
        """The runs in the Trace Event Format that ui.perfetto.dev and chrome://tracing read, a track a thread."""
        start = min((e.begin for e in self.events), default=0)
        rows: list[dict[str, Any]] = [
            {"name": "process_name", "ph": "M", "pid": 1, "tid": 0, "args": {"name": f"bitshift ({self.isa})"}},
            *(
                {"name": "thread_name", "ph": "M", "pid": 1, "tid": t, "args": {"name": f"engine thread {t}"}}
                for t in sorted({e.thread for e in self.events})
            ),
        ]
        for events in self._calls().values():
            step = self.steps[events[0].step]
            wall = max(e.end for e in events) - min(e.begin for e in events)
            operations = step.operations * events[0].samples
            rows += [
                {
                    "name": step.source or step.name,
                    "cat": step.op,
                    "ph": "X",
                    "pid": 1,
                    "tid": e.thread,
                    "ts": (e.begin - start) / 1000,
                    "dur": (e.end - e.begin) / 1000,
                    "args": {
                        "value": step.name,
                        "op": step.op,
                        "kernel": step.kernel,
                        "isa": step.isa,
                        "phase": e.phase,
                        "run": e.run,
                        "samples": e.samples,
                        "operations": operations,
                        "GOP/s": round(operations / wall, 3) if wall else 0.0,
                        "weight bytes": step.weight_bytes,
                        "activation bytes": step.activation_bytes * e.samples,
                    },
                }
                for e in events
            ]
        about = {"samples": self.samples, "threads": self.threads, "isa": self.isa, "runs": len(self.runs)}
        return {"traceEvents": rows, "displayTimeUnit": "ms", "otherData": about}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`trace` as JSON."""
        Path(path).write_text(json.dumps(self.trace()) + "\n")


def steps_of(described: Sequence[Sequence[Any]]) -> tuple[Step, ...]:
    """The engine's description of its steps as values."""
    return tuple(Step(*row) for row in described)


__all__ = ["Event", "Profile", "Step", "StepTime", "steps_of"]
