"""Optimisers and parameter groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bitshift.nn.activations import ActQuant
from bitshift.nn.latents import RoundedSGD
from bitshift.nn.method import Method
from bitshift.nn.norms import ShiftNorm
from bitshift.train.config import TrainConfig


def param_groups(
    model: nn.Module, *, lr: float, weight_decay: float, latent_decay: float | None = None, decay_all: bool = False
) -> list[dict[str, Any]]:
    """Every trainable parameter once, in a fixed order.

    Latents go to the groups of their :class:`Method`, which decays them by ``latent_decay`` (None: ``weight_decay``).
    Of the rest, tensors with at least two axes decay; norms and biases (one axis or none) do so with ``decay_all``
    only. Scales never do: those of methods are the methods' business, and the logarithms in :class:`ActQuant` and
    :class:`ShiftNorm` would decay towards a scale of 1.
    """
    groups: list[dict[str, Any]] = []
    latent_decay = weight_decay if latent_decay is None else latent_decay
    taken: set[int] = set()
    for module in model.modules():
        if isinstance(module, Method):
            for group in module.param_groups(lr=lr, weight_decay=latent_decay):
                params = [p for p in group["params"] if p.requires_grad and id(p) not in taken]
                taken.update(id(p) for p in params)
                if params:
                    groups.append({**group, "params": params})
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    decayed, exempt = [p for p in rest if p.dim() >= 2], [p for p in rest if p.dim() < 2]
    logs = {id(m.log2_step) for m in model.modules() if isinstance(m, ActQuant)}
    logs |= {id(m.log2_gain) for m in model.modules() if isinstance(m, ShiftNorm)}
    scales = [p for p in exempt if decay_all and id(p) in logs]
    exempt = [p for p in exempt if not (decay_all and id(p) in logs)]
    for params, decay in ((decayed, weight_decay), (exempt, weight_decay if decay_all else 0.0), (scales, 0.0)):
        if params:
            groups.append({"params": params, "lr": lr, "weight_decay": decay})
    if not groups:
        raise ValueError("the model has no trainable parameter; was it frozen before training?")
    return groups


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of ``config`` over :func:`param_groups`; each group keeps its peak rate as ``initial_lr``.

    SGD and AdamW run as one fused pass over the parameters where torch has that for their device and type. Latents in
    bfloat16 are rounded stochastically, by SGD.

    Raises:
        ValueError: bfloat16 latents and another optimiser, whose small steps they would lose.
    """
    groups = param_groups(
        model, lr=config.lr, weight_decay=config.weight_decay, latent_decay=config.latent_decay,
        decay_all=config.decay_all,
    )  # fmt: skip
    for group in groups:
        group["initial_lr"] = group["lr"]
    parameters = [p for group in groups for p in group["params"]]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    narrow = any(p.dtype == torch.bfloat16 for p in parameters)
    if narrow and config.optimizer != "sgd":
        raise ValueError(
            f"optimizer={config.optimizer!r} with latents in bfloat16: only 'sgd' rounds them stochastically; others "
            "would lose their small steps. Use optimizer='sgd', or latents='float32'"
        )
    match config.optimizer:
        case "sgd":
            options = {"lr": config.lr, "momentum": config.momentum, "nesterov": config.nesterov, "fused": fused}
            made = RoundedSGD(groups, seed=config.seed, **options) if narrow else torch.optim.SGD(groups, **options)
            # the fused pass wants the momenta of all or none, but a parameter may get its first gradient late;
            # from zero a momentum starts at the gradient, as torch's own does
            for p in parameters if config.momentum else ():
                made.state[p]["momentum_buffer"] = torch.zeros_like(p)
            return made
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
        case "radam":
            return torch.optim.RAdam(groups, lr=config.lr, decoupled_weight_decay=True)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group to ``factor`` of its peak; returns the first group's rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])


__all__ = ["build_optimizer", "param_groups", "set_lr"]
