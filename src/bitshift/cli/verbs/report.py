"""``bitshift report``: one self-contained HTML page about a run or a model file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from bitshift.cli.errors import CliError
from bitshift.cli.images import ImageFlags, ImageOptions
from bitshift.cli.output import Output, size_text
from bitshift.cli.verbs import Verb

if TYPE_CHECKING:
    from bitshift.cli.report.data import Evaluation
    from bitshift.core.graph import Graph


@dataclass(frozen=True, kw_only=True)
class Report(ImageFlags, Verb):
    """Flags of ``bitshift report``."""

    help_text: ClassVar[str] = """Write one self-contained HTML page about a run directory or a model file.

It shows loss and accuracy curves, histograms of the weight levels by layer, flip rates, sizes, operation counts
(shifts, adds, multiplications and where they are) with an energy estimate, the confusion matrix, and the table of
float, int8, uniform at the same bits and ours. The page loads nothing from elsewhere.

Rows of the table that were never measured say so. --measure measures them: it rounds the float twin to int8, and
trains uniform weights of the same width with the run's own budget (this takes as long as the training did).

examples:
  bitshift report runs/demo
  bitshift report runs/mine --measure
  bitshift report net.safetensors --data mnist_5k --output page.html
  bitshift report resnet18.safetensors --data ~/data/imagenet --image-short 256
"""
    what: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN|MODEL")]]
    """A run directory or a model file."""
    output: Path | None = None
    """Where to write; default RUN/report.html, or MODEL.html beside the file."""
    measure: bool = False
    """Measure the rows of the table that are missing (needs PyTorch and the data)."""
    data: str | None = None
    """For a model file: evaluate it on this data set for the confusion matrix (needs PyTorch's data readers)."""

    def run(self, out: Output) -> None:  # noqa: D102 - Verb.run
        from bitshift.cli.report.collect import from_model
        from bitshift.cli.report.page import render
        from bitshift.cli.targets import check_target

        if self.output is not None:
            check_target("--output", self.output)
        if self.what.is_dir():
            path = self.output or self.what / "report.html"
            if self.data is not None:
                raise CliError(self._data_of_run())
            if self.image_options() != ImageOptions():
                raise CliError(
                    "the image flags are for a model file with --data; a run knows how its photos are opened"
                )
            if self.measure:
                self._measure(out)
            write_report(self.what, path)
        else:
            if self.data is None and self.image_options() != ImageOptions():
                raise CliError("the image flags say how photos of --data are opened; give --data, or leave them out")
            if self.measure:
                raise CliError(
                    f"--measure needs a run directory (weights to start from, data, budget); {self.what} is none"
                )
            from bitshift.cli.models import model_path

            path = self.output or model_path(self.what).with_suffix(".html")
            page = render(from_model(self.what, evaluation=self._evaluate()))
            path.write_text(page, encoding="utf-8")
        out.line(f"{path}: {size_text(path.stat().st_size)}")
        out.result({"report": path, "bytes": path.stat().st_size})

    def _data_of_run(self) -> str:
        """Why --data is refused beside a run, and what draws a confusion matrix."""
        from bitshift.cli.rundir import read_config

        known = (read_config(self.what).get("about") or {}).get("data")
        why = f"a run knows its data set, {self.what} {known}" if known else f"{self.what} was made without data"
        return (
            f"--data is for a model file, and {why}; to draw the result on {self.data}: bitshift eval {self.what} "
            f"--data {self.data}, then bitshift report {self.what}"
        )

    def _measure(self, out: Output) -> None:
        from bitshift.cli.comparing import measure_all
        from bitshift.cli.runs import open_run

        measure_all(open_run(self.what), note=out.note)

    def _evaluate(self) -> Evaluation | None:
        if self.data is None:
            return None
        from bitshift.cli.evaluating import evaluate_file, fitting
        from bitshift.cli.models import open_model
        from bitshift.cli.report.data import Evaluation

        model = open_model(self.what)
        options = self.image_options(_pictures_of(model.graph))
        data = fitting(model, options.open(self.data, "test"), str(self.what))
        result = evaluate_file(model, data)
        title = f"{self.data}, test rows, file run by the {model.backend}"
        confusion = tuple(tuple(int(n) for n in row) for row in result.confusion)
        return Evaluation(title=title, labels=data.class_names, confusion=confusion)


def _pictures_of(graph: Graph) -> ImageOptions:
    """How to open photos so that they fit the file's ``preprocess``, as far as it says."""
    pre = graph.meta.get("preprocess")
    if pre is None or pre["size"][0] != pre["size"][1]:  # only squares are cut out of photos
        return ImageOptions()
    return ImageOptions(size=pre["size"][0], channels=pre["channels"])


def write_report(run_dir: Path, path: Path) -> None:
    """Write the page of a run directory; needs no torch."""
    from bitshift.cli.report.collect import from_run
    from bitshift.cli.report.page import render

    path.write_text(render(from_run(run_dir)), encoding="utf-8")


VERB = Report
