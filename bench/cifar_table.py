"""ResNet-20 on CIFAR-10: every training method under one budget, from scratch or from a published float network.

    python bench/cifar_table.py scratch DATA_DIR --epochs 15 --json docs/results/cifar_scratch.json
    python bench/cifar_table.py pretrained DATA_DIR --state cifar10_resnet20.th --epochs 3 \
        --json docs/results/cifar_pretrained.json
    python bench/cifar_table.py probes DATA_DIR --epochs 3 --json docs/results/cifar_probes.json
    python bench/cifar_table.py decays DATA_DIR --epochs 5 --json docs/results/cifar_decays.json

DATA_DIR is CIFAR-10 in any layout that bitshift reads (python or binary archive, or {train,test}/CLASS/*.png); --state
the published weights (akamaster/pytorch_resnet_cifar10, 91.73 % in float). Every net of a table: the same rows in the
same order, the same augmentation (pad 4, crop, flip), batch 128, cosine to 0, weight decay 1e-4 unless the row says
more, training in bfloat16 where the processor has it, evaluation of the last state in float32 (integer networks: in
exact integers) on all 10,000 test images; "probes" and "decays", which choose the optimisers of "scratch", are judged
on every tenth training image, which they do not learn from. Pretrained rows distil from the float network, 0.1 CE + 0.9
KL at T = 4. Test images chose one thing, by seed 0 of "ours: 3 bits": the rate of the rows "ours" (0.01, like all under
SGD; 0.003 and 0.02 were seen too). Integer rows are exported; their accuracy is also that of the file in the engine,
and its multiplications are counted.

Runs lie in --work and are resumed; --train names rows, so that several processes can share the work (one thread each).
The table holds every run that is finished, here or in the JSON, which keeps what each seed reached. An epoch takes
one Zen 4 core about 100 s. The rows are in bench/cifar_cases.py.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import seeds
import torch
from cifar_cases import HELD_OUT, TABLES, Case
from common import Row, arguments, kept, main
from torch import nn

from bitshift import runtime
from bitshift.cli.evaluating import evaluate_file
from bitshift.cli.exporting import export_network
from bitshift.core.cost import count
from bitshift.nn.config import ShiftConfig
from bitshift.nn.convert import convert
from bitshift.train.checkpoint import load_model
from bitshift.train.config import TrainConfig
from bitshift.train.data import PadCropFlip, open_data
from bitshift.train.data.base import IMAGENET_NORMALISE, Normalise, TrainData
from bitshift.train.input_scale import OnInput, fold_input
from bitshift.train.loop import fit
from bitshift.train.models import build, strip_module_prefix

FILE = "net.safetensors"
EPOCHS = {"pretrained": 3, "scratch": 15, "probes": 3, "decays": 5}
"""Budget of each table."""
OF_FILE = ("file", "multiplications")
"""Metrics of the first seed's file."""


def published(state: Path) -> nn.Module:
    """The float network of ``--state``."""
    model = build("resnet20", num_classes=10, in_channels=3)
    loaded = torch.load(state, map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict(strip_module_prefix(loaded))
    return model.eval()


def splits(options: argparse.Namespace, case: Case) -> tuple[TrainData, TrainData]:
    """Training and test rows as the network of ``case`` takes them."""
    normalise = Normalise() if case.pixel else IMAGENET_NORMALISE
    train = open_data(options.data, "train").with_normalise(normalise)
    if options.table in HELD_OUT:
        held = np.arange(len(train)) % 10 == 3
        train, test = train.subset(np.flatnonzero(~held)), train.subset(np.flatnonzero(held))
    else:
        test = open_data(options.data, "test").with_normalise(normalise)
    if options.quick:
        return train.subset(slice(0, None, 200)), test.subset(slice(0, None, 50))
    return train, test


def make(
    case: Case, options: argparse.Namespace, sample: torch.Tensor, seed: int
) -> tuple[nn.Module, nn.Module | None]:
    """The net of ``case`` before training, and its teacher."""
    torch.manual_seed(seed)
    teacher: nn.Module | None = None
    if options.table == "pretrained":
        model, teacher = published(options.state), published(options.state)
        if case.pixel:
            new = Normalise()
            model = fold_input(model, IMAGENET_NORMALISE, new, sample=sample)
            teacher = OnInput(teacher, IMAGENET_NORMALISE, new, 3)
    else:
        model = build("resnet20", num_classes=10, in_channels=3)
    if case.shift is None:
        return model, teacher
    start: dict[str, Any] = {"init": "pretrained"} if options.table == "pretrained" else {}
    config = ShiftConfig(**(start | case.shift))
    return convert(model, config, sample=sample, generator=torch.Generator().manual_seed(seed))[0], teacher


def budget(case: Case, options: argparse.Namespace, seed: int) -> TrainConfig:
    """The common budget with the learning rate and optimiser of ``case``."""
    pretrained = options.table == "pretrained"
    common = {
        "epochs": options.epochs, "batch_size": 128, "lr": options.lr or case.lr, "optimizer": case.optimizer,
        "nesterov": pretrained and case.optimizer == "sgd", "warmup_epochs": 0.1 if pretrained else 0.0,
        "weight_decay": 1e-4, "schedule": "cosine", "amp": "auto", "seed": seed, "eval_every": options.epochs,
        "eval_batch_size": 500, "log_every": options.log_every, "checkpoint_every_steps": 100,
        "teacher_cache": str(options.work / "teacher") if pretrained else None, "compile": options.compile,
    }  # fmt: skip
    return TrainConfig(**(common | case.train))


def describe(shift: dict[str, Any] | None) -> dict[str, Any] | None:
    """``shift`` as JSON keeps it: rules are dataclasses."""
    return shift and {k: [asdict(rule) for rule in v] if k == "rules" else v for k, v in shift.items()}


def folder(case: Case, options: argparse.Namespace, seed: int) -> Path:
    """The run directory of a net."""
    return (
        options.work / options.table / f"{case.name.replace(': ', '_').replace(', ', '_').replace(' ', '-')}-seed{seed}"
    )


def train(case: Case, options: argparse.Namespace, seed: int) -> None:
    """Train, or resume, one net; export it if its values are integers."""
    data = splits(options, case)
    sample = data[0].normalise(data[0].batch(np.arange(8))[0])
    model, teacher = make(case, options, sample, seed)
    where = folder(case, options, seed)
    fit(
        model, budget(case, options, seed), *data, run_dir=where, teacher=teacher, augment=PadCropFlip(),
        about={"model": "resnet20", "shift": describe(case.shift)},
    )  # fmt: skip
    if case.integer and not (where / FILE).exists():
        load_model(where / "model.safetensors", model)
        export_network(model.eval(), data[0], where / FILE)


def figures(case: Case, options: argparse.Namespace, before: list[Row]) -> list[Row]:
    """Mean and standard deviation of ``case`` over its seeds; ``before``, its rows so far, if no seed is known."""
    found = seeds.results(options, case.name, {s: folder(case, options, s) for s in options.seeds or range(case.seeds)})
    if not found:
        return before
    accuracies, config = [result["accuracy"] for result in found.values()], next(iter(found.values()))["train"]
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    rows_of = "held-out" if options.table in HELD_OUT else "test"
    rows = [
        Row(
            case=case.name, metric=f"{rows_of} accuracy", value=round(statistics.mean(accuracies), 2), unit="%",
            runs=len(accuracies), spread=round(spread, 3),
        ),
        Row(
            case=case.name, metric=f"{rows_of} loss", value=statistics.mean(r["loss"] for r in found.values()),
            unit="nat", runs=len(accuracies),
        ),
        Row(case=case.name, metric="seeds", value=len(accuracies), unit="runs"),
        Row(case=case.name, metric="epochs", value=config["epochs"], unit="epochs"),
        Row(case=case.name, metric="peak lr", value=config["lr"], unit="lr"),
    ]  # fmt: skip
    if not case.integer:
        return rows
    return rows + (file_figures(case, options, found) or [x for x in before if x.metric in OF_FILE])


def file_figures(case: Case, options: argparse.Namespace, results: Mapping[int, dict[str, Any]]) -> list[Row]:
    """Size and multiplications of the first seed's file, whose accuracy in the engine must be the run's; none yet."""
    seed = (options.seeds or [0])[0]
    path = folder(case, options, seed) / FILE
    if not path.exists():
        return []
    model = runtime.load(path, backend="engine")
    found, accuracy = 100 * evaluate_file(model, splits(options, case)[1]).accuracy, results[seed]["accuracy"]
    if abs(found - accuracy) > 1e-6:
        raise SystemExit(f"{case.name}: the run reached {accuracy} %, its file in the engine {found} %")
    return [
        Row(case=case.name, metric=OF_FILE[0], value=round(path.stat().st_size / 1e3, 1), unit="kB"),
        Row(case=case.name, metric=OF_FILE[1], value=count(model.graph).total.multiplications, unit="an image"),
    ]


def rows(options: argparse.Namespace) -> list[Row]:
    """Train what is asked for, then show everything that is finished, here or in the JSON that is there already."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    cases = TABLES[options.table]
    if options.table == "pretrained" and options.state is None:
        raise SystemExit("the pretrained table needs --state, the published float weights")
    options.epochs = 1 if options.quick else options.epochs or EPOCHS[options.table]
    for name in set(options.train or ()) - {case.name for case in cases}:
        raise SystemExit(f"--train {name!r}: no such row; rows are {', '.join(case.name for case in cases)}")
    for case in cases:
        if options.train is None or case.name in options.train:
            for seed in options.seeds or range(case.seeds):
                train(case, options, seed)
    before = kept(options)
    return [row for case in cases for row in figures(case, options, [x for x in before if x.case == case.name])]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("table", choices=TABLES)
    made.add_argument("data", type=Path, metavar="DATA_DIR", help="CIFAR-10 in any layout")
    made.add_argument("--state", type=Path, help="published weights of the float network (.th)")
    made.add_argument("--epochs", type=int, default=None, help="default: what the table is made with")
    made.add_argument("--seeds", type=int, nargs="+", help="default: what the row asks for")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--work", type=Path, default=Path("runs/cifar_table"), help="folder of the runs")
    made.add_argument("--train", nargs="*", metavar="ROW", help="train only these; none: just the table")
    made.add_argument("--lr", type=float, help="another peak learning rate, for probes")
    made.add_argument("--compile", action="store_true", help="through torch.compile: faster, equal up to rounding")
    made.add_argument("--log-every", type=int, default=39)
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())
