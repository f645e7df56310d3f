"""``bitshift convert``: a float network becomes a shift network, without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from bitshift.cli.errors import CliError, near_miss
from bitshift.cli.images import ImageOptions, TrainImageFlags
from bitshift.cli.output import Output, percent, to_json
from bitshift.cli.rules import ShiftFlags
from bitshift.cli.verbs import Verb
from bitshift.train.files import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bitshift.cli.network import NetworkSpec
    from bitshift.nn.report import ConversionReport
    from bitshift.train.data import TrainData


@dataclass(frozen=True, kw_only=True)
class Convert(ShiftFlags, TrainImageFlags, Verb):
    """Flags of ``bitshift convert``."""

    help_text: ClassVar[str] = """Turn a float network into a shift network: what changed, what stayed, and why.

The model is a name (`bitshift inspect models`) or your own module:function that returns an nn.Module; --weights fills
it first. With --data the input's shape is known, activation grids are calibrated, and accuracy is printed before and
after. --output keeps the result as a run directory, for `bitshift eval`, `export` and `report`. Method nearest rounds
trained weights; the others mean to be trained afterwards (`bitshift train --pretrained`).

A rules file gives exceptions by module path; the first match wins. rules.toml:
  [[rule]]
  pattern = "layer1.*"
  format = "pot4x2"
  [[rule]]
  pattern = "fc"
  keep = "int8"

examples:
  bitshift convert resnet20 --input-shape 3 32 32 --classes 10
  bitshift convert resnet20 --weights cifar10_resnet20.th --data ~/data/cifar10 --format pot4x2 --output runs/rounded
  bitshift convert my_nets:small --weights small.pt --data my.npz --activations 8 --rules rules.toml --output runs/small
"""
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A model's name, or module:function."""
    weights: Path | None = None
    """State dict for the float model: .safetensors, .pt, .pth, .th, or a run directory."""
    data: str | None = None
    """Data set by name or path: gives shapes, calibrates, evaluates."""
    input_shape: tuple[int, ...] = ()
    """Shape of one sample without the batch, e.g. 3 32 32, when there is no --data."""
    classes: int = 10
    """Number of classes, when there is no --data."""
    calibration_rows: int = 512
    """Training rows that set the activation grids."""
    augment: str | None = None
    """Augmentation that the network was trained with: norm statistics, and so the calibration, belong to it."""
    normalise: str | None = None
    """Pixels that the network takes, a name as for `bitshift train --normalise`; default: the data set's own."""
    pretrained_normalise: str | None = None
    """What --weights were trained on (a name as for --normalise), if that differs from it: the first layer takes the
    difference. A run directory says it itself."""
    output: Path | None = None
    """Run directory to write."""

    def run(self, out: Output) -> None:  # noqa: D102 - Verb.run
        import torch

        from bitshift.cli.network import NetworkSpec, check_sample, meant_for
        from bitshift.cli.runs import unset_grids
        from bitshift.cli.training import like_run, normalised, on_pixels, open_splits, pixels_of, spec_for
        from bitshift.nn.activations import ActQuant
        from bitshift.nn.convert import convert

        config = self.shift_config(_default_config(self.weights is not None))
        if config is None:
            raise CliError("--method float converts nothing; leave it out, or name a method")
        if self.output is not None and self.output.exists() and any(self.output.iterdir()):
            raise CliError(f"--output {self.output} is not empty; choose another run directory")
        if self.weights is not None and not self.weights.exists():
            raise CliError(f"no such file: {self.weights}")
        self._check_pixels()
        images = self._images()
        data = open_splits(self.data, images) if self.data is not None else None
        if data is not None:
            data = normalised(data, self.normalise) if self.normalise else like_run(self.weights, data)
        if self.pretrained_normalise and data is not None and not data[0].is_pixels:
            raise CliError(f"--pretrained-normalise is for pixels 0..255, and {self.data} holds float32 features")
        if data is not None:
            spec = spec_for(self.model, data[0], config)
        elif self.input_shape:
            spec = NetworkSpec(model=self.model, num_classes=self.classes, input_shape=self.input_shape, shift=config)
        else:
            raise CliError("give --data, or the shape of one sample: --input-shape 3 32 32")
        if any(n < 1 for n in spec.input_shape) or spec.num_classes < 1:
            raise CliError(f"--input-shape {self.input_shape} --classes {self.classes}: whole numbers from 1")
        torch.manual_seed(0)
        net = exact = spec.build_float(self.weights)
        if data is not None and self.weights is not None:
            net, exact = on_pixels(net, pixels_of(self.weights, self.pretrained_normalise), data[0], self.weights)
        check_sample(net, spec.sample(), meant_for(self.model, spec.input_shape))
        model, report = convert(net, config, sample=spec.sample())
        spec = spec.rebuilding(net, model) if self.weights is not None else spec
        accuracies = self._calibrate(spec, model.eval(), exact, data) if data is not None else None
        report = report.with_quantisers(
            {path: module.describe() for path, module in model.named_modules() if isinstance(module, ActQuant)}
        )
        if self.output is not None:
            self._save(spec, model, data)
        self._answer(out, spec, report, accuracies, unset=unset_grids(model))

    def _check_pixels(self) -> None:
        from bitshift.train.recipes import NORMALISE

        name = self.pretrained_normalise
        if name is None:
            return
        if name not in NORMALISE:
            raise CliError(f"--pretrained-normalise: {near_miss(name, list(NORMALISE), 'normalisation')}")
        for flag, value, why in (
            ("--weights", self.weights, "it says what they were trained on"),
            ("--data", self.data, "its pixels are the ones to come"),
        ):
            if value is None:
                raise CliError(f"--pretrained-normalise {name} needs {flag}: {why}")

    def _images(self) -> ImageOptions:
        from bitshift.cli.training import make_augment
        from bitshift.train.data import random_crop

        return self.image_options(random_crop=random_crop(make_augment(self.augment)) is not None)

    def _calibrate(
        self, spec: NetworkSpec, model: nn.Module, exact: nn.Module, data: tuple[TrainData, TrainData]
    ) -> tuple[float, float] | None:
        """Set the activation grids; accuracy of ``exact`` and of the converted network if weights were given."""
        from bitshift.cli.evaluating import evaluate_shown
        from bitshift.cli.runs import sample_images
        from bitshift.cli.training import make_augment
        from bitshift.nn.activations import calibrate
        from bitshift.train.progress import Count

        if spec.shift is not None and spec.shift.integer:
            rows = sample_images(data[0], self.calibration_rows, make_augment(self.augment))
            parts = rows.tensor_split(max(1, -(-len(rows) // 128)))  # even: every batch weighs the same
            with Count("calibrating the activation grids", len(rows)) as count:
                calibrate(model, _counted(parts, count))
        if self.weights is None:
            return None
        return (
            evaluate_shown(exact, data[1], "evaluating the float network").accuracy,
            evaluate_shown(model, data[1], "evaluating the converted network").accuracy,
        )

    def _save(self, spec: NetworkSpec, model: nn.Module, data: tuple[TrainData, TrainData] | None) -> None:
        from bitshift.cli.training import pixels_of, recorded_pixels
        from bitshift.train.checkpoint import save_model

        assert self.output is not None
        self.output.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = {"network": spec.as_dict(), "data": self.data, "pretrained": str(self.weights or "")}
        about |= self._images().recorded()
        config: dict[str, Any] = {"about": about}
        if data is not None:
            about |= recorded_pixels(pixels_of(self.weights, self.pretrained_normalise), data[0])
            config["data"] = {"class_names": data[0].class_names, "normalise": data[0].normalise.as_dict()}
        (self.output / CONFIG).write_text(to_json(config) + "\n", encoding="utf-8")
        save_model(self.output / WEIGHTS, model)

    def _answer(
        self,
        out: Output,
        spec: NetworkSpec,
        report: ConversionReport,
        accuracies: tuple[float, float] | None,
        *,
        unset: bool,
    ) -> None:
        out.line(str(report))
        if accuracies is not None:
            out.line(f"test accuracy: float {percent(accuracies[0])}, converted {percent(accuracies[1])}")
        if unset:
            kept = f"{self.output} cannot be exported yet" if self.output is not None else "nothing can be exported yet"
            out.note(
                f"the activation grids are not set, so {kept}: the same command with --data DATA in place of "
                f"--input-shape{' (and another --output)' * (self.output is not None)} sets them, as training does"
            )
        elif self.output is not None:
            out.line(f"{self.output}: next, bitshift export {self.output}")
        out.result(
            {
                "network": spec.as_dict(), "output": self.output, **json.loads(report.to_json()),
                "converted": len(report.converted), "stayed": len(report.stayed),
                "float_accuracy": accuracies[0] if accuracies else None,
                "accuracy": accuracies[1] if accuracies else None,
            }
        )  # fmt: skip


def _counted(batches: Iterable[Tensor], count: Callable[[int], object]) -> Iterator[Tensor]:
    """``batches``, of which ``count`` is told when the next one is asked for."""
    for batch in batches:
        yield batch
        count(len(batch))


def _default_config(pretrained: bool) -> Any:
    """Conversion without training starts from the weights that are there."""
    from bitshift.nn.config import ShiftConfig

    return ShiftConfig(method="nearest" if pretrained else "denseshift", init="pretrained" if pretrained else "random")


VERB = Convert
