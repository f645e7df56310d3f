"""Norm statistics of a network whose weights were changed without training."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from bitshift.nn.modes import kept_modes
from bitshift.nn.norms import ChannelNorm, ShiftNorm
from bitshift.train.data.augment import Augment
from bitshift.train.data.base import TrainData
from bitshift.train.feed import drawn_inputs


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
    """Replace the running mean and variance of every norm by the plain average over ``rows`` rows of ``data``.

    Of a :class:`ShiftNorm` only the mean: its variance decides powers of two that the weights were trained for.

    The rows are drawn by ``seed``. Weights, modes and momenta stay as they were. Rounded weights shift the statistics,
    and no label is needed to set them right. Give the ``augment`` of the training: black borders alone move the
    statistics enough to cost accuracy.
    """
    norms = [
        m
        for m in model.modules()
        if isinstance(m, ChannelNorm) or (isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats)
    ]
    held = [norm for norm in norms if isinstance(norm, ShiftNorm)]
    # evaluation of an integer layer folds its norm into integers; only training calls it
    layers = [m for m in model.modules() if isinstance(getattr(m, "norm", None), ChannelNorm)]
    momenta = [norm.momentum for norm in norms]
    first = next(model.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    try:
        with kept_modes(model):
            model.eval()
            for norm in norms:
                norm.num_batches_tracked.zero_()  # type: ignore[union-attr]
                norm.momentum = None  # the cumulative average
                norm.train()
            for norm in held:
                norm._update = partial(_update_mean, norm)
            for layer in layers:
                layer.training = True
            with closing(drawn_inputs(data, rows, batch_size, seed, augment, device)) as batches:
                for x in batches:
                    model(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for norm in held:
            cast("dict[str, object]", vars(norm)).pop("_update", None)  # the class's own again


def _update_mean(norm: ShiftNorm, mean: Tensor, variance: Tensor, count: int) -> None:  # noqa: ARG001 - ShiftNorm._update
    """Move the running mean to the average of the batches so far."""
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean, 1.0 / float(norm.num_batches_tracked))


__all__ = ["reestimate_norms"]
