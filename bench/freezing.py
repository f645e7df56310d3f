"""Do weights of shift networks freeze? Flip rates, signs that never turned, distance to the thresholds, per method.

    python bench/freezing.py DATA_DIR --json docs/results/freezing.json --figures docs/figures
    python bench/freezing.py --draw docs/results/freezing.json --figures docs/figures   # docs/freezing.md's again

DATA_DIR is CIFAR-10 in any layout that bitshift reads. Every net: the same budget, data order and augmentation, batch
128, weight decay 1e-4, from scratch, float activations; only optimiser and rate are the method's (those
of bench/cifar_table.py). Runs lie in --work and are resumed, --train names a part; the JSON holds every run that is
finished, here or in the JSON, and with --add also the epochs of other run directories (of cifar_table.py, say). Figures
are means over the layers between the first and the last, weighted by their weights: the layers that every method
converts. Definitions, which are ours: nn/metrics.py. ResNet-8 takes a Zen 4 core about 40 s an epoch, ResNet-20 100 s.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Row, arguments, kept_document, main

RATES = ("value_rate", "sign_rate", "reversal_rate", "never_flipped", "zeros", "distance", "update")
ENDS = {"keep_first": "float", "keep_last": "float"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One net: ``shift`` None is the float one; ``title`` names it in figures."""

    name: str
    title: str
    shift: dict[str, Any] | None
    lr: float = 0.1
    optimizer: str = "sgd"
    options: Mapping[str, Any] = field(default_factory=dict)


def _gates(name: str, title: str, method: str, **options: Any) -> Case:
    return Case(name=name, title=title, shift={"method": method, "bits": 3, **ENDS}, options=options)


Q = {"method": "deepshift_q", "bits": 5, "init": "pretrained"}
CASES = (
    Case(name="float", title="float", shift=None),
    Case(name="deepshift_q-5", title="DeepShift-Q 5 bits, lr 0.01", shift=Q, lr=0.01),
    Case(name="deepshift_q-5-lr0.1", title="DeepShift-Q 5 bits, lr 0.1", shift=Q),
    Case(name="deepshift_ps-5", title="DeepShift-PS 5 bits", shift={**Q, "method": "deepshift_ps"}, optimizer="radam"),
    _gates("s3-3-dense", "S3 3 bits, dense start", "s3", init="dense"),
    _gates("s3-3-symmetric", "S3 3 bits, symmetric start", "s3", init="symmetric"),
    _gates("denseshift-3-he", "DenseShift 3 bits, He variance", "denseshift", std="he"),
    _gates("denseshift-3-low", "DenseShift 3 bits, std 0.001", "denseshift", std=1e-3),
    _gates("denseshift-3-lower", "DenseShift 3 bits, std 0.0001", "denseshift", std=1e-4),
)


def make(case: Case, model: str, seed: int) -> torch.nn.Module:
    """The net of ``case`` before training."""
    from bitshift.nn.config import ShiftConfig
    from bitshift.nn.convert import convert
    from bitshift.train.models import build

    torch.manual_seed(seed)
    net = build(model, num_classes=10, in_channels=3)
    if case.shift is None:
        return net
    config = ShiftConfig(**case.shift, options=dict(case.options))
    return convert(net, config, generator=torch.Generator().manual_seed(seed))[0]


def train(case: Case, options: argparse.Namespace, data: tuple[Any, Any]) -> None:
    """Train, or resume, one net."""
    from bitshift.train.config import TrainConfig
    from bitshift.train.data import PadCropFlip
    from bitshift.train.loop import fit

    config = TrainConfig(
        epochs=options.epochs, batch_size=128, lr=case.lr, optimizer=case.optimizer, weight_decay=1e-4, amp="auto",  # type: ignore[arg-type]
        schedule=options.schedule, seed=options.seed, eval_every=options.epochs, eval_batch_size=500, log_every=50,
        flips_every=options.flips_every, checkpoint_every_steps=100,
    )  # fmt: skip
    fit(
        make(case, options.model, options.seed), config, *data, run_dir=options.work / case.name,
        augment=PadCropFlip(), about={"model": options.model, "shift": case.shift, "options": dict(case.options)},
    )  # fmt: skip


def layer_of(name: str) -> str:
    """A layer's path, whichever tensor of it was followed."""
    return name.removesuffix(".method").removesuffix(".weight")


def mean(layers: Sequence[Mapping[str, Any]], inner: set[str]) -> dict[str, Any]:
    """The figures of a record's ``layers`` that are in ``inner``, weighted by their numbers of weights."""
    chosen = [layer for layer in layers if layer_of(layer["name"]) in inner]

    def weighted(pairs: Iterable[tuple[float | None, int]]) -> float | None:
        known = [(value, count) for value, count in pairs if value is not None]
        return sum(v * n for v, n in known) / sum(n for _, n in known) if known else None

    figures: dict[str, Any] = {key: weighted((x.get(key), x["count"]) for x in chosen) for key in RATES}
    steps = [weighted(((x.get("steps") or (None,) * 3)[i], x["count"]) for x in chosen) for i in range(3)]
    return figures | {"steps": None if None in steps else steps}


def rounded(value: Any) -> Any:
    """Floats to five digits, so that the kept file stays small."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, (list, tuple)) else value


def history(folder: Path, title: str, *, unfinished: bool = False) -> dict[str, Any] | None:
    """What a run recorded: means per epoch and per ``flips_every`` steps, layers at the end; None if it has not ended.

    The first and the last layer are left out: not every method converts them. With ``unfinished`` a run is taken as
    far as it is, and its title says so.
    """
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()] if folder.exists() else []
    results = [x for x in lines if x["kind"] == "result"]
    flips = [x for x in lines if x["kind"] == "flips"]
    if not flips or not (results or unfinished):
        return None
    config = json.loads((folder / "config.json").read_text())
    names = [layer_of(layer["name"]) for layer in flips[0]["layers"]]
    whole = _whole(config)
    inner = set(names) if whole is None else set(names) - {whole[0], whole[-1]}
    fine = [x for x in lines if x["kind"] == "flip_steps"]
    budget = {key: config["train"][key] for key in ("epochs", "batch_size", "lr", "optimizer", "schedule", "seed")}
    if not results or budget["epochs"] != len(flips):
        title = f"{title} ({len(flips)} of {budget['epochs']} epochs)"
    return rounded(
        {
            "name": folder.name, "title": title, "model": config["about"].get("model"), **budget,
            "per_epoch": flips[0]["step"], "accuracy": results[-1]["valid_accuracy"] if results else None,
            "layers": sorted(inner),
            "epoch_records": [{"epoch": x["epoch"] + 1, "step": x["step"]} | mean(x["layers"], inner) for x in flips],
            "step_records": [{"step": x["step"]} | mean(x["layers"], inner) for x in fine],
            "last_layers": [
                {"name": layer_of(x["name"]), "count": x["count"]} | {k: x.get(k) for k in (*RATES, "steps")}
                for x in flips[-1]["layers"] if layer_of(x["name"]) in inner
            ],
        }
    )  # fmt: skip


def _whole(config: Mapping[str, Any]) -> list[str] | None:
    """The paths of all convolutions and linear layers of the run's float model, in order; None for unknown models."""
    from bitshift.train.models import MODELS, build

    name = config["about"].get("model")
    if name not in MODELS:
        return None
    net = build(name, num_classes=10, in_channels=3)
    return [path for path, m in net.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]


def study(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every run of the JSON, in its order and as its folder is found now, then the other ones of --work and --add."""
    own = [history(options.work / case.name, case.title) for case in CASES]
    added = [history(folder, title_of(folder), unfinished=True) for folder in options.add]
    before = kept_document(options).get("study", [])
    return list({(run["model"], run["name"]): run for run in (*before, *own, *added) if run is not None}.values())


TITLES = {
    "deepshift_q": "DeepShift-Q", "deepshift_ps": "DeepShift-PS", "s3": "S3", "denseshift": "DenseShift",
    "uniform": "uniform",
}  # fmt: skip


def title_of(folder: Path) -> str:
    """A run of cifar_table.py as figures call it: method and bits, without the seed."""
    name = folder.name.rpartition("-seed")[0] or folder.name
    method, _, bits = name.partition("-")
    return f"{TITLES[method]} {bits} bits" if method in TITLES and bits.isdecimal() else name.replace("_", ", ")


def train_all(options: argparse.Namespace) -> None:
    """Train, or resume, every case of --train."""
    if options.data is None:
        raise SystemExit("freezing.py: DATA_DIR is missing (--train with no case only reads, --draw FILE only draws)")
    from bitshift.train.data import open_data

    torch.set_num_threads(1)
    data = (open_data(options.data, "train"), open_data(options.data, "test"))
    if options.quick:
        data = (data[0].subset(slice(0, None, 100)), data[1].subset(slice(0, None, 50)))
        options.epochs, options.flips_every = 2, 2
    if options.rows:
        chosen = np.random.default_rng(options.seed).permutation(len(data[0]))[: options.rows]
        data = (data[0].subset(chosen), data[1])
    if options.test_rows:
        data = (data[0], data[1].subset(np.random.default_rng(0).permutation(len(data[1]))[: options.test_rows]))
    for case in CASES:
        if options.train is None or case.name in options.train:
            train(case, options, data)


def rows(options: argparse.Namespace) -> list[Row]:
    """Train what is asked for, then read everything that is finished."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.draw:
        kept = json.loads(options.draw.read_text())["study"]
        draw(kept, options.figures or options.draw.parent)
        return [row for run in kept for row in figures(run)]
    if options.train != []:
        train_all(options)
    runs = study(options)
    if options.json:
        options.extra = {"study": runs}
        draw(runs, options.figures or options.json.parent)
    return [row for run in runs for row in figures(run)]


def figures(run: Mapping[str, Any]) -> list[Row]:
    """The last record and the first epoch's of one run as rows."""
    case, first, last = f"{run['model']}, {run['title']}", run["epoch_records"][0], run["epoch_records"][-1]
    found = []
    if run["accuracy"] is not None:
        found.append(Row(case=case, metric="test accuracy", value=round(100 * run["accuracy"], 2), unit="%"))
    for record, key, metric in (
        (first, "value_rate", "flip rate, epoch 1"), (first, "sign_rate", "sign flip rate, epoch 1"),
        (last, "never_flipped", "sign never flipped, end"), (last, "zeros", "zeros, end"),
    ):  # fmt: skip
        if record[key] is not None:
            found.append(Row(case=case, metric=metric, value=round(100 * record[key], 3), unit="%"))
    if run["step_records"] and (steps := run["step_records"][0]["steps"]):
        found.append(Row(case=case, metric="steps to a threshold at the start, median", value=steps[1], unit="steps"))
    return found


def draw(runs: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """The figures of docs/freezing.md as SVG."""
    from freezing_plots import draw_all

    for path in draw_all(runs, folder):
        logging.getLogger("bitshift").info("wrote %s", path)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("data", type=Path, nargs="?", metavar="DATA_DIR", help="CIFAR-10 in any layout")
    made.add_argument("--model", default="resnet8", choices=["resnet8", "resnet20"])
    made.add_argument("--epochs", type=int, default=4)
    made.add_argument("--rows", type=int, help="training images, drawn by the seed (default: all)")
    made.add_argument("--test-rows", type=int, help="test images, drawn at random (default: all)")
    made.add_argument("--schedule", default="cosine", choices=["cosine", "constant"])
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--flips-every", type=int, default=17, help="steps between the finer records")
    made.add_argument("--work", type=Path, default=Path("runs/freezing"), help="folder of the runs (%(default)s)")
    made.add_argument("--add", type=Path, nargs="*", default=[], metavar="RUN", help="other finished run directories")
    made.add_argument("--draw", type=Path, metavar="FILE", help="only draw the figures of a kept JSON again")
    made.add_argument("--figures", type=Path, metavar="FOLDER", help="of the figures (default: that of the JSON)")
    made.add_argument(
        "--train", nargs="*", metavar="CASE", choices=[c.name for c in CASES], help="train only these; none: just read"
    )
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())
