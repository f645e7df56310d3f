"""The same runs by one, two and four processes: loss curves, calibration and norms; for test_syncnorm.

    python norm_worker.py FOLDER

Writes run directories FOLDER/NET-WORLD, and FOLDER/norm-WORLD-RANK.npz: one norm's output and gradients.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from forked_ranks import run_ranks
from torch import nn

from bitshift.nn import ShiftConfig, convert
from bitshift.nn.norms import AffineNorm, ShiftNorm
from bitshift.train import compiled
from bitshift.train.config import TrainConfig
from bitshift.train.data import ArrayData, PadCropFlip
from bitshift.train.distributed import World, join_world
from bitshift.train.loop import fit
from bitshift.train.syncnorm import joint_norms

WORLDS = (1, 2, 4)
NORMS = {
    "batch": lambda: nn.BatchNorm2d(3, momentum=0.3), "plain": lambda: nn.BatchNorm2d(3, affine=False),
    "average": lambda: nn.BatchNorm2d(3, momentum=None), "vector": lambda: nn.BatchNorm1d(3),
    "untracked": lambda: nn.BatchNorm2d(3, track_running_stats=False), "affine": lambda: AffineNorm(3),
    "shift": lambda: ShiftNorm(3), "mean_only": lambda: ShiftNorm(3, learn_scale=False),
}  # fmt: skip
NETS: dict[str, dict | None] = {
    "float": None,
    "denseshift": {"method": "denseshift", "bits": 3},
    "integer": {"method": "denseshift", "bits": 3, "activations": 8},
    "multiplier": {"method": "uniform", "bits": 3, "activations": 8, "multiplier": True},
    "folded": {"method": "nearest", "format": "pot4x2", "activations": 8, "init": "pretrained"},
}


def build(name: str) -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6),
        nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4),
    )  # fmt: skip
    changes = NETS[name]
    if changes is None:
        return net
    sample = torch.randn(2, 1, 8, 8)
    return convert(net, ShiftConfig(**changes), sample=sample, generator=torch.Generator().manual_seed(2))[0]


def data() -> ArrayData:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 256)
    images = rng.integers(0, 80, (256, 1, 8, 8)) + 40 * labels[:, None, None, None]
    return ArrayData(images=images.astype(np.uint8), labels=labels.astype(np.int64), class_names=tuple("abcd"))


def train(name: str, folder: Path, world: int, **changes) -> None:
    values = {"epochs": 1, "batch_size": 32, "lr": 0.02, "weight_decay": 1e-3, "log_every": 1, "progress": "off"}
    kept = folder / f"{name}-{world}{'-' + '-'.join(changes) if changes else ''}"
    fit(build(name), TrainConfig(**(values | changes)), data(), data(), run_dir=kept, augment=PadCropFlip(pad=1))


def norms(folder: Path, world: World) -> None:
    """Output, input gradient, parameter gradients (their mean is the joint one) and buffers of every kind of norm."""
    out: dict[str, np.ndarray] = {}
    for name, make in NORMS.items():
        generator = torch.Generator().manual_seed(3)
        # a shift norm computes in float32
        dtype = torch.float32 if name in ("shift", "mean_only") else torch.float64
        x = torch.randn(8, 3, *(() if name == "vector" else (5, 5)), generator=generator, dtype=dtype)
        x = x * torch.tensor([1.0, 10.0, 0.1], dtype=dtype).view(-1, *([1] * (x.dim() - 2))) + 30
        g = torch.randn(x.shape, generator=generator, dtype=dtype)
        share = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
        norm = make().to(dtype)
        with torch.no_grad():
            for p in norm.parameters():
                p.add_(torch.randn(p.shape, generator=generator, dtype=dtype) * 0.3)
        mine = x[share].clone().requires_grad_()
        with joint_norms(norm) if world.size > 1 else nullcontext():
            y = norm(mine)
            norm(mine.detach() + 1)  # a second batch moves the running statistics on
        (y * g[share]).sum().backward()
        assert mine.grad is not None
        out |= {f"{name}/output": y.detach().numpy(), f"{name}/input": mine.grad.numpy()}
        out |= {f"{name}/buffer/{k}": b.numpy() for k, b in norm.named_buffers()}
        for key, p in norm.named_parameters():
            assert p.grad is not None
            out[f"{name}/param/{key}"] = world.sum(p.grad.clone()).numpy()
    np.savez(folder / f"norm-{world.size}-{world.rank}.npz", **out)


def identical(model: nn.Module, **_: object) -> nn.Module:
    return model


def refusing(model: nn.Module, **_: object) -> nn.Module:
    raise RuntimeError("no space left in /tmp")


def main(folder: Path) -> None:
    def one(rank: int, world: int) -> None:
        with join_world("cpu") as joined:
            norms(folder, joined)
            for name in NETS:
                train(name, folder, world)
            if world == 2:
                train("float", folder, world, sync_norm=False)
                train("float", folder, world, accumulate=2)
                compiled.torch = SimpleNamespace(**vars(torch) | {"compile": refusing if rank else identical})
                train("denseshift", folder, world, compile=True)

    for world in WORLDS:
        run_ranks(world, lambda rank, world=world: one(rank, world))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
