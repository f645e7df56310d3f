"""What 8-, 7- and 6-bit activations cost a real network: a published CIFAR-10 ResNet-20, converted, tuned, exported.

    python bench/cifar_activation_bits.py DATA_DIR --state cifar10_resnet20.th --json docs/results/activation_bits.json

DATA_DIR is CIFAR-10 in any layout that bitshift reads; --state the published weights (akamaster/pytorch_resnet_cifar10,
91.73 % in float). All layers take the weight format, with one 16-bit multiplier per output channel; activations have
the bits of the case, the input always 8. Each net starts at the nearest levels (scale per channel by search), its grids
calibrated on 512 training images, and is tuned for --steps steps of 128 (SGD, Nesterov, cosine from 0.01, distilled
from the float net); --steps 0 only calibrates. It is then frozen and exported, and accuracy is of that file in the
engine on all 10,000 test images. No test image chose anything. Files lie in --work; a case that has one is only
evaluated, so that a run can be spread over quiet moments (--train names the cases of this one).
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from cifar_table import published
from common import Row, arguments, main
from torch import nn

from bitshift import runtime
from bitshift.backends import engine
from bitshift.cli.evaluating import FileResult, evaluate_file
from bitshift.cli.exporting import export_network
from bitshift.nn.activations import calibrate
from bitshift.nn.config import ShiftConfig
from bitshift.nn.convert import convert
from bitshift.train.config import TrainConfig
from bitshift.train.data import PadCropFlip, open_data
from bitshift.train.data.base import IMAGENET_NORMALISE, TrainData
from bitshift.train.evaluate import evaluate
from bitshift.train.loop import fit

FORMATS = ("pot3d", "pot4x2")
BATCH = 128
log = logging.getLogger("bitshift")


def make(model: nn.Module, format: str, bits: int, data: TrainData) -> nn.Module:
    """The converted network, calibrated."""
    config = ShiftConfig(
        method="nearest", format=format, activations=bits, multiplier=True, init="pretrained", options={"scale": "free"}
    )
    images, _ = data.batch(np.random.default_rng(0).permutation(len(data))[:512])
    x = data.normalise(images)
    shifted, _ = convert(model, config, sample=x[:8])
    return calibrate(shifted, x.split(128))


def train(options: argparse.Namespace, format: str, bits: int, data: TrainData) -> None:
    """One case, from the float network to the model file."""
    torch.manual_seed(options.seed)
    teacher = published(options.state)
    model = make(teacher, format, bits, data)
    if options.steps:
        chosen = np.random.default_rng(options.seed).permutation(len(data))[: options.steps * BATCH]
        config = TrainConfig(
            epochs=1, batch_size=BATCH, lr=options.lr, nesterov=True, weight_decay=1e-4, warmup_epochs=0.1,
            seed=options.seed, log_every=50, eval_batch_size=250, progress="off",
        )  # fmt: skip
        fit(
            model, config, data.subset(chosen), data.subset(chosen[:250]), run_dir=folder(options, format, bits),
            teacher=teacher, augment=PadCropFlip(), about={"format": format, "bits": bits, "steps": options.steps},
        )  # fmt: skip
    found = export_network(model, data, folder(options, format, bits) / "net.safetensors")
    log.info("%s %d bits: %d steps, %s", format, bits, options.steps, found)


def folder(options: argparse.Namespace, format: str, bits: int) -> Path:
    """Where a case lies."""
    return options.work / f"{format}-a{bits}-steps{options.steps}-seed{options.seed}"


def file_of(options: argparse.Namespace, format: str, bits: int) -> Path:
    """The model file of a case."""
    return folder(options, format, bits) / "net.safetensors"


def figures(case: str, result: FileResult, float_accuracy: float, path: Path, layers: int) -> list[Row]:
    """Rows of one evaluated file."""
    return [
        Row(case=case, metric="test accuracy", value=round(100 * result.accuracy, 2), unit="%"),
        Row(case=case, metric="drop", value=round(100 * (float_accuracy - result.accuracy), 2), unit="points"),
        Row(case=case, metric="file", value=round(path.stat().st_size / 1e3, 1), unit="kB"),
        Row(case=case, metric="Winograd layers", value=layers, unit="layers"),
    ]


def rows(options: argparse.Namespace) -> list[Row]:
    """Train what is asked for and has no file yet, then evaluate every file."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    data, test = (open_data(options.data, split).with_normalise(IMAGENET_NORMALISE) for split in ("train", "test"))
    if options.quick:
        options.steps, options.formats, options.bits, test = 1, ["pot3d"], [6], test.subset(slice(0, None, 100))
    for format in options.formats:
        for bits in options.bits:
            wanted = options.train is None or f"{format}-{bits}" in options.train
            if wanted and not file_of(options, format, bits).exists():
                train(options, format, bits, data)
    accuracy = evaluate(published(options.state), test, batch_size=250).accuracy
    found = [Row(case="float", metric="test accuracy", value=round(100 * accuracy, 2), unit="%")]
    for format in options.formats:
        for bits in options.bits:
            path = file_of(options, format, bits)
            if path.exists():
                model = runtime.load(path, backend="engine")
                case = f"{format}, {bits}-bit activations"
                layers = sum("winograd" in step.kernel for step in engine.load(path, threads=1, tune="force").steps)
                found += figures(case, evaluate_file(model, test), accuracy, path, layers)
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("data", type=Path, metavar="DATA_DIR", help="CIFAR-10 in any layout")
    made.add_argument("--state", type=Path, required=True, help="published weights of the float network (.th)")
    made.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    made.add_argument("--bits", nargs="+", type=int, default=[8, 7, 6])
    made.add_argument("--steps", type=int, default=200)
    made.add_argument("--lr", type=float, default=0.01)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--work", type=Path, default=Path("runs/activation_bits"), help="folder of the runs")
    made.add_argument("--train", nargs="*", metavar="FORMAT-BITS", help="train only these; none: just the table")
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())
