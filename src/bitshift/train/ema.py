"""An exponential average of a network's state along its training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from bitshift.nn.method import Method
from bitshift.nn.norms import ChannelNorm


class StateAverage:
    """``average += (1 - d) * (state - average)`` behind every step, ``d = min(decay, (1 + step) / (10 + step))``.

    Averaged are the parameters, which for shift layers are the float latents, scales and steps (the codes of the
    average are those of the averaged latents: one valid network), and the running mean and variance of norms, which
    are averages already and must not run ahead of weights that lag. All other buffers (tables, masks, counters) are
    the network's present ones. bfloat16 parameters are averaged in float32.

    The short memory of the first steps (as in TensorFlow's ExponentialMovingAverage) keeps the random start out.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = averaged(model)
        self._shadow = {
            name: t.detach().to(torch.promote_types(t.dtype, torch.float32), copy=True)
            for name, t in self._live.items()
        }

    def rate(self, step: int) -> float:
        """How far the average moves behind step ``step`` (0 is the first)."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the state behind step ``step``."""
        for average, live in zip(self._shadow.values(), self._live.values(), strict=True):
            average.lerp_(live.detach().to(average.dtype), self.rate(step))

    @torch.no_grad()
    def follow(self, methods: Iterable[Method], factors: Mapping[Method, Tensor]) -> None:
        """Take the average through a change of set, as the network has just gone through it.

        ``methods`` have rounded their weights anew to another set (``Method.set_progress``), those in ``factors`` for
        their weight times a factor (O). Without this the average would mix latents of two sizes and scales of two sets
        for as long as its memory lasts; so its latents are multiplied alike and its scales searched anew for them.
        Scales that are buffers (fixed ones, powers of two) are the network's own, as everywhere.
        """
        names = {id(tensor): name for name, tensor in self._live.items()}
        for method in methods:
            twin = copy.deepcopy(method).float()
            for own, live in zip(twin.parameters(), method.parameters(), strict=True):
                own.copy_(self._shadow[names[id(live)]])
            twin = twin.rescaled(factors.get(method, torch.ones(method.shape[0], device=method.scale().device)))
            for own, live in zip(twin.parameters(), method.parameters(), strict=True):
                self._shadow[names[id(live)]].copy_(own)

    @torch.no_grad()
    def put(self) -> None:
        """Overwrite the network's state by the average."""
        for name, tensor in self._live.items():
            tensor.copy_(self._shadow[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name."""
        return dict(self._shadow)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back :meth:`state_dict`'s result; KeyError when one is missing."""
        for name, tensor in self._shadow.items():
            tensor.copy_(state[name])


def averaged(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of ``model`` that are averaged, by their names in its state dict, each tensor once."""
    found: dict[str, Tensor] = dict(model.named_parameters())
    for path, module in model.named_modules():
        if isinstance(module, (ChannelNorm, nn.modules.batchnorm._BatchNorm)):
            for name in ("running_mean", "running_var"):
                buffer = getattr(module, name)
                if buffer is not None:
                    found[f"{path}.{name}" if path else name] = buffer
    return {name: t for name, t in found.items() if t.is_floating_point()}


__all__ = ["StateAverage", "averaged"]
