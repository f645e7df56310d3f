"""Float networks and data of bench/mcu_nets.py: what each net starts from, learns from and is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitshift.train.checkpoint import load_model
from bitshift.train.config import TrainConfig
from bitshift.train.data import ArrayData, Augment, Normalise, PadCropFlip, Shift, open_data
from bitshift.train.data.base import UNCHANGED
from bitshift.train.data.sampler import step_generator
from bitshift.train.input_scale import OnInput, fold_input
from bitshift.train.loop import fit
from bitshift.train.models import build
from tiny.tflite_weights import load_folded, measure_norms

KEYWORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown")

SGD = {"optimizer": "sgd", "lr": 0.01, "nesterov": True}
ADAM = {"optimizer": "adamw", "lr": 0.001}
"""A net without norms has layers of very different sizes: under SGD at 0.01 ResNet-8 diverges within 50 steps."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A float network with norms, its teacher, and its rows.

    Args:
        train, test: what it learns from and is measured on; where ``folds`` is set they are the same rows.
        start: the float network on ``train.normalise``, ready for conversion.
        teacher: the float network as published.
        epochs: by format.
        budget: further fields of TrainConfig.
        folds: parts of a cross-validation; 0 where training and test rows are apart.
        int8: the published integer net, and what it takes for the rows of ``test`` (N, H, W, C).
    """

    train: ArrayData
    test: ArrayData
    augment: Augment
    start: nn.Module
    teacher: nn.Module
    epochs: dict[str, int]
    budget: dict[str, Any]
    folds: int = 0
    int8: tuple[Path, np.ndarray] | None = None


@dataclass(frozen=True, kw_only=True)
class Speech(Augment):
    """Coefficients (N, 1, frames, C) moved by up to ``frames`` in time, and mixed with up to ``mix`` of another row.

    The frame at the edge is repeated. Mixed words have no label; a teacher says what it hears.
    """

    frames: int = 4
    mix: float = 0.4

    width = 3

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Frames to move by, share of the other row, and which."""
        move = torch.randint(-self.frames, self.frames + 1, (count, 1), generator=generator).double()
        share = torch.rand((count, 1), generator=generator, dtype=torch.float64) * self.mix
        return torch.cat([move, share, torch.randperm(count, generator=generator)[:, None].double()], dim=1)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Moved and mixed."""
        frames = torch.arange(images.shape[2], device=images.device) + parameters[:, :1].long()
        frames = frames.clamp(0, images.shape[2] - 1)[:, None, :, None].expand_as(images)
        moved = images.gather(2, frames)
        share = parameters[:, 1].float().view(-1, 1, 1, 1)
        return moved + share * (moved[parameters[:, 2].long()] - moved)


def pictures(cifar: Path, split: str) -> ArrayData:
    """CIFAR-10 as ResNet-8 takes it."""
    data = open_data(cifar, split).with_normalise(Normalise(mean=(0.0,), scale=(1 / 128,)))
    assert isinstance(data, ArrayData)
    return data


def keywords(published: Path) -> ArrayData:
    """The 1,000 samples of MLPerf Tiny's performance mode, as DS-CNN takes them."""
    with np.load(published / "kws01_mfcc_1000.npz") as stored:
        codes, labels = stored["x"][:, None], stored["y"].astype(np.int64)
        features = ((codes.astype(np.float32) - float(stored["zero"])) * float(stored["scale"])).astype(np.float32)
    return ArrayData(
        images=features, labels=labels, class_names=KEYWORDS, normalise=Normalise(mean=(0.0,), scale=(1 / 64,))
    )


def keyword_codes(published: Path) -> np.ndarray:
    """The same samples as the published integer net takes them, int8 (N, 1, frames, coefficients)."""
    with np.load(published / "kws01_mfcc_1000.npz") as stored:
        return stored["x"][:, None]


def resnet8(published: Path, cifar: Path, *, quick: bool) -> Source:
    """MLPerf Tiny's image classification on CIFAR-10. The published net takes pixels as they are, and so does ours.

    Padding is black then, as it was in training: behind ``(pixel - 128) / 64`` it is grey, which costs four points.
    """
    every = 200 if quick else 1
    train, test = (pictures(cifar, split).subset(slice(0, None, every)) for split in ("train", "test"))
    start, teacher = _from_file("resnet8", published / "mlperf_tiny_resnet8_float.tflite", train, PadCropFlip())
    return Source(
        train=train, test=test, augment=PadCropFlip(), start=start, teacher=teacher,
        epochs={"pot3d": 1, "pot4x2": 1}, budget=ADAM | {"batch_size": 64, "amp": "bf16", "eval_batch_size": 500},
        int8=(
            published / "mlperf_tiny_resnet8_int8.tflite",
            (test.images.astype(np.int16) - 128).astype(np.int8).transpose(0, 2, 3, 1),
        ),
    )  # fmt: skip


def ds_cnn(published: Path, *, quick: bool) -> Source:
    """MLPerf Tiny's keyword spotting on the 1,000 samples of its performance mode.

    Its coefficients lie between -124 and 26; an integer net takes them rounded to whole numbers, as int8.
    """
    rows = slice(0, None, 8 if quick else 1)
    data, codes = keywords(published).subset(rows), keyword_codes(published)[rows]
    start, teacher = _from_file("ds_cnn", published / "mlperf_tiny_kws_float.tflite", data, Speech())
    return Source(
        train=data, test=data, augment=Speech(), start=start, teacher=teacher,
        epochs={"pot3d": 12, "pot4x2": 4}, budget=ADAM | {"batch_size": 50, "amp": "bf16", "distill_weight": 1.0},
        folds=5, int8=(published / "mlperf_tiny_kws_int8.tflite", codes.transpose(0, 2, 3, 1)),
    )  # fmt: skip


def lenet5(mnist: str, work: Path, *, quick: bool) -> Source:
    """LeNet-5 on MNIST, trained in float first."""
    every = 50 if quick else 1
    train, test = (open_data(mnist, split).subset(slice(0, None, every)) for split in ("train", "test"))
    assert isinstance(train, ArrayData)
    assert isinstance(test, ArrayData)
    torch.manual_seed(0)
    model = build("lenet5_bn", num_classes=10, in_channels=1)
    config = TrainConfig(
        epochs=1 if quick else 8, batch_size=64, lr=0.05, nesterov=True, schedule="cosine", eval_every=8,
        eval_batch_size=500,
    )  # fmt: skip
    run = work / "lenet5" / "float"
    fit(model, config, train, test, run_dir=run, augment=Shift(), about={"model": "lenet5_bn"})
    load_model(run / "model.safetensors", model)
    return Source(
        train=train, test=test, augment=Shift(), start=model.eval(), teacher=model,
        epochs={"pot3d": 4, "pot4x2": 4}, budget=SGD | {"batch_size": 64, "eval_batch_size": 500},
    )  # fmt: skip


def _from_file(name: str, path: Path, data: ArrayData, augment: Augment) -> tuple[nn.Module, nn.Module]:
    """The net of ``path`` on the input of ``data``, with norms of its own, and its teacher: itself, unchanged."""
    model = build(name, num_classes=len(data.class_names), in_channels=data.sample_shape[0])
    load_folded(model, path)
    model.eval()
    sample = data.normalise(data.batch(np.arange(8))[0])
    start = fold_input(model, UNCHANGED, data.normalise, sample=sample)
    measure_norms(start, augmented(data, augment))
    return start, OnInput(model, UNCHANGED, data.normalise, data.sample_shape[0])


def augmented(data: ArrayData, augment: Augment, count: int = 2000) -> Iterator[Tensor]:
    """At most ``count`` rows, augmented and normalised, in batches."""
    rows = np.random.default_rng(0).permutation(len(data))[:count]
    for part in np.array_split(rows, max(1, len(rows) // 250)):
        yield data.normalise(augment(data.batch(part)[0], step_generator(0, 4)))
