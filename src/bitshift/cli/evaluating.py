"""Accuracy of a model file on a data set, by the runtime. Imports torch only for the data readers."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from bitshift.cli.errors import CliError
from bitshift.cli.output import to_json
from bitshift.cli.report.collect import EVALUATION
from bitshift.cli.runs import with_trained_classes
from bitshift.runtime import Model
from bitshift.train.data import Request, TrainData
from bitshift.train.evaluate import EvalResult, evaluate
from bitshift.train.progress import Count


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """A model file on a whole data set."""

    accuracy: float
    confusion: np.ndarray
    seconds: float


def fitting(model: Model, data: TrainData, where: str) -> TrainData:
    """``data`` under the model's labels; CliError for another shape, features for a model of pictures, or classes."""
    (name,) = model.graph.inputs
    shape = data.sample_shape
    if model.graph.values[name].shape != shape:
        raise CliError(f"{where}: the data are {shape} a sample, the model takes {model.graph.values[name].shape}")
    if "preprocess" in model.graph.meta and not data.is_pixels:
        raise CliError(f"{where}: the model takes pictures, and the data hold float32 features; store pixels as uint8")
    return data if model.labels is None else with_trained_classes(data, model.labels, where)


def evaluate_shown(model: nn.Module, data: TrainData, title: str, *, batch_size: int = 250) -> EvalResult:
    """:func:`evaluate` with a bar or lines that say ``title``."""
    with Count(title, len(data)) as count:
        return evaluate(model, data, batch_size=batch_size, progress=count)


def evaluate_file(model: Model, data: TrainData, *, batch_size: int = 250, title: str = "evaluating") -> FileResult:
    """Run every sample from the file, with a bar or lines; the file's preprocess wins over the data's normalisation."""
    from bitshift.cli.inputs import prepare

    pictures = "preprocess" in model.graph.meta and data.is_pixels
    predicted, true, begin = [], [], time.perf_counter()
    requests = [Request(rows=slice_rows(start, batch_size, len(data))) for start in range(0, len(data), batch_size)]
    with closing(data.batches(requests)) as batches, Count(title, len(data)) as count:
        for images, labels in batches:
            x = prepare(model, images.numpy()) if pictures else data.normalise(images).numpy()
            y = np.asarray(model.run(x))
            predicted.append(y.astype(np.int64) if y.ndim == 1 else y.argmax(axis=1))
            true.append(labels.numpy())  # as read: a photo that replaces a corrupt one has its own
            count(len(images))
    seconds = time.perf_counter() - begin
    classes = len(data.class_names)
    guesses, wanted = np.concatenate(predicted), np.concatenate(true)
    counts = np.bincount(wanted * classes + guesses, minlength=classes * classes)
    return FileResult(
        accuracy=float((guesses == wanted).mean()), confusion=counts.reshape(classes, classes), seconds=seconds
    )


def slice_rows(start: int, count: int, end: int) -> np.ndarray:
    """Row numbers ``start`` to ``start + count``, cut at ``end``."""
    return np.arange(start, min(start + count, end))


def store(run_dir: Path, title: str, labels: tuple[str, ...], confusion: np.ndarray) -> None:
    """Write evaluation.json, which the report draws."""
    content = {"title": title, "labels": labels, "confusion": confusion}
    (run_dir / EVALUATION).write_text(to_json(content, indent=None) + "\n", encoding="utf-8")
