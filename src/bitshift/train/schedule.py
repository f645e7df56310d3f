"""Learning-rate schedules: pure functions of the step, so resuming needs no state."""

from __future__ import annotations

import math

from bitshift.train.config import TrainConfig


def lr_factor(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """What the peak learning rate is multiplied by at ``step`` (0 is the first), between 0 and 1.

    The first step of a warm-up and the last step of cosine and onecycle are not 0: such a step would be wasted.
    """
    total = config.epochs * steps_per_epoch
    warm = round(config.warmup_epochs * steps_per_epoch)
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1, total - warm)
    match config.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        case "step":
            return config.gamma ** (step // steps_per_epoch // config.step_size)
        case "onecycle":
            rise = 0.3
            if done < rise:
                return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * done / rise))
            return 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))


__all__ = ["lr_factor"]
