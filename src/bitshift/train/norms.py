"""Norm statistics of a network whose weights were changed without training."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bitshift.nn.modes import kept_modes
from bitshift.train.data.augment import Augment
from bitshift.train.data.base import TrainData
from bitshift.train.data.sampler import step_generator


@torch.no_grad()
def reestimate_norms(
    model: nn.Module,
    data: TrainData,
    *,
    rows: int = 2000,
    batch_size: int = 250,
    seed: int = 0,
    augment: Augment | None = None,
) -> None:
    """Replace the running mean and variance of every batch norm by the plain average over ``rows`` rows of ``data``.

    The rows are drawn by ``seed``. Weights, modes and momenta stay as they were. Rounded weights shift the statistics,
    and no label is needed to set them right. Give the ``augment`` of the training: black borders alone move the
    statistics enough to cost accuracy.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    first = next(model.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    try:
        with kept_modes(model):
            model.eval()
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's cumulative average
                norm.train()
            order = torch.randperm(len(data), generator=step_generator(seed, 3))[:rows].numpy().astype(np.int64)
            start = 0
            for part in np.array_split(order, -(-len(order) // batch_size)):  # even: every batch weighs the same
                images, _ = data.batch(part, device)
                if augment is not None:
                    images = augment(images, step_generator(seed, 4, start))
                start += len(part)
                model(data.normalise(images))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


__all__ = ["reestimate_norms"]
