"""torch.compile for the training pass, with a way back.

Weights are computed ahead of the compiled pass: they depend on latents alone, and the fused kernels that make them
(``nn/kernels``), forward and backward, are faster than what the compiler makes of their formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from bitshift.nn.layers import ShiftLayer
from bitshift.train.checkpoint import random_state, restore_random_state
from bitshift.train.distributed import World
from bitshift.train.progress import logger
from bitshift.train.step import Forward
from bitshift.train.syncnorm import keep_from_compiler, own_norms


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

    Forward and backward run to find out. Buffers, gradients and random states are then as they were.
    """
    # a process that cannot compile must not leave the others waiting in a joint norm: first without those
    trials = (nullcontext(),) if world.size == 1 else (own_norms(model), nullcontext())
    for norms in trials:
        with norms:
            compiled, reason = _tried(model, images, half, world.device)
        if world.sum(torch.tensor([float(bool(reason))])).item():  # all processes or none
            reason = reason or "another process could not compile"
            logger.warning("compile=True: training goes on without it (%s)", reason)
            return model
    return compiled


def _tried(
    model: nn.Module, images: Tensor, half: torch.dtype | None, device: torch.device
) -> tuple[Forward, str]:  # fmt: skip
    """``model`` compiled, and why that failed, if it did."""
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    state, reason = random_state(device), ""
    compiled: Forward = model
    try:
        keep_from_compiler()
        compiled = _WeightsAhead(model, torch.compile(model, dynamic=False))
        with torch.autocast(device.type, half, enabled=half is not None):
            logits = compiled(images)
        logits.float().sum().backward()
    except Exception as error:  # noqa: BLE001 - dynamo, inductor and the C++ compiler raise what they like
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    restore_random_state(state, device)
    for parameter in model.parameters():
        parameter.grad = None
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    return compiled, reason


__all__ = ["compiled_forward"]
