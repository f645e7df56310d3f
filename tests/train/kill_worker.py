"""Trains one small run undisturbed, and once more under SIGKILLs; prints where the kills fell, as JSON.

    python kill_worker.py FOLDER SEED KILLS

Every run is a fork of this process, which imports torch but never starts its threads. Half of the kills hit at
a counted event (before a step, before an fsync, before and after a rename), half come from outside after a random time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bitshift.nn import ShiftConfig, convert
from bitshift.train import checkpoint, loop
from bitshift.train.config import TrainConfig
from bitshift.train.data import ArrayData, PadCropFlip
from bitshift.train.files import CHECKPOINT_TEXT

CONFIG = TrainConfig(
    epochs=5, batch_size=8, lr=0.05, warmup_epochs=0.5, clip_norm=5.0, checkpoint_every_steps=2, log_every=3, seed=3,
    keep="best", progress="off", eval_batch_size=64,
)  # fmt: skip


class Noise(nn.Module):
    """Draws from numpy's and python's global generators, so that their states matter too."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (1 + 0.01 * float(np.random.standard_normal()) + 0.01 * random.gauss(0, 1))  # noqa: NPY002


def build() -> nn.Module:
    torch.manual_seed(11)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), Noise(), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(4 * 36, 12), nn.ReLU(), nn.Linear(12, 4),
    )  # fmt: skip
    return convert(net, ShiftConfig(method="denseshift", bits=3), generator=torch.Generator().manual_seed(5))[0]


def data() -> ArrayData:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 256)
    images = rng.integers(0, 80, (256, 1, 6, 6)) + 40 * labels[:, None, None, None]
    return ArrayData(images=images.astype(np.uint8), labels=labels.astype(np.int64), class_names=tuple("abcd"))


def run(folder: Path) -> None:
    torch.set_num_threads(1)
    whole = data()
    loop.fit(
        build(), CONFIG, whole.subset(slice(0, 200)), whole.subset(slice(200, None)), run_dir=folder,
        augment=PadCropFlip(pad=1),
    )  # fmt: skip


def die_at(countdown: int) -> None:
    """Arrange that the ``countdown``-th event from now on is the last thing this process does."""
    left = [countdown]

    def event() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    step, fsync, replace = loop._Run._step, os.fsync, Path.replace

    def counted_step(self, images, labels):
        event()
        step(self, images, labels)

    def counted_fsync(file):
        event()
        fsync(file)

    def counted_replace(self, target):
        event()
        moved = replace(self, target)
        event()
        return moved

    loop._Run._step, checkpoint.os.fsync, Path.replace = counted_step, counted_fsync, counted_replace


def forked(folder: Path, countdown: int | None) -> int:
    warnings.simplefilter("ignore", DeprecationWarning)  # fork in a threaded process; ours has one thread
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if countdown is not None:
                die_at(countdown)
            run(folder)
            status = 0
        finally:
            os._exit(status)
    return pid


def step_of(folder: Path) -> int:
    path = folder / CHECKPOINT_TEXT
    return json.loads(path.read_text())["step"] if path.exists() else 0


def main(root: Path, seed: int, kills: int) -> None:
    rng = random.Random(seed)
    start = time.perf_counter()
    if os.waitpid(forked(root / "undisturbed", None), 0)[1] != 0:
        raise SystemExit("the undisturbed run failed")
    span = time.perf_counter() - start
    fell: list[dict[str, object]] = []
    folder = root / "killed"
    while len(fell) < kills:
        # small enough that the run cannot finish before all kills have fallen
        by_event = len(fell) % 2 == 0
        pid = forked(folder, rng.randint(1, max(2, 300 // kills)) if by_event else None)
        if not by_event:
            time.sleep(rng.uniform(0, span / max(2, kills / 2)))
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status):
            if status != 0:
                raise SystemExit(f"a resumed run failed after {fell}")
            break
        fell.append({"by": "event" if by_event else "time", "checkpoint_step": step_of(folder)})
    if os.waitpid(forked(folder, None), 0)[1] != 0:
        raise SystemExit("the last resumed run failed")
    print(json.dumps(fell))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
