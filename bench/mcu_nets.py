"""The nets of microcontrollers without a multiplication: MLPerf Tiny's ResNet-8 and DS-CNN, and LeNet-5.

    pip install tflite ai-edge-litert
    python bench/mcu_nets.py --published FOLDER --cifar CIFAR_DIR --mnist MNIST.npz --json docs/results/mcu_nets.json

FOLDER holds MLPerf Tiny's mlperf_tiny_{resnet8,kws}_{float,int8}.tflite and kws01_mfcc_1000.npz (x int8 49x10, y,
scale, zero: the 1,000 samples of its performance mode). A net whose data are not given is left out, what lies finished
in --work is not trained again, and --nets and --formats name a part. Rows of the JSON that have no run here stay.

Float and int8 are the published nets, run here. Ours start from the float net and learn from it (0.9 KL at T = 4, 0.1
cross-entropy): every layer in the format, every value an integer of at most 8 bits, no multiplication. LeNet-5 is
trained here, in float first.

DS-CNN has no training data here, only the 1,000 samples that it is measured on. So it learns without labels (KL to the
float net alone) and is measured by cross-validation: five nets, each calibrated and trained on four fifths, tested on
the fifth that it has not seen. The file is a sixth net, which has seen the inputs of all samples and no label.

Before a row is written each file gives equal integers in the engine, the numpy reference and C compiled here.
"""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Row, arguments, check_equal, kept, main
from tiny.host_c import HostModel
from tiny.sources import Source, augmented, ds_cnn, lenet5, resnet8
from tiny.tflite_weights import measure_norms
from torch import nn

from bitshift import runtime
from bitshift.cli.exporting import export_network
from bitshift.core import modelfile
from bitshift.core.cost import count
from bitshift.nn.config import ShiftConfig
from bitshift.nn.convert import convert
from bitshift.train.checkpoint import load_model
from bitshift.train.config import TrainConfig
from bitshift.train.data import ArrayData
from bitshift.train.evaluate import evaluate
from bitshift.train.loop import fit

_log = logging.getLogger("bitshift")
NETS = ("ResNet-8", "DS-CNN", "LeNet-5")
FORMATS = {"3 bits": "pot3d", "two-term 4 bits": "pot4x2"}
FLOAT, INT8 = "float", "int8"
CHECKED = 300
"""Samples on which engine, reference and C are compared."""


def sources(options: argparse.Namespace) -> Iterator[tuple[str, Source]]:
    """The nets whose data are given, one after the other."""
    if options.published and options.cifar and "ResNet-8" in options.nets:
        yield "ResNet-8", resnet8(options.published, options.cifar, quick=options.quick)
    if options.published and "DS-CNN" in options.nets:
        yield "DS-CNN", ds_cnn(options.published, quick=options.quick)
    if "LeNet-5" in options.nets:
        yield "LeNet-5", lenet5(options.mnist, options.work, quick=options.quick)


def budget(source: Source, format: str, options: argparse.Namespace) -> TrainConfig:
    """What all nets share, and what this one has of its own."""
    common: dict[str, Any] = {
        "weight_decay": 1e-4, "schedule": "cosine", "warmup_epochs": 0.1,
        "distill_weight": 0.9, "distill_temperature": 4.0, "log_every": 50, "checkpoint_every_steps": 100,
    }  # fmt: skip
    epochs = 1 if options.quick else options.epochs or source.epochs[format]
    return TrainConfig(**(common | source.budget), epochs=epochs, eval_every=epochs)


def train(source: Source, format: str, train: ArrayData, test: ArrayData, run: Path, config: TrainConfig) -> nn.Module:
    """One net of ``format``, trained in ``run`` or read from there."""
    sample = train.normalise(train.batch(np.arange(8))[0])
    shift = ShiftConfig(method="nearest", format=format, activations=8, init="pretrained")
    torch.manual_seed(0)
    model, _ = convert(source.start, shift, sample=sample, generator=torch.Generator().manual_seed(0))
    fit(
        model, config, train, test, run_dir=run, teacher=source.teacher, augment=source.augment,
        about={"format": format},
    )  # fmt: skip
    load_model(run / "model.safetensors", model)
    return model.eval()


def folds(data: ArrayData, parts: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of training and test, ``parts`` times; each row is tested once, and classes are spread evenly."""
    order = np.random.default_rng(0).permutation(len(data))
    order = order[np.argsort(data.labels[order], kind="stable")]
    for part in range(parts):
        mine = np.zeros(len(data), dtype=bool)
        mine[order[part::parts]] = True
        yield np.flatnonzero(~mine), np.flatnonzero(mine)


def file_of(name: str, format: str, options: argparse.Namespace) -> Path:
    """The exported net."""
    return options.work / name.lower().replace("-", "") / format / "net.safetensors"


def make(name: str, source: Source, format: str, options: argparse.Namespace) -> np.ndarray | None:
    """Train and export; the predictions of the cross-validation in the order of the rows, None without one."""
    file, config = file_of(name, format, options), budget(source, format, options)
    model = train(source, format, source.train, source.test, file.parent, config)
    if not file.exists():
        export_network(model, source.train, file, name=f"{name} {format}")
    if not source.folds:
        return None
    predicted = np.full(len(source.test), -1)
    for index, (seen, unseen) in enumerate(folds(source.train, source.folds)):
        train_rows, test_rows = source.train.subset(seen), source.train.subset(unseen)
        start = copy.deepcopy(source.start)
        measure_norms(start, augmented(train_rows, source.augment))  # not even their statistics saw the unseen rows
        fold = train(replace(source, start=start), format, train_rows, test_rows, file.parent / f"fold{index}", config)
        predicted[unseen] = evaluate(fold, test_rows).predictions
    return predicted


def predictions(file: Path, test: ArrayData) -> np.ndarray:
    """Of the file in the engine, for all rows."""
    model = runtime.load(file, backend="engine")
    parts = np.array_split(np.arange(len(test)), max(1, len(test) // 250))
    return np.concatenate([model.run_int(test.normalise(test.batch(p)[0]).numpy()).argmax(1) for p in parts])


def check(case: str, file: Path, test: ArrayData) -> None:
    """Engine and C give the integers of the reference for some rows."""
    rows = np.linspace(0, len(test) - 1, min(CHECKED, len(test))).astype(int)
    x = test.normalise(test.batch(rows)[0]).numpy()
    expected = runtime.load(file, backend="reference").run_int(x)
    check_equal(f"{case}: engine", expected, runtime.load(file, backend="engine").run_int(x))
    with HostModel(file) as host:
        check_equal(f"{case}: C", expected, host.run_int(x))


def products(model: nn.Module, test: ArrayData) -> int:
    """Multiplications of a sample in the float network: one for each weight that an output reads."""
    total = 0

    def note(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        total += out[0].numel() * layer.weight[0].numel()  # type: ignore[operator,index]

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        model(test.normalise(test.batch(np.arange(1))[0]))
    for hook in hooks:
        hook.remove()
    return total


def int8_predictions(source: Source) -> np.ndarray | None:
    """Of the published integer net; None where its runtime (ai-edge-litert) is not installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
    except ImportError:
        _log.warning("ai-edge-litert is not installed: the published int8 net is not run")
        return None
    assert source.int8 is not None
    path, inputs = source.int8
    net = Interpreter(model_path=str(path), num_threads=1)
    net.allocate_tensors()
    (given,), (found,) = net.get_input_details(), net.get_output_details()
    predicted = []
    for sample in inputs:
        net.set_tensor(given["index"], np.ascontiguousarray(sample[None]))
        net.invoke()
        predicted.append(int(net.get_tensor(found["index"])[0].argmax()))
    return np.array(predicted)


def figures(name: str, source: Source, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of one net."""
    labels = source.test.labels
    by_float = evaluate(source.teacher, source.test).predictions
    layers = [m for m in source.start.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    weights, multiplied = sum(layer.weight.numel() for layer in layers), products(source.teacher, source.test)

    def accuracy(case: str, predicted: np.ndarray, metric: str = "test accuracy", runs: int = 1) -> Iterator[Row]:
        for what, against in ((metric, labels), ("same answer as float", by_float)):
            value = round(100 * float((predicted == against).mean()), 2)
            yield Row(case=f"{name}, {case}", metric=what, value=value, unit="%", runs=runs)

    def size(case: str, kilobytes: float, multiplications: int) -> Iterator[Row]:
        yield Row(case=f"{name}, {case}", metric="weights", value=round(kilobytes, 1), unit="kB")
        yield Row(case=f"{name}, {case}", metric="multiplications", value=multiplications, unit="an inference")

    yield next(accuracy(FLOAT, by_float))
    yield from size(FLOAT, weights * 4 / 1e3, multiplied)
    if source.int8 and (predicted := int8_predictions(source)) is not None:
        yield from accuracy(INT8, predicted)
        yield from size(INT8, weights / 1e3, multiplied)
        yield Row(case=f"{name}, {INT8}", metric="file", value=round(source.int8[0].stat().st_size / 1e3, 1), unit="kB")
    if options.rows:
        every = max(1, len(source.train) // options.rows)
        source = replace(source, train=source.train.subset(slice(0, None, every)))
    for case, format in FORMATS.items():
        if case not in options.formats:
            continue
        unseen = make(name, source, format, options)
        file = file_of(name, format, options)
        check(f"{name}, {case}", file, source.test)
        cost, predicted = count(modelfile.load(file)).total, predictions(file, source.test)
        if unseen is None:
            yield from accuracy(case, predicted)
        else:
            yield from accuracy(case, unseen, runs=source.folds)
            yield next(accuracy(case, predicted, "file on inputs it learned from"))
        yield from size(case, cost.weight_bits / 8e3, cost.multiplications)
        yield Row(case=f"{name}, {case}", metric="file", value=round(file.stat().st_size / 1e3, 1), unit="kB")


def rows(options: argparse.Namespace) -> list[Row]:
    """Everything whose data are given, behind what the JSON has of the rest."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    found = [row for name, source in sources(options) for row in figures(name, source, options)]
    measured = {row.case for row in found}
    before = [row for row in kept(options) if row.case not in measured]
    order = [f"{name}, {case}" for name in NETS for case in (FLOAT, INT8, *FORMATS)]
    return sorted(before + found, key=lambda row: order.index(row.case))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("--published", type=Path, metavar="FOLDER", help="MLPerf Tiny's files: ResNet-8 and DS-CNN")
    made.add_argument("--cifar", type=Path, metavar="DIR", help="CIFAR-10 in any layout: ResNet-8")
    made.add_argument("--mnist", default="mnist_5k", help="MNIST, as --data: LeNet-5 (default: %(default)s)")
    made.add_argument("--nets", nargs="+", choices=NETS, default=NETS)
    made.add_argument("--formats", nargs="*", choices=list(FORMATS), default=list(FORMATS))
    made.add_argument("--epochs", type=int, help="of every integer net; default: each net's own")
    made.add_argument("--rows", type=int, help="training rows of an epoch, evenly spread; default: all")
    made.add_argument("--work", type=Path, default=Path("runs/mcu_nets"), help="runs (default: %(default)s)")
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())
