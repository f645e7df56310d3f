"""Three steps of every method in one process and in two, with the state after every step; for test_distributed.

    python ddp_worker.py FOLDER

Writes FOLDER/METHOD-WORLD-RANK.npz. The processes are forks of this one, joined by gloo over the loopback.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from forked_ranks import run_ranks
from torch import nn

from bitshift.nn import ShiftConfig, convert
from bitshift.nn.method import METHODS, get_method
from bitshift.train import loop
from bitshift.train.config import TrainConfig
from bitshift.train.data import ArrayData, Shift

STEPS, BATCH = 3, 16


class Branch(nn.Module):
    """Rank 0 of several leaves a layer out whose gradient is zero elsewhere, and which decays on every rank."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.sometimes = nn.Linear(36, 4), nn.Linear(36, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        y = self.always(x)
        return y if os.environ.get("RANK") == "0" else y + 0 * self.sometimes(x)


def build(method: str) -> nn.Module:
    """A net without norms: its gradient over a joint batch is the mean of the gradients over the parts."""
    torch.manual_seed(1)
    if method == "branch":
        return Branch()
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 4))
    if method == "float":
        return net
    widths = get_method(method).bits
    config = ShiftConfig(method=method, bits=3 if 3 in widths else widths[-1])
    return convert(net, config, generator=torch.Generator().manual_seed(2))[0]


def train(method: str, folder: Path, world: int, rank: int) -> None:
    rng = np.random.default_rng(0)
    rows = STEPS * BATCH
    images = rng.integers(0, 256, (rows, 1, 6, 6)).astype(np.uint8)
    data = ArrayData(images=images, labels=rng.integers(0, 4, rows), class_names=tuple("abcd"))
    config = TrainConfig(epochs=1, batch_size=BATCH, lr=0.05, schedule="constant", weight_decay=1e-3, progress="off")
    states: dict[str, np.ndarray] = {}
    step = loop._Run._step

    def remember(self, name: str) -> None:
        # straight after the step, before anything is copied from rank 0
        states.update({f"{name}/{k}": v.detach().clone().numpy() for k, v in self.model.state_dict().items()})
        for path, module in self.model.named_modules():
            if hasattr(module, "codes"):
                states[f"{name}/codes/{path}"] = module.codes().numpy()

    def recorded(self, images, labels):
        if self.step == 0:
            remember(self, "0")
        step(self, images, labels)
        remember(self, str(self.step + 1))

    loop._Run._step = recorded
    try:
        loop.fit(build(method), config, data, data, run_dir=folder / f"run-{method}-{world}", augment=Shift(pixels=1))
    finally:
        loop._Run._step = step
    np.savez(folder / f"{method}-{world}-{rank}.npz", **states)


def one_rank(folder: Path, world: int, rank: int) -> None:
    from bitshift.train.distributed import join_world

    get_method("denseshift")  # fills the registry
    with join_world("cpu"):
        for method in ["float", "branch", *sorted(METHODS)]:
            train(method, folder, world, rank)


def main(folder: Path) -> None:
    for world in (1, 2):
        run_ranks(world, lambda rank, world=world: one_rank(folder, world, rank))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
