"""Candidates in turns: every round times each once, so that what the machine does beside us hits all of them alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitshift.cli.bench.worker import Worker

SETTLE = 0.05
"""Seconds between two turns, in which the threads of the one before stop to spin: some runtimes do for tens of ms."""


@dataclass(frozen=True)
class Spread:
    """A median and its quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles (inclusive method) of at least one value."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(statistics.median(values), low, high)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """``seconds[name][i]`` is the median of one candidate's calls in round i; only clean rounds are in it.

    A round is clean if processes that are none of ours had less than ``allowed`` of the processors' time in it;
    ``foreign`` holds that share for every round, the dropped ones too, or nothing where the system does not say.
    """

    seconds: Mapping[str, tuple[float, ...]]
    foreign: tuple[float, ...]
    dropped: int
    allowed: float
    load_average: tuple[float, float, float] | None

    @property
    def noise(self) -> str:
        """How many rounds were left out or are doubtful, for people; empty where the system does not say."""
        if not self.foreign:
            return ""
        share = f"others used {100 * statistics.median(self.foreign):.0f} % of the processors in the median round"
        if not self.dropped and sum(x < self.allowed for x in self.foreign) < len(self.foreign):
            return f"NOISY: {share}, so that hardly any round was clean and all {len(self.foreign)} count"
        return f"{self.dropped} of {len(self.foreign)} rounds left out; {share}"

    def time(self, name: str) -> Spread:
        """Seconds of a call."""
        return spread(self.seconds[name])

    def ratio(self, name: str, base: str) -> Spread:
        """How many times faster ``name`` is than ``base``, round by round."""
        pairs = zip(self.seconds[base], self.seconds[name], strict=True)
        return spread([slow / fast for slow, fast in pairs])


def interleave(
    workers: Mapping[str, Worker], *, rounds: int, seconds: float, allowed: float = 0.1,
    calls: tuple[int, int] = (3, 400),
) -> Measured:  # fmt: skip
    """Time ready workers for ``rounds`` rounds, each turn about ``seconds`` long and between ``calls`` calls.

    Rounds start with another candidate each time. Where fewer than a third of the rounds are clean, all of them
    count and ``dropped`` is 0: then ``foreign`` says how much the figures are worth.
    """
    turns = {name: _calls(worker, seconds, calls) for name, worker in workers.items()}
    names = list(workers)
    measured: dict[str, list[float]] = {name: [] for name in names}
    shares: list[float] = []
    for index in range(rounds):
        before = _processor_time(workers.values())
        for name in names[index % len(names) :] + names[: index % len(names)]:
            time.sleep(SETTLE)
            measured[name].append(statistics.median(workers[name].measure(turns[name])))
        after = _processor_time(workers.values())
        if before is not None and after is not None:
            shares.append(_foreign(before, after))
    clean = [i for i in range(rounds) if not shares or shares[i] < allowed]
    if 3 * len(clean) < rounds:
        clean = list(range(rounds))
    kept = {name: tuple(values[i] for i in clean) for name, values in measured.items()}
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    return Measured(
        seconds=kept, foreign=tuple(shares), dropped=rounds - len(clean), allowed=allowed, load_average=load
    )


def _calls(worker: Worker, seconds: float, limits: tuple[int, int]) -> int:
    """Calls of one turn, after a warm-up of the same length."""
    begin = time.perf_counter()
    worker.measure(3)
    one = (time.perf_counter() - begin) / 3  # by our own clock: a candidate that times itself may report something else
    count = min(max(limits[0], round(seconds / one)), limits[1])
    worker.measure(count)
    return count


@dataclass(frozen=True)
class _Time:
    """Seconds: of the clock times processors, that any process computed, that we and the workers computed."""

    all: float
    busy: float
    own: float


def _processor_time(workers: Iterable[Worker]) -> _Time | None:
    """None where there is no /proc/stat."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    tick = os.sysconf("SC_CLK_TCK")
    fields = [int(x) for x in stat.read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, idle, waiting, irq, soft, steal = fields
    busy = user + nice + system + irq + soft + steal
    own = 0.0
    for pid in [os.getpid(), *(w.pid for w in workers)]:
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        own += int(parts[11]) + int(parts[12])
    return _Time((busy + idle + waiting) / tick, busy / tick, own / tick)


def _foreign(before: _Time, after: _Time) -> float:
    """Share of the processors' time that went to others."""
    whole = max(after.all - before.all, 1e-3)
    return min(1.0, max(0.0, ((after.busy - before.busy) - (after.own - before.own)) / whole))
