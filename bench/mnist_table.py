"""DeepShift's MNIST rows by their recipes: float, DeepShift-Q and -PS, 5 bits, from scratch and from the float net.

    python bench/mnist_table.py MNIST.npz --seeds 0 1 2 --json docs/results/mnist_deepshift.json

The recipes (`bitshift train --list deepshift_q_mnist`) are the paper's: batch 64, rate 0.01, constant, every layer,
16.16 fixed-point activations. The paper trains 10 epochs of 60,000 digits; --epochs says how many of the given set
(default: 30 FC, 20 Conv), the same for every row of a net, so that one from the float net has two such budgets, as in
the paper. Gaps are to the float net of the same seed. Runs lie in --work and are resumed; the table holds every run
that is finished, here or in the JSON, which keeps what each seed reached; --train names a part.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import seeds
import torch
from common import Row, arguments, kept, main

from bitshift.cli.recipes import recipe_plan
from bitshift.cli.training import Plan, normalised, open_splits, train
from bitshift.train.recipes import RECIPES

NETS = {"mlp": "FC", "lenet": "Conv"}
EPOCHS = {"mlp": 30, "lenet": 20}
FLOAT = "float"
ROWS = {
    FLOAT: "deepshift_q_mnist",
    "DeepShift-Q, scratch": "deepshift_q_mnist",
    "DeepShift-PS, scratch": "deepshift_ps_mnist",
    "DeepShift-Q, pretrained": "deepshift_q_mnist_pretrained",
    "DeepShift-PS, pretrained": "deepshift_ps_mnist_pretrained",
}


def published(net: str, row: str) -> float:
    """The paper's accuracy, from the recipe."""
    bits = None if row == FLOAT else 5
    (found,) = (p for p in RECIPES[ROWS[row]].published if p.model == net and p.bits == bits)
    assert found.value is not None
    return found.value


def folder(options: argparse.Namespace, net: str, row: str, seed: int) -> Path:
    """The run directory of a net."""
    return options.work / f"{net}-{row.replace(', ', '-')}-{epochs(options, net)}-seed{seed}"


def epochs(options: argparse.Namespace, net: str) -> int:
    """The budget of every row of ``net``."""
    return options.epochs or EPOCHS[net]


def plan(options: argparse.Namespace, net: str, row: str, seed: int) -> Plan:
    """The recipe of ``row`` with the budget; a net from the float net takes that of the same seed."""
    base, count = recipe_plan(ROWS[row]), epochs(options, net)
    budget = replace(
        base.train,
        epochs=count,
        seed=seed,
        eval_every=count,
        log_every=100,
        checkpoint_every_steps=500,
    )
    start = folder(options, net, FLOAT, seed) if base.float_train is not None else None
    return replace(
        base, model=net, data=str(options.data), train=budget, float_train=None, pretrained=start,
        shift=None if row == FLOAT else base.shift,
    )  # fmt: skip


def summary(case: str, metric: str, values: list[float], unit: str, against: str = "") -> Row:
    """Median and interquartile range over the seeds."""
    low, high = np.percentile(values, [25, 75])
    return Row(
        case=case, metric=metric, value=round(median(values), 2), unit=unit, against=against, runs=len(values),
        spread=round(float(high - low), 2),
    )  # fmt: skip


def figures(options: argparse.Namespace, net: str, row: str, before: list[Row]) -> Iterator[Row]:
    """What the finished runs of one row say, beside the paper's figures; ``before``, its rows so far, without any."""
    case, twin = f"{NETS[net]}, {row}", f"{NETS[net]}, {FLOAT}"

    def accuracies(case: str, row: str) -> dict[int, float]:
        found = seeds.results(options, case, {s: folder(options, net, row, s) for s in options.seeds})
        return {seed: result["accuracy"] for seed, result in found.items()}

    done = accuracies(case, row)
    if not done:
        yield from (x for x in before if x.case == case)
        return
    yield summary(case, "test accuracy", list(done.values()), "%")
    yield Row(case=case, metric="epochs", value=epochs(options, net), unit="epochs")
    if row != FLOAT:
        floats = accuracies(twin, FLOAT)
        gaps = [value - floats[seed] for seed, value in done.items() if seed in floats]
        if gaps:
            yield summary(case, "gap to float", gaps, "points", "float, same seed")
        paper = published(net, row) - published(net, FLOAT)
        yield Row(case=case, metric="published gap", value=round(paper, 2), unit="points")
    yield Row(case=case, metric="published", value=published(net, row), unit="%")


def rows(options: argparse.Namespace) -> list[Row]:
    """Train what is asked for, then tabulate everything that is finished."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    data = open_splits(str(options.data))
    if options.quick:
        data = (data[0].subset(slice(0, 320)), data[1].subset(slice(0, 320)))
        options.epochs, options.seeds = 1, [0]
    for seed in options.seeds:
        for net in options.nets:
            for row in ROWS:
                if options.train is None or row in options.train:
                    chosen = plan(options, net, row, seed)
                    train(chosen, normalised(data, chosen.normalise), folder(options, net, row, seed))
    before = kept(options)
    return [line for net in NETS for row in ROWS for line in figures(options, net, row, before)]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("data", nargs="?", default="mnist_5k", metavar="MNIST", help="as --data (default: %(default)s)")
    made.add_argument("--epochs", type=int, help="of every net")
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    made.add_argument("--train", nargs="*", choices=list(ROWS), metavar="ROW", help="only these; none: just the table")
    made.add_argument("--work", type=Path, default=Path("runs/mnist_table"), help="runs (default: %(default)s)")
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())
