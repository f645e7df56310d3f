"""Where figures come from, and what the processor could do at best: dot products and reads, measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitshift import __version__

_FLAGS = (
    "avx2", "fma", "avx512f", "avx512bw", "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimd",
    "asimddp", "i8mm", "sve",
)  # fmt: skip
_PACKAGES = ("numpy", "torch", "onnx", "onnxruntime", "openvino")


def describe() -> dict[str, Any]:
    """Processor, its vector instructions, cores, memory, system, versions."""
    cpu, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line.partition(":") for line in info.read_text().splitlines()]
        found = {key.strip(): text.strip() for key, _, text in lines if key}
        cpu = found.get("model name", cpu)
        flags = found.get("flags", found.get("Features", ""))
    has = set(flags.split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": cpu, "flags": [flag for flag in _FLAGS if flag in has], "cores": os.cpu_count() or 1,
        "memory_gib": round(memory / 2**30, 1), "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(), "bitshift": __version__, **{name: version(name) for name in _PACKAGES},
        },
    }  # fmt: skip


def version(package: str) -> str:
    """Version of an installed package, or ``none``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def processors() -> tuple[int, ...]:
    """Numbers of the processors that this process may use; empty where the system has no such notion."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def pin(cpus: Sequence[int]) -> None:
    """Keep the calling thread, and those that it starts, on ``cpus``."""
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


@contextmanager
def pinned(cpus: Sequence[int]) -> Iterator[None]:
    """:func:`pin` for a while."""
    before = processors()
    pin(cpus)
    try:
        yield
    finally:
        pin(before)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What ``threads`` threads reach: dot products in operations a second (a multiply-add is two), reads in bytes."""

    threads: int
    isa: str
    operations: float
    read: float
    read_memory: float

    def best(self, other: Limits) -> Limits:
        """The higher of each figure: whatever else ran can only have lowered them."""
        names = ("operations", "read", "read_memory")
        return replace(self, **{name: max(getattr(self, name), getattr(other, name)) for name in names})

    def seconds(self, operations: float, size: float) -> float:
        """The least time for so many operations and bytes, if neither waits for the other."""
        return max(operations / self.operations if self.operations else 0.0, size / self.read)


MEMORY_BYTES = 256 << 20


def measure_limits(isa: str, threads: int, working_set: int, *, seconds: float = 0.3) -> Limits:
    """Probe this machine.

    ``working_set`` is what a run touches again and again: ``read`` is the bandwidth of the level of cache or memory
    that holds it, ``read_memory`` that of a buffer of 256 MiB. Where ``isa`` has no 8-bit dot product (portable), the
    processor's best one counts.
    """
    from bitshift import _engine  # pyright: ignore[reportAttributeAccessIssue]

    rates = {
        name: _engine.probe_dot(name, threads, seconds)
        for name in (isa, "avx512", "avx512vl", "avxvnni", "avx2", "neon")
    }
    best = isa if rates[isa] else max(rates, key=lambda name: rates[name])
    return Limits(
        threads=threads, isa=best, operations=rates[best],
        read=_engine.probe_read(max(working_set, 1 << 14), threads, seconds),
        read_memory=_engine.probe_read(MEMORY_BYTES, threads, seconds),
    )  # fmt: skip
