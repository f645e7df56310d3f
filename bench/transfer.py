"""Transfer of a shift network to another data set: a new head with and without low variance, beside the float net.

    python bench/transfer.py CIFAR10_DIR CIFAR100_DIR --state cifar10_resnet20.th --json docs/results/transfer.json

The backbone is a published CIFAR-10 ResNet-20 (--state, akamaster/pytorch_resnet_cifar10, 91.73 %), every layer
converted to DenseShift-3 by margin initialisation and tuned for 100 steps, distilled from the float net. Its head is
replaced by one for 100 classes, and all of it is trained on --per-class images a class of CIFAR-100 (the next ten of
each are held out): the same rows, order, augmentation and steps for every case. Each case trains at every rate of
--rates with the first seed; the rate that is best on the held-out rows is its rate for the other seeds. Accuracy is of
the last state on the test images, which chose nothing. These are runs of `bitshift train --backbone` (see
docs/transfer.md); they lie in --work and are resumed, --only names a part, the JSON holds what is finished.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Row, arguments, main
from safetensors.torch import save_file

from bitshift.cli import training
from bitshift.cli.backbone import Backbone
from bitshift.cli.runs import open_run
from bitshift.nn.config import Rule, ShiftConfig
from bitshift.nn.transfer import discrete_weights
from bitshift.train.config import TrainConfig
from bitshift.train.data import IMAGENET_NORMALISE, open_data
from bitshift.train.data.base import TrainData
from bitshift.train.evaluate import evaluate

HEAD = "linear"
SHIFT = ShiftConfig(method="denseshift", bits=3, init="pretrained")
Split = tuple[TrainData, TrainData]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to transfer: ``source`` is the kind of backbone, ``head`` what the rule of the head says."""

    name: str
    source: str
    head: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    every_seed: bool = True


CASES = (
    Case(name="float", source="float"),
    Case(name="low-variance head", source="latents", head={"options": {"std": 1e-3}}),
    Case(name="He head", source="latents", head={"options": {"std": "he"}}),
    Case(name="float head", source="latents", head={"keep": "float"}, every_seed=False),
    Case(
        name="discrete weights only",
        source="discrete",
        head={"options": {"std": 1e-3}},
        options={"start": "sign_consistent"},
        every_seed=False,
    ),
)


def tuned_backbone(options: argparse.Namespace) -> Path:
    """The run of the shift backbone on CIFAR-10, trained unless it is there."""
    run = options.work / "backbone"
    if training.finished(run):
        return run
    data = tuple(open_data(options.source, split).with_normalise(IMAGENET_NORMALISE) for split in ("train", "test"))
    rows = np.random.default_rng(0).permutation(len(data[0]))[: 128 * options.tune_steps]
    train = TrainConfig(
        epochs=1, batch_size=128, lr=0.01, nesterov=True, warmup_epochs=0.1, amp="auto", eval_batch_size=500,
        log_every=20, checkpoint_every_steps=20,
    )  # fmt: skip
    plan = training.Plan(
        name="", model="resnet20", data="cifar10", shift=SHIFT, train=train, pretrained=options.state,
        augment="pad_crop_flip",
    )  # fmt: skip
    training.train(plan, (data[0].subset(rows), data[1]), run)
    return run


def backbone(case: Case, options: argparse.Namespace) -> Backbone:
    """Where the layers of ``case`` come from."""
    if case.source == "float":
        return Backbone(path=options.state, new=(HEAD,))
    run = tuned_backbone(options)
    if case.source == "latents":
        return Backbone(path=run, new=(HEAD,))
    path = options.work / "backbone-weights.safetensors"
    if not path.exists():
        save_file(discrete_weights(open_run(run).network()), path)
    return Backbone(path=path, new=(HEAD,))


def splits(options: argparse.Namespace) -> tuple[TrainData, TrainData, TrainData]:
    """Rows to train on, rows held out of the training set, and the test set of CIFAR-100."""
    data, test = (open_data(options.target, split).with_normalise(IMAGENET_NORMALISE) for split in ("train", "test"))
    rng = np.random.default_rng(0)
    orders = [rng.permutation(np.flatnonzero(data.labels == c)) for c in range(len(data.class_names))]
    train = np.concatenate([order[: options.per_class] for order in orders])
    held = np.concatenate([order[options.per_class : options.per_class + 10] for order in orders])
    return data.subset(np.sort(train)), data.subset(np.sort(held)), test


def folder(case: Case, lr: float, seed: int, options: argparse.Namespace) -> Path:
    """A run's directory."""
    return options.work / f"{case.name.replace(' ', '-')}-lr{lr:g}-seed{seed}"


def train(case: Case, lr: float, seed: int, options: argparse.Namespace, data: Split) -> float:
    """Train, resume or look up one run; its accuracy on the held-out rows."""
    run = folder(case, lr, seed, options)
    config = TrainConfig(
        epochs=options.epochs, batch_size=64, lr=lr, warmup_epochs=0.1, amp="auto", seed=seed,
        eval_every=options.epochs, eval_batch_size=500, log_every=50, checkpoint_every_steps=50,
    )  # fmt: skip
    shift = None
    if case.source != "float":
        rules = (Rule(pattern=HEAD, **case.head),)
        shift = ShiftConfig(method="denseshift", bits=3, init="pretrained", rules=rules, options=case.options)
    plan = training.Plan(
        name="", model="resnet20", data="cifar100", shift=shift, train=config, augment="pad_crop_flip",
        backbone=backbone(case, options),
    )  # fmt: skip
    if not training.finished(run):
        training.train(plan, data, run)
    return _result(run)["valid_accuracy"]


def _result(run: Path) -> dict[str, Any]:
    return [x for x in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if x["kind"] == "result"][-1]


def _budget(run: Path) -> tuple[int, str]:
    """Epochs and training rows of a run."""
    config = json.loads((run / "config.json").read_text())
    return config["train"]["epochs"], config["data"]["train"]


def head_flips(run: Path) -> list[tuple[str, float]]:
    """What the records of a run say about the head, in per cent; figures that it does not have are left out."""
    lines = [x for x in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if x["kind"] == "flips"]
    heads = [next(x for x in line["layers"] if x["name"].startswith(f"{HEAD}.")) for line in lines]
    found = [
        ("head: codes changed, epoch 1", heads[0]["value_rate"]),
        ("head: signs changed, epoch 1", heads[0]["sign_rate"]),
        ("head: signs never changed", heads[-1]["never_flipped"]),
    ]
    return [(name, round(100 * value, 2)) for name, value in found if value is not None]


def tested(run: Path, test: TrainData) -> float:
    """Accuracy in per cent of a finished run on the test set; kept beside it."""
    kept = run / f"test-{len(test)}.json"
    if not kept.exists():
        torch.manual_seed(0)
        kept.write_text(json.dumps(evaluate(open_run(run).network(), test, batch_size=500).accuracy))
    return round(100 * json.loads(kept.read_text()), 2)


def figures(case: Case, options: argparse.Namespace, test: TrainData) -> list[Row]:
    """Rows of a case's finished runs; none if the rates of the first seed are not all done."""
    runs = {lr: folder(case, lr, options.seeds[0], options) for lr in options.rates}
    if not all(training.finished(run) for run in runs.values()):
        return []
    best = max(runs, key=lambda lr: _result(runs[lr])["valid_accuracy"])
    found = [folder(case, best, seed, options) for seed in options.seeds]
    budgets = {_budget(run) for run in (*found, *runs.values()) if training.finished(run)}
    if len(budgets) > 1:
        raise SystemExit(f"{case.name}: runs of {len(budgets)} budgets in {options.work}; a row has one")
    ((epochs, _),) = budgets
    accuracies = [tested(run, test) for run in found if training.finished(run)]
    spread = max(accuracies) - min(accuracies)
    mean = round(statistics.mean(accuracies), 2)
    label = f"{case.name}{'' if case.source == 'float' else ', DenseShift-3'}"
    rows = [
        Row(case=label, metric="test accuracy", value=mean, unit="%", runs=len(accuracies), spread=round(spread, 2)),
        Row(case=label, metric="best rate", value=best, unit="lr"),
        Row(case=label, metric="epochs", value=epochs, unit="epochs"),
    ]
    rows += [Row(case=label, metric=name, value=value, unit="%") for name, value in head_flips(runs[best])]
    for lr, run in runs.items() if len(runs) > 1 else ():
        rows.append(Row(case=label, metric=f"test accuracy, seed 0, lr {lr:g}", value=tested(run, test), unit="%"))
    return rows


def rows(options: argparse.Namespace) -> list[Row]:
    """Train what is asked for, then evaluate what is finished."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    if options.quick:
        options.per_class, options.epochs, options.tune_steps, options.rates = 2, 1, 1, [0.01]
        options.test_rows = 100
        options.work = options.work / "quick"
    train_rows, held, test = splits(options)
    if options.test_rows:
        test = test.subset(np.random.default_rng(0).permutation(len(test))[: options.test_rows])
    for case in [c for c in CASES if options.only is None or c.name in options.only]:
        held_out = {lr: train(case, lr, options.seeds[0], options, (train_rows, held)) for lr in options.rates}
        best = max(held_out, key=lambda lr, found=held_out: found[lr])
        for seed in options.seeds[1:] if case.every_seed else ():
            train(case, best, seed, options, (train_rows, held))
    found = [row for case in CASES for row in figures(case, options, test)]
    if training.finished(options.work / "backbone"):
        value = round(100 * _result(options.work / "backbone")["valid_accuracy"], 2)
        found.insert(0, Row(case="backbone, DenseShift-3", metric="CIFAR-10 test accuracy", value=value, unit="%"))
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("source", type=Path, metavar="CIFAR10_DIR", help="CIFAR-10 in any layout")
    made.add_argument("target", type=Path, metavar="CIFAR100_DIR", help="CIFAR-100 in any layout")
    made.add_argument("--state", type=Path, required=True, help="published weights of the float network (.th)")
    made.add_argument("--per-class", type=int, default=100, help="training images a class")
    made.add_argument("--epochs", type=int, default=3)
    made.add_argument("--tune-steps", type=int, default=100, help="steps of the backbone on CIFAR-10")
    made.add_argument("--test-rows", type=int, help="test images, drawn at random (default: all)")
    made.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.05])
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    made.add_argument("--work", type=Path, default=Path("runs/transfer"), help="folder of the runs (%(default)s)")
    made.add_argument(
        "--only", nargs="*", metavar="CASE", choices=[c.name for c in CASES], help="train only these; none: just read"
    )
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())
