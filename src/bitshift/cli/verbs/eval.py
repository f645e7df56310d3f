"""``bitshift eval``: accuracy of a run directory or of a model file on a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from bitshift.cli.errors import CliError
from bitshift.cli.images import ImageFlags
from bitshift.cli.output import Output, percent
from bitshift.cli.verbs import Verb

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Eval(ImageFlags, Verb):
    """Flags of ``bitshift eval``."""

    help_text: ClassVar[str] = """Accuracy of a run, or of an exported file, on a whole data set.

A run directory is evaluated by its training simulation in eval mode, a model file by the engine. For an integer
network the two numbers are the same, because every output is the same integer. Reading data sets needs PyTorch.
The result of a run is kept in its evaluation.json, which the report draws.

examples:
  bitshift eval runs/demo
  bitshift eval runs/demo/net.safetensors --data mnist_5k
  bitshift eval net.safetensors --data ~/data/cifar10 --split test --json
  bitshift eval resnet18.safetensors --data ~/data/imagenet --image-size 224 --image-short 256
"""
    what: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN|MODEL")]]
    """A run directory or a model file."""
    data: str | None = None
    """Data set by name or path (`bitshift train --help` lists the layouts); a run knows its own."""
    split: Literal["test", "train"] = "test"
    """Which rows."""
    batch_size: int = 250
    """Samples that run at once."""
    backend: str = "auto"
    """For a model file: auto, engine or reference."""

    def run(self, out: Output) -> None:  # noqa: D102 - Verb.run
        if self.batch_size < 1:
            raise CliError(f"--batch-size {self.batch_size}: must be at least 1")
        if self.what.is_dir():
            self._run_directory(out)
        else:
            self._file(out)

    def _run_directory(self, out: Output) -> None:
        from bitshift.cli.evaluating import evaluate_shown, store
        from bitshift.cli.runs import open_run

        run = open_run(self.what)
        data = run.open_data(self.split, self.data, self.image_options(run.images))
        network = run.network()
        run.check_data(network, data, self.data or run.data)
        result = evaluate_shown(network, data, f"evaluating {self.what}", batch_size=self.batch_size)
        title = f"{self.data or run.data}, {self.split} rows, training simulation in eval mode"
        store(run.path, title, data.class_names, result.confusion)
        self._answer(
            out, result.accuracy, result.confusion, data.class_names, {"loss": result.loss, "by": "simulation"}
        )

    def _file(self, out: Output) -> None:
        from bitshift.cli.evaluating import evaluate_file, fitting
        from bitshift.cli.models import model_path, open_model

        model_path(self.what)
        if self.data is None:
            raise CliError("a model file does not know its data set; give --data NAME_OR_PATH")
        model = open_model(self.what, backend=self.backend)
        data = fitting(model, self.image_options().open(self.data, self.split), str(self.what))
        result = evaluate_file(model, data, batch_size=self.batch_size, title=f"evaluating {self.what}")
        about = {"by": model.backend, "seconds": result.seconds}
        self._answer(out, result.accuracy, result.confusion, data.class_names, about)

    def _answer(
        self, out: Output, accuracy: float, confusion: np.ndarray, labels: tuple[str, ...], about: dict[str, object]
    ) -> None:
        samples = int(confusion.sum())
        out.line(f"{self.what}: {percent(accuracy)} of {samples:,} {self.split} samples right, by the {about['by']}")
        totals = confusion.sum(axis=1)
        order = sorted((c for c in range(len(labels)) if totals[c]), key=lambda c: confusion[c, c] / totals[c])[:5]
        rows = [(labels[c], f"{100 * confusion[c, c] / totals[c]:.2f} %", f"{totals[c]:,}") for c in order]
        out.table("classes with the lowest accuracy", ("class", "right", "samples"), rows, right=(1, 2))
        out.result(
            {
                "what": self.what, "data": self.data, "split": self.split, "accuracy": accuracy, "samples": samples,
                "labels": labels, "confusion": confusion, **about,
            }
        )  # fmt: skip


VERB = Eval
