"""torch.compile for the training pass, with a way back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitshift.train.distributed import World
from bitshift.train.progress import logger
from bitshift.train.step import Forward
from bitshift.train.syncnorm import keep_from_compiler


def compiled_forward(model: nn.Module, images: Tensor, *, half: torch.dtype | None, world: World) -> Forward:
    """``model`` compiled for batches like ``images``; ``model`` itself, with a warning, where that does not work.

    Forward and backward run once to find out. Buffers, gradients and random states are then as they were.
    """
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    devices = [world.device] if world.device.type == "cuda" else []
    reason = ""
    compiled: Forward = model
    with torch.random.fork_rng(devices=devices):
        try:
            keep_from_compiler()
            compiled = torch.compile(model, dynamic=False)
            with torch.autocast(world.device.type, half, enabled=half is not None):
                logits = compiled(images)
            logits.float().sum().backward()
        except Exception as error:  # noqa: BLE001 - dynamo, inductor and the C++ compiler raise what they like
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    for parameter in model.parameters():
        parameter.grad = None
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    if world.sum(torch.tensor([float(bool(reason))])).item():  # all processes or none
        logger.warning("compile=True: training goes on without it (%s)", reason or "another process could not compile")
        return model
    return compiled


__all__ = ["compiled_forward"]
