"""What gains and the calibration's images do to a multiplication-free network before any training.

    python bench/cifar_gains.py DATA_DIR --state cifar10_resnet20.th --json docs/results/cifar_gains.json

The published ResNet-20, every layer in the format, norms folded, scales powers of two, 8-bit activations, calibrated
on 512 training images: with and without matched gains (bitshift.nn.gains), on images as they are and augmented as in
training. Kept is the size of the logits beside the float network's; KL is the divergence from it in nat; accuracy is of
the exact integers on every fifth test image. The row "a multiplier a channel" keeps the norms' gains as 16-bit numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from cifar_table import published
from common import Row, arguments, main
from torch import Tensor, nn

from bitshift.nn.activations import calibrate
from bitshift.nn.config import ShiftConfig
from bitshift.nn.convert import convert
from bitshift.train.data import PadCropFlip, open_data
from bitshift.train.data.base import IMAGENET_NORMALISE, Normalise, TrainData
from bitshift.train.data.sampler import step_generator
from bitshift.train.input_scale import OnInput, fold_input

FORMATS = ("pot3d", "pot4x2")


def images_of(data: TrainData, *, augmented: bool) -> Tensor:
    """512 training images."""
    images, _ = data.batch(np.random.default_rng(0).permutation(len(data))[:512])
    return data.normalise(PadCropFlip()(images, step_generator(0, 4)) if augmented else images)


@torch.no_grad()
def logits(model: nn.Module, data: TrainData) -> Tensor:
    """Logits of all of ``data``."""
    rows = np.array_split(np.arange(len(data)), max(1, len(data) // 250))
    return torch.cat([model.eval()(data.normalise(data.batch(part)[0])) for part in rows])


def rows(options: argparse.Namespace) -> list[Row]:
    """Every combination."""
    torch.set_num_threads(options.threads)
    data, test = (open_data(options.data, split).with_normalise(Normalise()) for split in ("train", "test"))
    test = test.subset(slice(0, None, 500 if options.quick else 5))
    sample = images_of(data, augmented=False)[:8]
    teacher = OnInput(published(options.state), IMAGENET_NORMALISE, Normalise(), 3)
    start = fold_input(published(options.state), IMAGENET_NORMALISE, Normalise(), sample=sample)
    wanted = logits(teacher, test)
    found = []
    for format in FORMATS:
        for multiplier, gains, augmented in (
            (False, False, False), (False, False, True), (False, True, False), (False, True, True), (True, False, True),
        ):  # fmt: skip
            options_of_method = {"scale": "free"} if multiplier else {}
            config = ShiftConfig(
                method="nearest", format=format, activations=8, multiplier=multiplier, init="pretrained",
                options=options_of_method,
            )  # fmt: skip
            model = convert(start, config, sample=sample)[0]
            calibrate(model.eval(), images_of(data, augmented=augmented).split(256), gains=gains)
            got = logits(model, test)
            name = "a multiplier a channel" if multiplier else "gains matched" if gains else "gains as rounded"
            case = f"{format}, {name}, calibrated on {'augmented' if augmented else 'plain'} images"
            divergence = F.kl_div(
                F.log_softmax(got, 1), F.log_softmax(wanted, 1), reduction="batchmean", log_target=True
            )
            correct = (got.argmax(1).numpy() == test.labels).mean()
            found += [
                Row(case=case, metric="logits kept", value=float(100 * got.std() / wanted.std()), unit="%"),
                Row(case=case, metric="KL", value=float(divergence), unit="nat"),
                Row(case=case, metric="test accuracy", value=round(100 * float(correct), 2), unit="%"),
            ]
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("data", type=Path, metavar="DATA_DIR", help="CIFAR-10 in any layout")
    made.add_argument("--state", type=Path, required=True, help="published weights of the float network (.th)")
    made.add_argument("--threads", type=int, default=1)
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())
