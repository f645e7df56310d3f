"""Latents in bfloat16: half the memory, updated with stochastic rounding.

A step of SGD moves a latent by far less than bfloat16 can show; rounded to nearest it would stand still. Rounded up or
down at random, with the right mean, it moves in expectation. The random bits are a hash of (seed, parameter, step,
element): every process of a distributed run draws the same, and a resumed run repeats them from the step that its
optimiser state holds.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor, nn

from bitshift.nn.kernels import fused
from bitshift.nn.method import Method

_WORD = 0xFFFFFFFF


def keep_in_bfloat16(model: nn.Module) -> nn.Module:
    """Turn the latents of every method in ``model`` (not scales and steps, one a channel) to bfloat16, in place."""
    for method in model.modules():
        if isinstance(method, Method):
            for p in method.parameters(recurse=False):
                if method.holds_weights(p) and p.dtype == torch.float32:
                    p.data = p.data.to(torch.bfloat16)
    return model


def rounding_key(seed: int, index: int, step: int) -> int:
    """32 bits that name the noise of one parameter in one step."""
    return int.from_bytes(blake2b(f"{seed} {index} {step}".encode(), digest_size=4).digest(), "little")


def noise(count: int, key: int, device: torch.device) -> Tensor:
    """``count`` well-mixed 32-bit numbers, int64."""
    x = (torch.arange(count, dtype=torch.int64, device=device) * 0x9E3779B1 & _WORD) ^ key
    x ^= x >> 16
    x = x * 0x7FEB352D & _WORD
    x ^= x >> 15
    x = x * 0x846CA68B & _WORD
    return x ^ (x >> 16)


def rounded(values: Tensor, bits: Tensor) -> Tensor:
    """Float32 ``values`` as bfloat16: up with the probability of the part cut off, by ``bits`` in 0..65535 (int64)."""
    raw = ((values.contiguous().view(torch.int32).to(torch.int64) & _WORD) + bits.view(values.shape)) >> 16
    raw = torch.where(values.isnan(), 0x7FC0, raw)
    return torch.where(raw > 0x7FFF, raw - 0x10000, raw).to(torch.int16).view(torch.bfloat16)


@torch.no_grad()
def rounded_sgd(
    grad: Tensor, latent: Tensor, momentum: Tensor | None, *, lr: float, factor: float, decay: float, nesterov: bool,
    key: int,
) -> None:  # fmt: skip
    """One step of SGD on a bfloat16 ``latent`` and its bfloat16 ``momentum`` (or None), in place.

    ``s = grad + decay * latent``; ``momentum = factor * momentum + s``, ``s`` becomes it (nesterov: ``s + factor *
    momentum``); ``latent -= lr * s``, in float32, both results rounded stochastically by the noise of ``key``.
    """
    options = {"lr": lr, "factor": factor, "decay": decay, "nesterov": nesterov, "key": key}
    stored = momentum is None or momentum.is_contiguous()
    kernels = fused(grad, latent) if latent.is_contiguous() and stored and grad.dtype == latent.dtype else None
    if kernels is not None:
        kernels.rounded_sgd(grad, latent, momentum, **options)
        return
    words = noise(latent.numel(), key, latent.device)
    value = latent.float()
    step = grad.float() + value * decay
    if momentum is not None:
        moved = momentum.float() * factor + step
        momentum.copy_(rounded(moved, words >> 16))
        step = step + moved * factor if nesterov else moved
    latent.copy_(rounded(value - step * lr, words & 0xFFFF))


class RoundedSGD(torch.optim.SGD):
    """SGD that updates bfloat16 parameters by :func:`rounded_sgd` and all others as ``torch.optim.SGD`` does.

    Momenta have the type of their parameter. The count of steps, from which the noise follows, is in the state of each
    bfloat16 parameter under ``step``. Dampening and maximize are refused.
    """

    def __init__(self, params, *, seed: int = 0, **options) -> None:
        super().__init__(params, **options)
        # torch's fused step looks for overflowed gradients itself; the one below does not, so the scaler has to
        self._step_supports_amp_scaling = False
        for group in self.param_groups:
            if group["dampening"] or group["maximize"]:
                raise ValueError("RoundedSGD has no dampening and no maximize; leave them out")
        self.seed = seed

    @torch.no_grad()
    def step(self, closure=None):
        """One step; see the class."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        index, kept = -1, []
        for group in self.param_groups:
            for p in group["params"]:
                index += 1
                if p.dtype != torch.bfloat16 or p.grad is None:
                    continue
                state = self.state[p]
                count = int(state.get("step", torch.zeros(())))
                if group["momentum"] and state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(p)
                rounded_sgd(
                    p.grad, p, state["momentum_buffer"] if group["momentum"] else None, lr=float(group["lr"]),
                    factor=group["momentum"], decay=group["weight_decay"], nesterov=group["nesterov"],
                    key=rounding_key(self.seed, index, count),
                )  # fmt: skip
                state["step"] = torch.tensor(float(count + 1))
                kept.append((p, p.grad))
                p.grad = None
        try:
            super().step()
        finally:
            for p, grad in kept:
                p.grad = grad
        return loss


__all__ = ["RoundedSGD", "keep_in_bfloat16", "noise", "rounded", "rounded_sgd", "rounding_key"]
