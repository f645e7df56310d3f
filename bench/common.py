"""What every benchmark shares: the JSON contract, paired timing, and the equality check that comes first.

A benchmark is a script ``bench/<name>.py`` with a function ``rows(arguments) -> list[Row]`` and, at its end,
``main(__doc__, rows)``. It calls :func:`check_equal` on the results of what it compares before it times
any of it. See bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitshift.cli.bench.machine import describe

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure: ``case`` (what ran), ``metric`` (what was measured), and how sure we are of it.

    ``against`` names what a ratio divides by, or is empty. ``runs`` counts the measurements behind
    ``value`` (their median); ``spread`` is their interquartile range in ``unit``, 0 for an exact count.
    """

    case: str
    metric: str
    value: float
    unit: str
    against: str = ""
    runs: int = 1
    spread: float = 0.0

    def __post_init__(self) -> None:
        if not self.case or not self.metric or not self.unit:
            raise ValueError(f"{self}: case, metric and unit must be named; a plain ratio has the unit 'x'")
        if not np.isfinite([self.value, self.spread]).all() or self.spread < 0 or self.runs < 1:
            raise ValueError(f"{self}: value and spread must be finite, spread >= 0, runs >= 1")


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate, in the order of the rounds; round i of every candidate ran side by side."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median seconds of a round."""
        return statistics.median(self.seconds)

    def row(self, case: str, metric: str = "time", *, scale: float = 1e3, unit: str = "ms") -> Row:
        """The median as a row; ``scale`` turns seconds into ``unit``."""
        return Row(case=case, metric=metric, unit=unit, **_summary([s * scale for s in self.seconds]))

    def ratio(self, base: Timing, *, case: str, against: str, metric: str = "speed") -> Row:
        """How many times faster than ``base``: the median over rounds of base / this, so drift cancels."""
        ratios = [b / a for a, b in zip(self.seconds, base.seconds, strict=True)]
        return Row(case=case, metric=metric, unit="x", against=against, **_summary(ratios))


def _summary(values: Sequence[float]) -> dict[str, Any]:
    low, high = np.percentile(values, [25, 75])
    return {"value": statistics.median(values), "runs": len(values), "spread": float(high - low)}


def paired(candidates: dict[str, Callable[[], object]], *, rounds: int, warmup: int = 2) -> dict[str, Timing]:
    """Time the candidates in turns: every round runs each once, starting with another one each time.

    On a shared machine the load changes from second to second; a round sees the same load for all, so
    ratios within a round stay meaningful where totals do not. ``warmup`` rounds are not counted.
    """
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(-warmup, rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            candidates[name]()
            elapsed = time.perf_counter() - start
            if index >= 0:
                seconds[name].append(elapsed)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def check_equal(case: str, expected: np.ndarray, got: np.ndarray) -> None:
    """Stop the benchmark unless both arrays are equal in dtype, shape and every element.

    Raises:
        SystemExit: names the case, the first differing index, and both values there.
    """
    if expected.dtype != got.dtype or expected.shape != got.shape:
        raise SystemExit(
            f"{case}: expected {expected.dtype}{expected.shape}, got {got.dtype}{got.shape}; nothing was timed"
        )
    different = np.argwhere(expected != got)
    if len(different):
        at = tuple(int(i) for i in different[0])
        raise SystemExit(
            f"{case}: {len(different)} of {expected.size} values differ, first at {at}: "
            f"expected {expected[at]}, got {got[at]}; nothing was timed"
        )


def machine() -> dict[str, Any]:
    """Where the figures come from: processor, cores, memory, system, versions, commit, command."""
    return {
        **describe(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or (os.cpu_count() or 1),
        "commit": _commit(),
        "command": _command(sys.argv),
    }


def _command(words: Sequence[str]) -> str:
    """The command line as others would type it: absolute paths, which are this machine's, by their last part."""
    script, *rest = words
    path = Path(script).resolve()
    name = path.relative_to(ROOT / "bench") if path.is_relative_to(ROOT / "bench") else path.name
    rest = (Path(word).name if Path(word).is_absolute() else word for word in rest)
    return " ".join(["python", f"bench/{name}", *map(shlex.quote, rest)])


def _commit() -> str:
    """Short commit of the checkout, with ``+`` behind it if files differ from it; empty outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def document(rows: Sequence[Row]) -> dict[str, Any]:
    """The contract: ``{"machine": {...}, "rows": [...]}``, a row an object with exactly the fields of :class:`Row`."""
    return {"machine": machine(), "rows": [asdict(row) for row in rows]}


def write(path: Path, rows: Sequence[Row], more: Mapping[str, Any] | None = None) -> None:
    """Write the contract's JSON, and ``more`` behind it, to ``path`` (through a neighbour: no reader sees half)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    text = json.dumps(document(rows), indent=1)
    for key, value in (more or {}).items():  # compact: what figures are drawn from is no reading matter
        text = f"{text[:-2]},\n {json.dumps(key)}: {json.dumps(value)}\n}}"
    part.write_text(text + "\n")
    part.replace(path)


def kept_document(options: argparse.Namespace) -> dict[str, Any]:
    """What ``options.json`` holds already, for a benchmark that adds to it; none yet, or --quick: no rows."""
    if options.quick or not options.json or not options.json.exists():
        return {"rows": []}
    return json.loads(options.json.read_text())


def kept(options: argparse.Namespace) -> list[Row]:
    """The rows of :func:`kept_document`."""
    return [Row(**row) for row in kept_document(options)["rows"]]


def with_kept(options: argparse.Namespace, found: Sequence[Row], place: Callable[[str], int]) -> list[Row]:
    """``found`` and the rows of :func:`kept` whose case was not measured, by the ``place`` of the case."""
    measured = {row.case for row in found}
    before = [row for row in kept(options) if row.case not in measured]
    return sorted([*before, *found], key=lambda row: place(row.case))


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The parser that every benchmark starts from; add a benchmark's own options to it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument(
        "--quick", action="store_true", help="smallest case, few rounds: proves that it runs, no figures"
    )
    return parser


def _is_data_error(error: ValueError) -> bool:
    """Whether it is what a data set says that cannot be read; benchmarks that open none need no torch."""
    base = sys.modules.get("bitshift.train.data.base")
    return base is not None and isinstance(error, base.DataError)


def main(
    description: str | None,
    rows: Callable[[argparse.Namespace], Sequence[Row]],
    *,
    parser: argparse.ArgumentParser | None = None,
) -> None:
    """Parse the command line, measure, print one line a row, and write ``--json``.

    What ``rows`` puts into ``options.extra`` (by name, JSON-ready) is written behind the rows.
    """
    options = (parser or arguments(description)).parse_args()
    try:
        measured = list(rows(options))
    except FileNotFoundError as error:
        raise SystemExit(f"{sys.argv[0]}: no such file or folder: {error.filename or error}") from error
    except ValueError as error:
        if not _is_data_error(error):
            raise
        raise SystemExit(f"{sys.argv[0]}: {error}") from error
    if not measured:
        raise SystemExit(f"{sys.argv[0]}: measured nothing")
    width = max(len(row.case) for row in measured)
    for row in measured:
        spread = f" ± {row.spread:.3g}" if row.spread else ""
        against = f" against {row.against}" if row.against else ""
        print(f"{row.case:{width}}  {row.metric}: {row.value:.5g}{spread} {row.unit}{against} ({row.runs} runs)")
    if options.json:
        write(options.json, measured, getattr(options, "extra", None))
