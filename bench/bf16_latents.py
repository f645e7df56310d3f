"""CIFAR-10 ResNet-20 from a published float network: latents in float32 against bfloat16 with stochastic rounding.

    python bench/bf16_latents.py DATA_DIR --state cifar10_resnet20.th --json docs/results/bf16_latents.json

The budget of bench/cifar_table.py's pretrained rows, on the first --rows training images: both nets see the same
batches. Accuracy on all test images; `latent bytes` are those of latents and momenta together.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from cifar_cases import TABLES
from cifar_table import make, splits
from common import Row, arguments, main

from bitshift.nn.method import Method
from bitshift.train.config import TrainConfig
from bitshift.train.data import PadCropFlip
from bitshift.train.loop import fit


def rows(options: argparse.Namespace) -> list[Row]:
    """Train both, one after the other."""
    torch.set_num_threads(options.threads)
    options.table = "pretrained"
    cases = [case for case in TABLES["pretrained"] if case.name in options.cases]
    if options.quick:
        options.rows, options.epochs = 256, 1
        cases = cases[:1]
    out = []
    for case in cases:
        for latents in ("float32", "bfloat16"):
            train, test = splits(options, case)
            kept = train.subset(slice(0, options.rows))
            sample = kept.normalise(kept.batch(torch.arange(8).numpy())[0])
            narrow = {"shift": {**(case.shift or {}), "latents": latents}}
            model, teacher = make(type(case)(**{**vars(case), **narrow}), options, sample, 0)
            where = options.work / f"{case.name.replace(' ', '-')}-{latents}"
            config = TrainConfig(
                epochs=options.epochs, batch_size=128, lr=case.lr, nesterov=True, warmup_epochs=0.1, weight_decay=1e-4,
                schedule="cosine", amp="auto", eval_every=options.epochs, eval_batch_size=500, log_every=20,
                checkpoint_every_steps=50,
            )  # fmt: skip
            done = fit(model, config, kept, test, run_dir=where, teacher=teacher, augment=PadCropFlip())
            name = f"{case.name}, {latents} latents"
            out.append(Row(case=name, metric="test accuracy", value=100 * done.valid.accuracy, unit="%"))
            out.append(Row(case=name, metric="test loss", value=done.valid.loss, unit="nats"))
            out.append(Row(case=name, metric="latent bytes", value=2 * latent_bytes(model), unit="B"))
    return out


def latent_bytes(model: torch.nn.Module) -> int:
    """Memory of the parameters of all methods."""
    return sum(
        p.numel() * p.element_size()
        for m in model.modules()
        if isinstance(m, Method)
        for p in m.parameters(recurse=False)
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("data", type=Path, metavar="DATA_DIR", help="CIFAR-10 in any layout")
    made.add_argument("--state", type=Path, required=True, help="published weights of the float network (.th)")
    made.add_argument("--cases", nargs="+", default=["DenseShift-3", "two-term 4"], help="rows of bench/cifar_cases.py")
    made.add_argument("--rows", type=int, default=25_600, help="training images")
    made.add_argument("--epochs", type=int, default=1)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--work", type=Path, default=Path("runs/bf16_latents"))
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())
