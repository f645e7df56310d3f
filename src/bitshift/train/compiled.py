"""torch.compile for the training pass, with a way back.

Weights are computed ahead of the compiled pass: they depend on latents alone, and the fused kernels that make them
(``nn/kernels``), forward and backward, are faster than what the compiler makes of their formulas.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bitshift.nn.layers import ShiftLayer
from bitshift.train.distributed import World
from bitshift.train.progress import logger
from bitshift.train.step import Forward
from bitshift.train.syncnorm import keep_from_compiler


class _WeightsAhead:
    """``compiled``, a form of ``model``, called with the weights of the shift layers at hand."""

    def __init__(self, model: nn.Module, compiled: Callable[[Tensor], Tensor]) -> None:
        self._layers = [m for m in model.modules() if isinstance(m, ShiftLayer)]
        self._compiled = compiled

    def __call__(self, images: Tensor) -> Tensor:
        try:
            for layer in self._layers:
                layer.ahead = layer.trained_weight()
            return self._compiled(images)
        finally:
            for layer in self._layers:
                layer.ahead = None


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
            compiled = _WeightsAhead(model, torch.compile(model, dynamic=False))
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
