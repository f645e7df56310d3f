"""The processes that decode images for torch's loader: how many, how they stop, how one that died is reported."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any


def default_workers() -> int:
    """Processes that decode for one training process: the cores shared by the processes of this machine, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class _Flag:
    """What torch's loader asks of the event that stops its workers, without the lock of ``multiprocessing.Event``: a
    worker killed while it holds that lock would leave the training process waiting for it for ever.
    """

    def __init__(self, context: BaseContext) -> None:
        self._byte: Any = context.RawValue("b", 0)

    def set(self) -> None:
        self._byte.value = 1

    def is_set(self) -> bool:
        return bool(self._byte.value)


def loader_context() -> BaseContext:
    """The start method in force, with events that no dead process can keep locked."""
    plain: Any = multiprocessing.get_context()

    class Context(type(plain)):
        def Event(self) -> _Flag:  # noqa: N802 - multiprocessing's name
            return _Flag(plain)

    return Context()


def quiet_worker(_: int) -> None:
    """Ctrl-C reaches every process of the terminal: the training process answers it and ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the training loop's handler came along with the fork
    sys.excepthook = _without_hang_ups


def death(workers: Sequence[BaseProcess], patience: float = 5) -> str | None:
    """How one of ``workers`` ended if it did not end well, None if none died within ``patience`` seconds."""
    left, until = list(workers), time.monotonic() + patience
    while left:
        ended = multiprocessing.connection.wait([worker.sentinel for worker in left], until - time.monotonic())
        if not ended:
            return None
        for worker in [worker for worker in left if worker.sentinel in ended]:
            worker.join()  # its files are closed a moment before it can be asked for its status
            if status := worker.exitcode:
                return f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            left.remove(worker)
    return None


def _without_hang_ups(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A training process that was stopped while it took a batch has hung up on its worker: nothing to report."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


__all__ = ["death", "default_workers", "loader_context", "quiet_worker"]
