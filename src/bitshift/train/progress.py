"""What is shown and written while work goes on: metrics.jsonl, TensorBoard, a bar or plain lines."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bitshift.train.files import METRICS

logger = logging.getLogger("bitshift")


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, key ``kind``; can be cut back to what a checkpoint knew."""

    def __init__(self, path: Path, size: int) -> None:
        self._file = path.open("a+b")
        found = self._file.seek(0, 2)
        if found < size:  # truncate would fill the gap with NUL bytes
            self._file.seek(0)
            whole = self._file.read().rfind(b"\n") + 1
            logger.warning(
                "%s has %d bytes, its checkpoint knew %d: lines are lost; keeping the %d bytes of whole lines",
                path, found, size, whole,
            )  # fmt: skip
            size = whole
        # a killed run may have written lines behind its last checkpoint; the resumed run writes them again
        self._file.truncate(size)
        self._file.seek(0, 2)

    def write(self, kind: str, **values: Any) -> None:
        """Append one line."""
        self._file.write((json.dumps({"kind": kind, **values}) + "\n").encode())
        self._file.flush()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def tensorboard_writer(folder: Path) -> Any:
    """A TensorBoard writer; ValueError with the command to type when TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("tensorboard=True needs TensorBoard: pip install 'bitshift[tensorboard]'") from error
    return SummaryWriter(str(folder))


class Reporter:
    """Sends what happens to metrics.jsonl, to TensorBoard if asked, and to the person (bar or log lines).

    Holds open files; use it as a context manager. A reporter without a folder (ranks above 0) says nothing.
    """

    def __init__(
        self, folder: Path | None, *, size: int, total_steps: int, start_step: int, tensorboard: bool, progress: str,
        epochs: int,
    ) -> None:  # fmt: skip
        self._metrics = MetricsFile(folder / METRICS, size) if folder is not None else None
        self._board = tensorboard_writer(folder / "tensorboard") if folder is not None and tensorboard else None
        self._lines = folder is not None and progress != "off"
        self._total, self._start, self._begin = total_steps, start_step, time.perf_counter()
        self._epochs = epochs
        self._bar = _rich_bar(total_steps, start_step) if self._lines and sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()
        if self._board is not None:
            self._board.close()
        if self._metrics is not None:
            self._metrics.close()

    @property
    def size(self) -> int:
        """Bytes of metrics.jsonl."""
        return self._metrics.size if self._metrics is not None else 0

    def step(self, step: int) -> None:
        """Step ``step`` is done (moves the bar)."""
        if self._bar is not None:
            self._bar[0].update(self._bar[1], completed=step)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """One line of metrics; numbers also go to TensorBoard, and step and epoch lines to the person."""
        if self._metrics is None:
            return
        self._metrics.write(kind, step=step, **values)
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and name != "epoch":
                    self._board.add_scalar(f"{kind}/{name}", value, step)
        if self._lines and kind in ("step", "epoch"):
            self._say(kind, step, values)

    def _say(self, kind: str, step: int, values: dict[str, Any]) -> None:
        # metrics.jsonl counts epochs from 0, people from 1
        where = f"epoch {values['epoch'] + 1}/{self._epochs}  " if "epoch" in values else ""
        text = where + "  ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in values.items()
            if v is not None and k != "epoch"
        )
        if self._bar is not None:
            self._bar[0].update(self._bar[1], description=text if kind == "step" else f"[bold]{text}")
            if kind == "epoch":
                self._bar[0].console.print(text)
        else:
            left = _time_left(self._begin, step - self._start, self._total - step)
            logger.info("step %d/%d  %s  left %s", step, self._total, text, left)


class Count:
    """How far one pass over rows is: a bar on a terminal, elsewhere a log line every ten seconds.

    Use it as a context manager and call it with the number of rows that are done now. A pass shorter than that says
    nothing away from a terminal.
    """

    def __init__(self, what: str, total: int, *, every: float = 10.0) -> None:
        self._what, self._total, self._every = what, total, every
        self._done, self._begin = 0, time.perf_counter()
        self._said = self._begin
        self._bar = _rich_bar(total, 0) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar[0].update(self._bar[1], description=self._what)
            self._bar[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def __call__(self, rows: int) -> None:
        """``rows`` more are done."""
        self._done += rows
        now = time.perf_counter()
        if self._bar is not None:
            self._bar[0].update(self._bar[1], completed=self._done)
        elif now - self._said >= self._every and self._done < self._total:
            self._said = now
            left = _time_left(self._begin, self._done, self._total - self._done)
            logger.info("%s: %s of %s rows  left %s", self._what, f"{self._done:,}", f"{self._total:,}", left)


def _time_left(begin: float, done: int, missing: int) -> str:
    """Minutes and seconds for what is missing, at the pace since ``begin`` (of ``time.perf_counter``)."""
    seconds = (time.perf_counter() - begin) / done * missing if done else 0.0
    return "{}:{:02d}".format(*divmod(round(seconds), 60))


def _rich_bar(total: int, start: int) -> tuple[Any, Any] | None:
    """A rich progress bar on stderr with its task, None when rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
    except ImportError:
        return None
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    return bar, bar.add_task("", total=total, completed=start)


__all__ = ["Count", "MetricsFile", "Reporter", "tensorboard_writer"]
