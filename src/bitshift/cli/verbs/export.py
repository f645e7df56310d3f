"""``bitshift export``: a run directory becomes one model file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from bitshift.cli.errors import CliError
from bitshift.cli.output import Output, size_text
from bitshift.cli.verbs import Verb
from bitshift.train.files import NET


@dataclass(frozen=True, kw_only=True)
class Export(Verb):
    """Flags of ``bitshift export``."""

    help_text: ClassVar[str] = """Write a trained run as one model file: packed weights, graph, labels, preprocessing.

The network is frozen first (norms folded, accumulator bounds proved, simulation and integers compared), and the
written file is run on real rows and compared with the simulation once more; a file that differs is not left behind.

examples:
  bitshift export runs/demo
  bitshift export runs/mine --output mine.safetensors --name "my digits"
  bitshift export runs/mine --data ~/data/mine --rows 500
"""
    run_directory: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """A run directory of `bitshift train` or `bitshift convert`."""
    output: Path | None = None
    """Where to write; default RUN/net.safetensors."""
    name: str | None = None
    """A name stored in the file; default: model, method and format."""
    data: str | None = None
    """Data set for the check, if the run's own has moved."""
    rows: int = 64
    """Rows on which simulation, integers and file are compared."""

    def run(self, out: Output) -> None:  # noqa: D102 - Verb.run
        from bitshift.cli.exporting import export_network
        from bitshift.cli.runs import open_run
        from bitshift.cli.targets import check_target

        if self.rows < 1:
            raise CliError(f"--rows {self.rows}: must be at least 1")
        run = open_run(self.run_directory)
        path = self.output or run.path / NET
        check_target("--output", path)
        data, network = run.open_data("train", self.data), run.network()
        run.check_data(network, data, self.data or run.data)
        done = export_network(network, data, path, name=self.name or run.spec.describe(), rows=self.rows)
        out.line(f"{path}: {size_text(done.bytes)}, {run.spec.describe()}, {done.multiplications}")
        if done.largest_error:
            checked = f"largest difference of {done.checked:,} float outputs: {done.largest_error:.2g}"
        else:
            checked = f"{done.differing} of {done.checked:,} outputs differ from the simulation"
        out.line(f"checked on {self.rows} rows with the {done.backend} backend: {checked}")
        out.line(f"next: bitshift inspect {path}")
        out.result(
            {
                "file": path, "bytes": done.bytes, "backend": done.backend, "checked_outputs": done.checked,
                "differing_outputs": done.differing, "largest_error": done.largest_error,
            }
        )  # fmt: skip


VERB = Export
