"""A run of a few steps, for tests of the loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bitshift.train.config import TrainConfig
from bitshift.train.data import ArrayData


def tiny_data(rows: int = 64, *, seed: int = 0) -> ArrayData:
    """Four classes that a linear layer can tell apart: each is brighter in its own corner."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, rows)
    images = rng.integers(0, 60, (rows, 1, 4, 4))
    for row, label in enumerate(labels):
        images[row, 0, 2 * (label // 2) :, :][:2, 2 * (label % 2) :][:, :2] += 180
    return ArrayData(images=images.astype(np.uint8), labels=labels.astype(np.int64), class_names=tuple("abcd"))


def tiny_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 4)
    )


def tiny_config(**changes: Any) -> TrainConfig:
    return TrainConfig(**({"epochs": 3, "batch_size": 8, "lr": 0.05, "log_every": 4, "progress": "off"} | changes))


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]
