"""ResNet-20 on CIFAR-10 from scratch: every training method under one short budget, weights only.

    python bench/cifar_table.py DATA_DIR --json docs/results/cifar_resnet20_short.json

DATA_DIR is CIFAR-10 in any layout that bitshift reads (python or binary archive, or {train,test}/CLASS/*.png).
Every net: the same data order and augmentation (pad 4, crop, flip), batch 128, cosine to 0, weight decay 1e-4,
activations in float, training in bfloat16 where the processor has it, evaluation in float32 on all 10,000 test
images of the last state. Runs lie in --work and are resumed; --train names a part, so that several processes
can share the work (one thread each); the table holds every run that is finished. An epoch takes one Zen 4 core
about 100 s.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import Row, arguments, main

from bitshift.train.checkpoint import load_model
from bitshift.train.config import TrainConfig
from bitshift.train.data import ArrayData, PadCropFlip, open_data
from bitshift.train.evaluate import evaluate
from bitshift.train.loop import fit
from bitshift.train.models import build
from bitshift.train.norms import reestimate_norms


@dataclass(frozen=True, kw_only=True)
class Case:
    """One net of the table. ``shift`` None is the float twin; ``rounded`` cases round that twin instead of training."""

    name: str
    shift: dict[str, Any] | None
    lr: float = 0.1
    optimizer: str = "sgd"
    rounded: bool = False
    train: dict[str, Any] = field(default_factory=dict)


# S3, DenseShift, uniform and nearest keep the first convolution and the last layer in float (S3's and DenseShift's code
# does); DeepShift converts every layer, and starts from the converted random float net, as its CIFAR script does.
# DeepShift's rates won probes of 100 steps on held-out training rows: Q 0.01 before 0.1, PS 0.1 before 0.03 and 0.01.
ENDS = {"keep_first": "float", "keep_last": "float"}
CASES = (
    Case(name="float", shift=None),
    Case(name="denseshift-2", shift={"method": "denseshift", "bits": 2, **ENDS}),
    Case(name="denseshift-3", shift={"method": "denseshift", "bits": 3, **ENDS}),
    Case(name="s3-3", shift={"method": "s3", "bits": 3, **ENDS}),
    Case(name="deepshift_q-5", shift={"method": "deepshift_q", "bits": 5, "init": "pretrained"}, lr=0.01),
    Case(
        name="deepshift_ps-5",
        shift={"method": "deepshift_ps", "bits": 5, "init": "pretrained"},
        lr=0.1,
        optimizer="radam",
    ),
    Case(name="uniform-3", shift={"method": "uniform", "bits": 3, "init": "pretrained", **ENDS}),
    Case(
        name="nearest-4 (pot4x2)",
        shift={"method": "nearest", "format": "pot4x2", "init": "pretrained", **ENDS},
        rounded=True,
    ),
    Case(
        name="nearest-4 (pot4)",
        shift={"method": "nearest", "format": "pot4", "init": "pretrained", **ENDS},
        rounded=True,
    ),
)


def make(case: Case, seed: int) -> torch.nn.Module:
    """The net of ``case`` before training."""
    torch.manual_seed(seed)
    model = build("resnet20", num_classes=10, in_channels=3)
    if case.shift is None or case.rounded:
        return model
    from bitshift.nn.config import ShiftConfig
    from bitshift.nn.convert import convert

    return convert(model, ShiftConfig(**case.shift), generator=torch.Generator().manual_seed(seed))[0]


def config(case: Case, options: argparse.Namespace, seed: int) -> TrainConfig:
    """The common budget with the learning rate and optimiser of ``case``."""
    return TrainConfig(
        epochs=options.epochs, batch_size=128, lr=options.lr or case.lr, optimizer=case.optimizer,  # type: ignore[arg-type]
        weight_decay=1e-4, schedule="cosine", amp="auto", seed=seed, eval_every=options.eval_every, eval_batch_size=500,
        log_every=options.log_every, checkpoint_every_steps=100, **case.train,
    )  # fmt: skip


def folder(case: Case, options: argparse.Namespace, seed: int) -> Path:
    """The run directory of a net."""
    return options.work / f"{case.name}-seed{seed}"


def train(case: Case, options: argparse.Namespace, data: tuple[ArrayData, ArrayData], seed: int) -> None:
    """Train, or resume, one net."""
    model = make(case, seed)
    fit(
        model, config(case, options, seed), *data, run_dir=folder(case, options, seed), augment=PadCropFlip(),
        about={"model": "resnet20", "shift": case.shift},
    )  # fmt: skip


def figures(case: Case, options: argparse.Namespace, data: tuple[ArrayData, ArrayData], seed: int) -> list[Row]:
    """Rows of a finished net: its run's result, or the float run's net rounded and evaluated; none while unfinished."""
    run = folder(CASES[0] if case.rounded else case, options, seed)
    lines = (run / "metrics.jsonl").read_text().splitlines() if run.exists() else []
    results = [found for line in lines if (found := json.loads(line))["kind"] == "result"]
    if not results:
        return []
    accuracy, loss = results[-1]["valid_accuracy"], results[-1]["valid_loss"]
    if case.rounded:
        model = make(case, seed)
        load_model(run / "model.safetensors", model)
        from bitshift.nn.config import ShiftConfig
        from bitshift.nn.convert import convert

        model = convert(model, ShiftConfig(**(case.shift or {})))[0]
        reestimate_norms(model, data[0], rows=2000, augment=PadCropFlip())
        rounded = evaluate(model, data[1], batch_size=500)
        accuracy, loss = rounded.accuracy, rounded.loss
    label = f"{case.name}, seed {seed}"
    budget = json.loads((run / "config.json").read_text())["train"]
    return [
        Row(case=label, metric="test accuracy", value=round(100 * accuracy, 2), unit="%"),
        Row(case=label, metric="test loss", value=loss, unit="nat"),
        Row(case=label, metric="epochs", value=0 if case.rounded else budget["epochs"], unit="epochs"),
        Row(case=label, metric="peak lr", value=0 if case.rounded else budget["lr"], unit="lr"),
    ]


def rows(options: argparse.Namespace) -> list[Row]:
    """Train what is asked for, then evaluate everything that is finished."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    data = (open_data(options.data, "train"), open_data(options.data, "test"))
    if options.quick:
        data = (data[0].subset(slice(0, None, 200)), data[1].subset(slice(0, None, 50)))
        options.epochs = 1
    wanted = [c for c in CASES if options.train is None or c.name in options.train]
    for case in wanted:
        for seed in options.seeds:
            if not case.rounded:
                train(case, options, data, seed)
    return [row for case in CASES for seed in options.seeds for row in figures(case, options, data, seed)]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("data", type=Path, metavar="DATA_DIR", help="CIFAR-10 in any layout")
    made.add_argument("--epochs", type=int, default=10)
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--threads", type=int, default=1)
    made.add_argument(
        "--work", type=Path, default=Path("runs/cifar_table"), help="folder of the runs (default: %(default)s)"
    )
    made.add_argument(
        "--train",
        nargs="*",
        metavar="CASE",
        choices=[c.name for c in CASES],
        help="train only these; none: just the table",
    )
    made.add_argument("--lr", type=float, help="another peak learning rate, for probes")
    made.add_argument("--eval-every", type=int, default=5, help="epochs between evaluations")
    made.add_argument("--log-every", type=int, default=39)
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())
