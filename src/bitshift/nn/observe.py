"""What one run of a model shows: the order in which layers are called and which norm follows which layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.nn.layers import ShiftLayer
from bitshift.nn.modes import kept_modes
from bitshift.nn.plan import CONVERTIBLE, NORMS, ConvertError

LAYERS = (*CONVERTIBLE, ShiftLayer)


@dataclass(frozen=True)
class CallOrder:
    """``calls``: layers, shift layers too, by first call (or registration); ``normed``: layer to norm behind it."""

    calls: list[nn.Module]
    normed: dict[nn.Module, nn.Module]


def as_args(sample: Tensor | Sequence[Any]) -> tuple[Any, ...]:
    """``sample`` as positional arguments."""
    return (sample,) if isinstance(sample, Tensor) else tuple(sample)


def run_sample(run: Callable[..., Any], sample: Tensor | Sequence[Any]) -> None:
    """``run(*sample)`` without gradients; ConvertError, with the shapes, if the model does not take it."""
    args = as_args(sample)
    try:
        with torch.no_grad():
            run(*args)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = ", ".join(str(list(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in args)
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConvertError(f"the sample ({shapes}) does not run through the model: {first}") from error


def first_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a layer was called on, by its place or as ``input``; None: on nothing."""
    return args[0] if args else kwargs.get("input")


def observe(model: nn.Module, sample: Tensor | Sequence[Any] | None) -> CallOrder:
    """Run ``model`` on ``sample`` in eval mode with hooks, changing nothing; without one, read the registration.

    A norm follows a layer if it is given that layer's very output. By registration: if it is the next leaf module.
    """
    if sample is None:
        leaves = [m for m in model.modules() if not any(True for _ in m.children())]
        layers: list[nn.Module] = [m for m in model.modules() if isinstance(m, LAYERS)]
        normed = {a: b for a, b in pairwise(leaves) if isinstance(a, CONVERTIBLE) and isinstance(b, NORMS)}
        return CallOrder(layers, normed)
    calls: list[nn.Module] = []
    normed: dict[nn.Module, nn.Module] = {}
    produced: list[tuple[Tensor, nn.Module]] = []  # holds the tensors, so that no identity is used twice

    def after_layer(module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if module not in calls:
            calls.append(module)
        produced.append((output, module))

    def before_norm(norm: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        normed.update({layer: norm for output, layer in produced if first_input(args, kwargs) is output})

    hooks = []
    for module in model.modules():
        if isinstance(module, LAYERS):
            hooks.append(module.register_forward_hook(after_layer))
        elif isinstance(module, NORMS):
            hooks.append(module.register_forward_pre_hook(before_norm, with_kwargs=True))
    try:
        with kept_modes(model):
            model.eval()
            run_sample(model, sample)
    finally:
        for hook in hooks:
            hook.remove()
    return CallOrder(calls, normed)


__all__ = ["CallOrder", "as_args", "first_input", "observe", "run_sample"]
