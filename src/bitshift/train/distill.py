"""The training loss: cross-entropy, and the distance to a float teacher (Hinton et al., 2015)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def task_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    teacher_logits: Tensor | None = None,
    weight: float = 0.9,
    temperature: float = 4.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """``(1 - weight) CE + weight T^2 KL(teacher || student)``, the mean over the batch; plain CE without a teacher.

    Both soft distributions are ``softmax(logits / T)``; ``T^2`` keeps the gradient's size independent of T.
    Computed in float32 whatever the logits' dtype.
    """
    logits = logits.float()
    hard = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if teacher_logits is None:
        return hard
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
    return (1 - weight) * hard + weight * soft


__all__ = ["task_loss"]
