"""The process in which one candidate of a benchmark lives, and the handle by which the benchmark drives it.

``python -m bitshift.cli.bench.worker`` reads JSON lines from stdin and answers each with one on stdout. The first
names a factory ``module:function``, which makes a :class:`Candidate` from its keyword arguments; then ``{"calls": n}``
asks for the seconds of n calls, ``{"outputs": path}`` writes the outputs of one call to a .npz file. A process of its
own keeps one runtime's thread pool from spinning on the processors that another one is timed on.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bitshift.cli.bench.machine import pin

Answer = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Something to time: ``run`` does the work once; ``outputs`` gives its results as arrays, outside of any timing."""

    run: Callable[[], object]
    seconds: Callable[[], float] | None = None
    """Does the work too, and gives the seconds itself; None: the clock around ``run`` does."""
    outputs: Callable[[], Sequence[Any]]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker shall hold: ``imports`` come first, so that no factory's clock counts them."""

    factory: str
    arguments: Mapping[str, Any]
    threads: int
    cpus: tuple[int, ...] = ()
    imports: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class WorkerError(RuntimeError):
    """A candidate could not be made or run; the message is the last line that its process wrote."""


class Worker:
    """A started process. State: the process, its message file, what it said about itself."""

    def __init__(self, job: Job) -> None:
        threads = str(job.threads)
        environment = {
            **os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **job.environment,
        }  # fmt: skip
        if job.cpus:
            # Unbound OpenMP threads may share one processor for long, although two are allowed.
            environment["GOMP_CPU_AFFINITY"] = " ".join(map(str, job.cpus))
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process, see close
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bitshift.cli.bench.worker"], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self.about: Answer = {}
        self._send(
            {
                "factory": job.factory, "imports": job.imports, "cpus": job.cpus,
                "arguments": {"threads": job.threads, "cpus": job.cpus, **job.arguments},
            }
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def ready(self) -> Answer:
        """Wait until the candidate is made; what it says about itself, ``load_s`` and ``memory_bytes`` where it can.

        Raises:
            WorkerError: it could not be made.
        """
        self.about = self._answer()
        return self.about

    def measure(self, calls: int) -> list[float]:
        """Seconds of each of ``calls`` calls."""
        self._send({"calls": calls})
        return self._answer()["seconds"]

    def outputs(self) -> list[Any]:
        """The results of one call, numpy arrays."""
        import numpy as np

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "outputs.npz"
            self._send({"outputs": str(path)})
            self._answer()
            with np.load(path) as arrays:
                return [arrays[name] for name in arrays.files]

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else f"the process ended with status {self._process.returncode}"


def resident() -> tuple[int, int]:
    """Bytes of this process in memory now and at most since the last call; zeros where the system does not say."""
    now = peak = 0
    status = Path("/proc/self/status")
    if status.exists():
        sizes = dict(line.split(":", 1) for line in status.read_text().splitlines() if line.startswith("Vm"))
        now, peak = (int(sizes.get(key, "0 kB").split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        except OSError:
            return now, 0
    return now, peak


def metered(load: Callable[[], T], first_run: Callable[[T], object]) -> tuple[T, Answer]:
    """What ``load`` gives, with its seconds and the memory that it and the first run took at most."""
    before, _ = resident()
    begin = time.perf_counter()
    loaded = load()
    seconds = time.perf_counter() - begin
    first_run(loaded)
    _, peak = resident()
    return loaded, {"load_s": seconds, "memory_bytes": peak - before if peak > before > 0 else None}


def _make(message: Mapping[str, Any]) -> Candidate:
    pin(message["cpus"])
    for name in message["imports"]:
        importlib.import_module(name)
    module, _, function = message["factory"].partition(":")
    candidate = getattr(importlib.import_module(module), function)(**message["arguments"])
    candidate.run()
    return candidate


def _seconds(candidate: Candidate, calls: int) -> list[float]:
    if candidate.seconds is not None:
        return [candidate.seconds() for _ in range(calls)]
    found, clock, run = [], time.perf_counter, candidate.run
    for _ in range(calls):
        begin = clock()
        run()
        found.append(clock() - begin)
    return found


def _serve() -> None:
    """Answer until stdin ends. Runtimes print to stdout as they like; only our own copy of it reaches the benchmark."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    candidate: Candidate | None = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if candidate is None:
                candidate = _make(message)
                answer = dict(candidate.about)
            elif "calls" in message:
                answer = {"seconds": _seconds(candidate, message["calls"])}
            else:
                import numpy as np

                np.savez(message["outputs"], *candidate.outputs())
                answer = {}
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises goes to the benchmark as a message
            answer = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
