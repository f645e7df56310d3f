"""A whole training as `train` and `demo` run it: float twin, shift network, one run directory. Imports torch."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bitshift.cli.backbone import Backbone, build_on
from bitshift.cli.errors import CliError, near_miss
from bitshift.cli.images import ImageOptions
from bitshift.cli.network import NetworkSpec, check_sample, meant_for
from bitshift.cli.rundir import read_config
from bitshift.cli.runs import with_recorded_normalise
from bitshift.core.listing import listed
from bitshift.nn.config import ShiftConfig
from bitshift.nn.convert import convert
from bitshift.nn.report import ConversionReport
from bitshift.train.config import TrainConfig
from bitshift.train.data import AUGMENTS, Augment, TrainData, same_classes
from bitshift.train.data.base import Normalise
from bitshift.train.data.opening import one_split
from bitshift.train.files import CHECKPOINT, CONFIG, FLOAT, WEIGHTS
from bitshift.train.input_scale import OnInput, fold_input
from bitshift.train.loop import FitResult, fit
from bitshift.train.recipes import NORMALISE
from bitshift.train.state import other_configuration

PIXELS = "pretrained_pixels"
"""Key of ``about``: the normalisation of pretrained weights, where the run's is another."""
_log = logging.getLogger("bitshift")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to train.

    ``shift`` None trains the float network alone. ``float_train`` trains the float twin first, ``pretrained`` takes its
    weights from a file or run instead; either twin is the teacher (``train.distill_weight``) and, with
    ``shift.init="pretrained"``, the start. ``backbone`` gives the network all its layers but the new ones instead.
    ``normalise`` and ``pretrained_normalise`` are names in ``NORMALISE``: of the data (None: as the set comes), and of
    what ``pretrained`` was trained on (None: the same, or what a run directory says). ``image_size``: the recipe's
    square of photos, ``images`` what the flags made of it.
    """

    name: str
    model: str
    data: str
    shift: ShiftConfig | None
    train: TrainConfig
    float_train: TrainConfig | None = None
    pretrained: Path | None = None
    backbone: Backbone | None = None
    augment: str | None = None
    normalise: str | None = None
    pretrained_normalise: str | None = None
    image_size: int | None = None
    images: ImageOptions = field(default_factory=ImageOptions)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What :func:`train` leaves beside the run directory."""

    result: FitResult
    twin: FitResult | None
    conversion: ConversionReport | None


def open_splits(
    name: str, images: ImageOptions | None = None, *, held_out: bool = True
) -> tuple[TrainData, TrainData]:  # fmt: skip
    """Training and test rows of a data set, with one list of classes.

    Where the pictures of one split are all grey and the other's are not, both get three channels. A file that holds
    one split would be both: with ``held_out`` it is refused, as a test on training rows tells nothing.
    """
    images = images or ImageOptions()
    if held_out and one_split(name):
        raise CliError(
            f"--data {name}: holds one split, and a test on the training rows tells nothing; give a folder of shards "
            "train-*.tar and test-*.tar, or x_train, y_train, x_test and y_test in one .npz file"
        )
    train, test = images.open(name, "train"), images.open(name, "test")
    if {train.sample_shape[0], test.sample_shape[0]} == {1, 3} and images.channels is None:
        images = replace(images, channels=3)
        train, test = images.open(name, "train"), images.open(name, "test")
        if train.sample_shape[0] == test.sample_shape[0]:  # arrays stay as they are
            _log.info("%s: only one of the splits train and test is in colour; both get three channels", name)
    return same_classes(train, test)


def like_run(weights: Path | None, data: tuple[TrainData, TrainData]) -> tuple[TrainData, TrainData]:
    """``data`` under the normalisation that ``weights`` were trained with, where that is a run directory."""
    config = read_config(weights) if weights is not None and weights.is_dir() else {}
    train, test = (with_recorded_normalise(split, config) for split in data)
    return train, test


def normalised(
    data: tuple[TrainData, TrainData], name: str | None, *, asked: bool = True
) -> tuple[TrainData, TrainData]:
    """Both splits under the normalisation called ``name``; None and "data" leave what the data set has.

    Float features, which have none, are refused where the user ``asked`` for it, and stay under a recipe's own.
    """
    if name in (None, "data"):
        return data
    if name not in NORMALISE:
        raise CliError(near_miss(name, (*NORMALISE, "data"), "normalisation"))
    if not (data[0].is_pixels and data[1].is_pixels):
        if not asked:
            _log.info("the data are float features, which the network gets as they are, not as %s pixels", name)
            return data
        raise CliError(
            f"--normalise {name} is for pixels 0..255, and the data hold float32 features, which the network gets as "
            "they are (--normalise data); store pixels as uint8"
        )
    train, test = (split.with_normalise(NORMALISE[name]) for split in data)
    return train, test


def make_augment(name: str | None) -> Augment | None:
    """The augmentation called ``name``; None and "none" are none."""
    if name in (None, "none"):
        return None
    if name not in AUGMENTS:
        raise CliError(near_miss(name, (*AUGMENTS, "none"), "augmentation"))
    found = AUGMENTS[name]
    return found if isinstance(found, Augment) else found()


def spec_for(model: str, data: TrainData, shift: ShiftConfig | None) -> NetworkSpec:
    """The network ``model`` for the shape and classes of ``data``."""
    return NetworkSpec(model=model, num_classes=len(data.class_names), input_shape=data.sample_shape, shift=shift)


def train(plan: Plan, data: tuple[TrainData, TrainData], run_dir: Path, *, resume: bool = True) -> Trained:
    """Train what ``plan`` says into ``run_dir``; started again with the same plan it continues where it stopped.

    Everything is seeded by the plan, so two runs on one machine and thread count are equal.
    """
    augment = make_augment(plan.augment)
    if augment is not None and len(data[0].sample_shape) != 3:
        raise CliError(
            f"augmentation {plan.augment!r} changes images (C, H, W), and a sample has {data[0].sample_shape}; "
            "leave it out (--augment none)"
        )
    if plan.pretrained_normalise and not data[0].is_pixels:
        raise CliError(
            f"--pretrained-normalise {plan.pretrained_normalise} is for pixels 0..255, and the data hold float32 "
            "features; leave it out, or store pixels as uint8"
        )
    _refuse_used(plan, run_dir)
    float_spec = spec_for(plan.model, data[0], None)
    _check_fit(plan, float_spec.build_float(), data[0])
    torch.manual_seed(plan.train.seed)
    twin, teacher, twin_result = _twin(plan, float_spec, data, run_dir, resume, augment)
    spec = spec_for(plan.model, data[0], plan.shift)
    torch.manual_seed(plan.train.seed)
    generator = torch.Generator().manual_seed(plan.train.seed)
    report = None
    if plan.backbone is not None:
        model, spec, report = build_on(plan.backbone, spec, generator=generator)
    else:
        model = twin if twin is not None else float_spec.build_float()
        if plan.shift is not None:
            model, report = convert(model, plan.shift, sample=spec.sample(), generator=generator)
    if plan.pretrained is not None and twin is not None:
        spec = spec.rebuilding(twin, model)
    # a float net is taught only where a recipe says so: fine-tuning one must not tie it to where it came from
    taught = plan.train.distill_weight > 0 and (plan.shift is not None or bool(plan.name))
    about = {
        "network": spec.as_dict(),
        "data": plan.data,
        "recipe": plan.name,
        "augment": plan.augment,
        "pretrained": str(plan.pretrained or ""),
        **({"backbone": str(plan.backbone.path)} if plan.backbone else {}),
        **plan.images.recorded(),
        **(recorded_pixels(pixels_of(plan.pretrained, plan.pretrained_normalise), data[0]) if plan.pretrained else {}),
    }
    _log.info("%s: %s, %d epochs", run_dir, spec.describe(), plan.train.epochs)
    result = fit(
        model.train(),
        plan.train,
        *data,
        run_dir=run_dir,
        teacher=teacher if taught else None,
        resume=resume,
        augment=augment,
        about=about,
    )
    return Trained(result=result, twin=twin_result, conversion=report)


def _refuse_used(plan: Plan, run_dir: Path) -> None:
    """Refuse at once, not behind hours of a float twin's training, what ``fit`` would refuse: a run of another plan."""
    if not (run_dir / CONFIG).exists():
        _refuse_foreign(run_dir)
        return
    config = read_config(run_dir)
    differences = plan.train.numeric_differences(config["train"]) if "train" in config else []
    about = config.get("about", {})
    pretrained = str(plan.pretrained or "")
    for name, mine in (
        ("data", plan.data),
        ("recipe", plan.name),
        ("augment", plan.augment),
        ("pretrained", pretrained),
    ):
        if about.get(name, mine) != mine:
            differences.append(f"{name}: {about[name]!r} then, {mine!r} now")
    if differences:
        raise CliError(other_configuration(run_dir, differences))


_BESIDE = (".log", ".out", ".err", ".txt", ".md", ".json", ".sh", ".toml", ".yaml", ".yml")
"""Endings of what people keep beside a run: logs, notes, scripts, rules."""


def _refuse_foreign(run_dir: Path) -> None:
    """CliError for a folder with other files than notes, and what a start leaves that did not come far."""
    if not run_dir.is_dir() or (run_dir / CHECKPOINT).exists():
        return
    foreign = sorted(
        p.name
        for p in run_dir.iterdir()
        if not (p.name.startswith(".") or p.suffix in _BESIDE or p.name in (FLOAT, "lost+found"))
    )
    if foreign:
        raise CliError(
            f"--run-dir {run_dir} is no run directory and holds other files ({listed(foreign, 3)}); choose another "
            "directory"
        )


def _check_batch(plan: Plan, data: TrainData) -> None:
    """CliError where no full batch can be made."""
    twin = plan.float_train if plan.pretrained is None and plan.shift is not None else None
    for config in (plan.train, twin):
        if config is not None and config.batch_size > len(data):
            if not len(data):
                raise CliError(f"{plan.data} has no training rows")
            who = "--batch-size" if config is plan.train else "the float twin (--float-epochs 0: none) has batch size"
            raise CliError(
                f"{who} {config.batch_size}: allowed is 1 to {len(data)}, the number of training rows in {plan.data}"
            )


def _about(plan: Plan, data: TrainData) -> str:
    """The data's shape, and what the network's source was trained on, for a network that does not take it."""
    if plan.backbone is None or (trained := plan.backbone.spec) is None:
        return f"{plan.data}: {meant_for(plan.model, data.sample_shape)}"
    where = f"--backbone {plan.backbone.path} was trained on {trained.input_shape}"
    return f"{plan.data}: the data are {data.sample_shape} a sample, {where}"


def _check_fit(plan: Plan, model: nn.Module, data: TrainData) -> None:
    """Before hours of training: CliError if ``model`` does not take ``data``, or does not give one logit a class."""
    _check_batch(plan, data)
    sample = data.normalise(data.batch(np.arange(min(2, len(data))))[0])
    given, classes = check_sample(model, sample, _about(plan, data)), len(data.class_names)
    if isinstance(given, torch.Tensor) and given.shape == (len(sample), classes):
        return
    if not isinstance(given, torch.Tensor):
        found, step = type(given).__name__, "return the logits alone in eval mode"
    else:
        found = f"[{', '.join(['N', *map(str, given.shape[1:])])}]"
        step = f"give the last layer {classes} outputs (keyword num_classes)"
        if given.dim() > 2:
            step = "a map of classes is trained as in bench/transfer_segmentation.py"
    raise CliError(f"model {plan.model}: one logit a class is needed, [N, {classes}], found {found}; {step}")


def _twin(
    plan: Plan,
    spec: NetworkSpec,
    data: tuple[TrainData, TrainData],
    run_dir: Path,
    resume: bool,
    augment: Augment | None,
) -> tuple[nn.Module | None, nn.Module | None, FitResult | None]:
    """The float twin, trained in ``run_dir/float`` or loaded, as start and as teacher; None where the plan has none."""
    if plan.pretrained is not None:
        net = spec.build_float(plan.pretrained)
        folded, exact = on_pixels(net, pixels_of(plan.pretrained, plan.pretrained_normalise), data[0], plan.pretrained)
        return folded, copy.deepcopy(net) if exact is net else exact, None
    if plan.float_train is None or plan.shift is None:
        return None, None, None
    model = spec.build_float()
    folder = run_dir / FLOAT
    about = {"network": spec.as_dict(), "data": plan.data, "recipe": plan.name, "augment": plan.augment}
    about |= plan.images.recorded()
    _log.info("%s: float twin, %d epochs", folder, plan.float_train.epochs)
    result = fit(model, plan.float_train, *data, run_dir=folder, resume=resume, augment=augment, about=about)
    model = model.cpu()  # from where it was trained: conversion runs it on samples that lie here
    return model, copy.deepcopy(model), result


def pixels_of(weights: Path | None, name: str | None) -> Normalise | None:
    """The normalisation that ``weights`` were trained on: what their run directory says, else that called ``name``."""
    if weights is not None and weights.is_dir():
        said = read_config(weights).get("data", {}).get("normalise")
        return Normalise.from_dict(said) if said else None
    return NORMALISE[name] if name else None


def on_pixels(net: nn.Module, old: Normalise | None, data: TrainData, where: Path) -> tuple[nn.Module, nn.Module]:
    """``net``, trained on ``old`` pixels, for those of ``data``: by its first layer, and exactly, by a layer in front.

    Both are ``net`` itself where the pixels are the same, or nothing is known of the old ones.
    """
    new = data.normalise
    if old is None or old == new:
        return net, net
    _log.info("%s was trained on other pixels; its first layer takes the difference", where)
    sample = new(data.batch(np.arange(min(8, len(data))))[0])
    return fold_input(net, old, new, sample=sample), OnInput(net, old, new, data.sample_shape[0])


def recorded_pixels(old: Normalise | None, data: TrainData) -> dict[str, Any]:
    """What ``about`` of a run says of pretrained weights whose pixels, ``old``, were not the data's; else nothing."""
    if old is None or old == data.normalise:
        return {}
    return {PIXELS: old.as_dict()}


def finished(run_dir: Path) -> bool:
    """Whether training of ``run_dir`` has come to its end; with ``keep="best"``: whether an epoch has."""
    return (run_dir / WEIGHTS).exists()
