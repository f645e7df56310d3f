"""Evaluation: always float32, always the whole set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.backends import cudnn

from bitshift.nn.modes import kept_modes
from bitshift.train.data.base import Request, TrainData
from bitshift.train.distributed import World


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """Result on a data set.

    ``accuracy`` is a fraction in 0..1, ``loss`` the mean cross-entropy, ``confusion[true, predicted]`` counts
    int64 (C, C), ``predictions`` int64 (N,) in the order of the data.
    """

    accuracy: float
    loss: float
    confusion: np.ndarray
    predictions: np.ndarray


@torch.no_grad()
def evaluate(
    model: nn.Module, data: TrainData, *, batch_size: int = 250, world: World | None = None,
    channels_last: bool = False, progress: Callable[[int], object] | None = None,
) -> EvalResult:  # fmt: skip
    """Accuracy, loss and confusion of ``model`` in eval mode on all of ``data``.

    The model stays on its device and is left in the mode it came in. With a ``world`` each process evaluates
    its share and all of them return the joint result. ``progress`` is told the rows of each batch when it is done.

    Raises:
        ValueError: empty data, or a model whose output is not (N, classes).
    """
    if not len(data):
        raise ValueError("evaluate: the data set is empty")
    world = world or World()
    first = next(model.parameters(), None)
    if first is None:  # frozen models hold buffers only
        first = next(model.buffers(), None)
    device = first.device if first is not None else torch.device("cpu")
    classes = len(data.class_names)
    predictions = torch.zeros(len(data), dtype=torch.int64)
    true = torch.zeros(len(data), dtype=torch.int64)  # as read: a photo that replaces a corrupt one has its own
    loss = torch.zeros(1, dtype=torch.float64)
    mine = np.arange(world.rank, len(data), world.size)
    with kept_modes(model):
        model.eval()
        parts = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
        with closing(data.batches([Request(rows=rows) for rows in parts], device)) as batches:
            for index, (images, labels) in zip(parts, batches, strict=True):
                images = data.normalise(images)
                if channels_last and images.dim() == 4:
                    images = images.contiguous(memory_format=torch.channels_last)
                # TF32 rounds the inputs of products to 10 bits: neither float32 nor exact for integer networks
                with cudnn.flags(
                    enabled=cudnn.enabled,
                    benchmark=cudnn.benchmark,
                    deterministic=cudnn.deterministic,
                    allow_tf32=False,
                ):
                    logits = model(images).float()
                if logits.shape != (len(index), classes):
                    raise ValueError(
                        f"the model gives shape {tuple(logits.shape)} for {len(index)} images of {classes} classes; "
                        f"({len(index)}, {classes}) is needed"
                    )
                loss += F.cross_entropy(logits, labels, reduction="sum").double().cpu()
                predictions[torch.from_numpy(index)] = logits.argmax(1).cpu()
                true[torch.from_numpy(index)] = labels.cpu()
                if progress is not None:
                    progress(len(index))
    world.sum(loss)
    predicted, wanted = world.sum(predictions).numpy(), world.sum(true).numpy()
    confusion = np.bincount(wanted * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    return EvalResult(
        accuracy=float((predicted == wanted).mean()),
        loss=float(loss.item() / len(data)),
        confusion=confusion.astype(np.int64),
        predictions=predicted,
    )


__all__ = ["EvalResult", "evaluate"]
