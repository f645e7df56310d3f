"""One of two processes: three data-parallel steps of converted networks; writes the parameters it ends with."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bitshift.nn import ShiftConfig, convert

CONFIGS = {
    "integer": {"activations": 8},
    "folded": {"activations": 6, "init": "pretrained"},
    "multiplier": {"activations": 8, "multiplier": True},
    "weights": {},
}


def network() -> nn.Module:
    torch.manual_seed(0)
    unit = [nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*unit, nn.Flatten(), nn.Linear(6, 3))


def main(folder: Path, rank: int) -> None:
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    for name, config in CONFIGS.items():
        sample = torch.zeros(2, 2, 5, 5)
        model, _ = convert(network(), ShiftConfig(**config), sample=sample, generator=torch.Generator().manual_seed(1))
        parallel = DistributedDataParallel(model)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        for step in range(3):
            x = torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(10 * step + rank)) * (1 + 20 * rank)
            optimiser.zero_grad()
            parallel(x).square().mean().backward()
            optimiser.step()
        torch.save({k: p.detach() for k, p in model.named_parameters()}, folder / f"{name}{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
