"""A run under torchrun that loses processes by kill -9; for test_elastic.

    torchrun ... elastic_worker.py FOLDER DATA KILLS

KILLS is JSON: {restart: [rank, step]}: in that life of the job, that process dies in front of that step. When the run
FOLDER/killed is finished, the same processes train FOLDER/undisturbed. FOLDER/lives gets a line for every process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from bitshift.nn import ShiftConfig, convert
from bitshift.train import loop
from bitshift.train.config import TrainConfig
from bitshift.train.data import PadCropFlip, open_data
from bitshift.train.distributed import join_world


def build() -> nn.Module:
    torch.manual_seed(11)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(4 * 64, 12), nn.ReLU(), nn.Linear(12, 3),
    )  # fmt: skip
    return convert(net, ShiftConfig(method="denseshift", bits=3), generator=torch.Generator().manual_seed(5))[0]


def main(folder: Path, data: str, kills: dict[str, list[int]]) -> None:
    torch.set_num_threads(1)
    life, rank = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), int(os.environ.get("RANK", "0"))
    with (folder / "lives").open("a") as file:
        file.write(f"{life} {rank}\n")
    step = loop._Run._step

    def deadly(self, images, labels):
        if self.folder.name == "killed" and kills.get(life) == [rank, self.step]:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, images, labels)

    loop._Run._step = deadly
    config = TrainConfig(
        epochs=3, batch_size=8, lr=0.05, clip_norm=5.0, checkpoint_every_steps=2, log_every=1, seed=3, ema_decay=0.9,
        mixup=0.2, progress="off", device="cpu", peer_timeout=60,
    )  # fmt: skip
    streamed = {"size": 8, "stream": True, "workers": 1} if os.environ.get("STREAMED") else {}
    train, valid = (open_data(data, split, **streamed) for split in ("train", "test"))
    with join_world("cpu"):
        for name in ("killed", "undisturbed"):
            loop.fit(build(), config, train, valid, run_dir=folder / name, augment=PadCropFlip(pad=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
