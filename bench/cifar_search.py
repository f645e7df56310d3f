"""Formats searched per layer against one format everywhere: ResNet-20 on CIFAR-10, integer-only, multiplication-free.

    python bench/cifar_search.py DATA_DIR --state cifar10_resnet20.th --json docs/results/cifar_search.json

Everything but the formats is as in the rows "ours" of bench/cifar_table.py, whose runs are used where --work has them:
the published float network, three epochs of distillation, 8-bit activations. Each budget gets the rules that
``bitshift search`` finds for it on 512 training rows, among 2, 3 and 4 bits. Two answers: at the size of 3 bits
everywhere, what is the mixture's accuracy; and how small is a mixture of the accuracy of 3 bits everywhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path

import torch
from cifar_cases import PRETRAINED, Case
from cifar_table import figures, published, splits, train
from common import Row, arguments, kept, main

from bitshift.nn.config import Rule
from bitshift.train.data import PadCropFlip
from bitshift.train.data.base import IMAGENET_NORMALISE
from bitshift.train.search import Choice, Scan, choose, scan

UNIFORM = next(case for case in PRETRAINED if case.name == "ours: 3 bits, 8-bit activations")
FORMATS = ("pot2d", "pot3d", "pot4x2")


def mixture(found: Scan, choice: Choice, bits: float) -> Case:
    """The uniform row with the rules of ``choice``."""
    rules = tuple(
        Rule(pattern=layer.path, format=found.formats[option])
        for layer, option in zip(found.layers, choice.picked, strict=True)
    )
    shift = {**(UNIFORM.shift or {}), "rules": rules}
    return dataclasses.replace(UNIFORM, name=f"ours: searched, {bits:g} bits a weight", shift=shift)


def rows(options: argparse.Namespace) -> list[Row]:
    """Search, train what has not been trained, compare."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    data = splits(options, UNIFORM)[0].with_normalise(IMAGENET_NORMALISE)
    measured = scan(published(options.state), data, FORMATS, rows=64 if options.quick else 512, augment=PadCropFlip())
    weights = sum(layer.weights for layer in measured.layers)
    column = measured.formats.index("pot3d")
    rows = [
        Row(case=UNIFORM.name, metric="bits a weight", value=3.0, unit="bits"),
        Row(case=UNIFORM.name, metric="sum of KL", value=float(measured.damage[:, column].sum()), unit="nat"),
    ]
    cases = [UNIFORM]
    extra: dict[str, list[dict[str, str]]] = {}
    for bits in options.bits:
        choice = choose(measured.damage, measured.bits(), bits * weights)
        case = mixture(measured, choice, bits)
        cases.append(case)
        extra[case.name] = [{"pattern": r.pattern, "format": str(r.format)} for r in (case.shift or {})["rules"]]
        rows.append(Row(case=case.name, metric="bits a weight", value=choice.cost / weights, unit="bits"))
        rows.append(Row(case=case.name, metric="sum of KL", value=choice.damage, unit="nat"))
    before, scanned = kept(options), {row.metric for row in rows}
    for case in cases:
        for seed in options.seeds:
            train(case, options, seed)
        rows += figures(case, options, [x for x in before if x.case == case.name and x.metric not in scanned])
    options.extra = getattr(options, "extra", {}) | {"rules": extra}
    return sorted(rows, key=lambda row: [case.name for case in cases].index(row.case))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("data", type=Path, metavar="DATA_DIR", help="CIFAR-10 in any layout")
    made.add_argument("--state", type=Path, required=True, help="published weights of the float network (.th)")
    made.add_argument("--bits", type=float, nargs="+", default=[3.0, 2.7], help="budgets, mean bits a weight")
    made.add_argument("--epochs", type=int, default=3)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--work", type=Path, default=Path("runs/cifar_table"), help="folder of the runs")
    made.add_argument("--lr", type=float, help="another peak learning rate, for probes")
    made.add_argument("--log-every", type=int, default=39)
    made.set_defaults(table="pretrained")
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())
