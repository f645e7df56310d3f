"""Run directories as the verbs see them: what was trained, on which data, and the trained network. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from bitshift.cli.errors import CliError
from bitshift.cli.images import ImageOptions
from bitshift.cli.network import NetworkSpec, check_sample
from bitshift.cli.rundir import read_config
from bitshift.nn.activations import ActQuant
from bitshift.train.checkpoint import load_model
from bitshift.train.data import Augment, Normalise, Request, TrainData, crops_at_decoding, step_generator
from bitshift.train.data.base import UNCHANGED
from bitshift.train.files import CONFIG, WEIGHTS


@dataclass(frozen=True, kw_only=True)
class Run:
    """An opened run directory."""

    path: Path
    config: Mapping[str, Any]
    spec: NetworkSpec
    data: str
    """Name or path of the data set; "" when the run has none."""

    def network(self) -> nn.Module:
        """The trained network, in eval mode."""
        model, _ = self.spec.build()
        load_model(self.path / WEIGHTS, model)
        if unset_grids(model):
            raise CliError(
                f"{self.path}: the activation grids are not set, as it was converted without data: `bitshift convert "
                f"{self.spec.model} --data DATA` with its other flags and another --output sets them, as training does"
            )
        return model.eval()

    def check_data(self, model: nn.Module, data: TrainData, name: str) -> None:
        """CliError if ``model``, this run's network, does not take the samples of ``data``, which is called ``name``.

        Another size than the run's may do: a network that ends with a mean over the picture takes any.
        """
        if data.sample_shape != self.spec.input_shape:
            sample = data.normalise(data.batch(np.arange(1))[0])
            about = f"{name}: the data are {data.sample_shape} a sample, the run takes {self.spec.input_shape}"
            check_sample(model, sample, about)

    @property
    def images(self) -> ImageOptions:
        """How the run's photos were brought to one size.

        Training rows that cannot be decoded are replaced: a training that was not allowed to do so never came to its
        end, and one that was has seen just these rows.
        """
        return replace(ImageOptions.from_about(self.config.get("about") or {}), skip_corrupt=True)

    def open_data(self, split: str, override: str | None = None, images: ImageOptions | None = None) -> TrainData:
        """A split of the run's data set (or of ``override``) under the run's normalisation, size and class names.

        Image folders and shards get the channels that the network takes, whatever this split alone would suggest.
        """
        name = override or self.data
        if not name:
            raise CliError(f"{self.path} does not know its data set; give --data")
        images, shape = images or self.images, self.spec.input_shape
        if images.channels is None and len(shape) == 3 and shape[0] in (1, 3):
            images = replace(images, channels=shape[0])
        data = with_recorded_normalise(images.open(name, split), self.config)
        trained = self.config.get("data", {}).get("class_names")
        return data if trained is None else with_trained_classes(data, trained, str(self.path))


def unset_grids(model: nn.Module) -> bool:
    """Whether an activation quantiser of ``model`` has met no data yet."""
    return any(isinstance(m, ActQuant) and not m.initialised for m in model.modules())


def with_recorded_normalise(data: TrainData, config: Mapping[str, Any]) -> TrainData:
    """``data`` under the normalisation that config.json records; CliError for pixels in place of features."""
    recorded = config.get("data", {}).get("normalise")
    if recorded is None:
        return data
    normalise = Normalise.from_dict(recorded)
    if data.is_pixels != (normalise != UNCHANGED):
        kinds = "uint8 pixels 0..255", "float32 features"
        raise CliError(
            f"the run was trained on {kinds[data.is_pixels]}, and the data hold {kinds[not data.is_pixels]}; give data "
            f"of the run's kind"
        )
    return data.with_normalise(normalise)


def with_trained_classes(data: TrainData, trained: Sequence[str], where: str) -> TrainData:
    """``data`` under the class names that a network was trained with; bare numbers stand for the other's names.

    Raises:
        CliError: other names, another order of them, or more classes than the network knows.
    """
    names, theirs = data.class_names, tuple(trained)
    if len(names) <= len(theirs) and names in (theirs[: len(names)], _numbers(len(names))):
        return data.with_class_names(theirs)
    if theirs == _numbers(len(theirs)) and len(names) == len(theirs):
        return data
    if len(names) != len(theirs):
        differ = f"{len(names)} classes ({_some(names)}), {where} knows {len(theirs)} ({_some(theirs)})"
    else:
        at = next(i for i, (mine, other) in enumerate(zip(names, theirs, strict=True)) if mine != other)
        differ = f"class {at} is {names[at]!r}, of {where} {theirs[at]!r}"
    raise CliError(f"the data's classes are others: {differ}; give data with its classes in its order")


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def open_run(path: Path) -> Run:
    """The run in ``path``.

    Raises:
        CliError: no run directory, one that a program other than the CLI made, or one that has no weights yet.
    """
    config = read_config(path)
    about = config.get("about") or {}
    if "network" not in about:
        raise CliError(
            f"{path / CONFIG} does not say which network it holds (about.network); only runs of `bitshift` do"
        )
    if not (path / WEIGHTS).exists():
        raise CliError(
            f"{path} has no {WEIGHTS} yet: training has not finished; "
            "resume it with `bitshift train` and the same flags"
        )
    return Run(path=path, config=config, spec=NetworkSpec.from_dict(about["network"]), data=about.get("data") or "")


def sample_images(data: TrainData, count: int, augment: Augment | None = None) -> Tensor:
    """At most ``count`` normalised images, by a fixed seed (files are often sorted by class), augmented if asked."""
    rows = np.random.default_rng(0).permutation(len(data))[:count]
    cropped, augment = crops_at_decoding(data, augment)
    if cropped is data:  # in this process: a batch is not worth a start of workers
        images, _ = data.batch(rows)
    else:
        with closing(cropped.batches([Request(rows=rows, place=(0, 0, 0))])) as batches:  # the crop is drawn by place
            images, _ = next(batches)
    return data.normalise(images if augment is None else augment(images, step_generator(0, 4)))


def preprocess_of(data: TrainData) -> dict[str, Any] | None:
    """The model file's ``preprocess`` for pictures normalised as ``data`` is; None for data that are no pictures."""
    if not data.is_pixels or data.sample_shape[0] not in (1, 3):
        return None
    channels, height, width = data.sample_shape

    def spread(values: tuple[float, ...]) -> list[float]:
        return list(values) if len(values) == channels else [values[0]] * channels

    return {
        "kind": "image",
        "channels": channels,
        "size": [height, width],
        "mean": spread(data.normalise.mean),
        "scale": spread(data.normalise.scale),
    }
