"""Learning-rate schedules: pure functions of the step, so resuming needs no state."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import replace

from bitshift.train.config import TrainConfig


def lr_factor(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """What the peak learning rate is multiplied by at ``step`` (0 is the first), between 0 and 1.

    The first step of a warm-up and the last step of cosine and onecycle are not 0: such a step would be wasted.
    """
    total = config.epochs * steps_per_epoch
    warm = round(config.warmup_epochs * steps_per_epoch)
    if step < warm:
        return (step + 1) / (warm + 1)
    part = max(1, total - warm) / config.cycles
    done = (step - warm) % part / part
    match config.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        case "step":
            since = step if config.cycles == 1 else int((step - warm) % part)
            if config.milestones is None:
                return config.gamma ** (since // steps_per_epoch // config.step_size)
            return config.gamma ** bisect_right([round(m * steps_per_epoch) for m in config.milestones], since)
        case "onecycle":
            rise = 0.3
            if done < rise:
                return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * done / rise))
            return 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))


def scaled(config: TrainConfig, epochs: int) -> TrainConfig:
    """``config`` for another number of epochs: drops and warm-up keep their share of the run.

    A drop every 30 of 90 epochs comes after a third and two thirds of ``epochs``, also inside an epoch.
    """
    share = epochs / config.epochs
    if share == 1:
        return config
    drops = config.milestones
    if drops is None:
        drops = range(config.step_size, -(-config.epochs // config.cycles), config.step_size)
    step = config.schedule == "step"
    return replace(
        config, epochs=epochs, warmup_epochs=config.warmup_epochs * share,
        milestones=tuple(drop * share for drop in drops) if step else config.milestones,
    )  # fmt: skip


__all__ = ["lr_factor", "scaled"]
