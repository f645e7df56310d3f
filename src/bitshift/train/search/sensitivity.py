"""What each weight format does to a network when one layer alone takes it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitshift.core.formats import get_format
from bitshift.nn.method import get_method
from bitshift.nn.modes import kept_modes
from bitshift.nn.observe import observe
from bitshift.nn.plan import CONVERTIBLE, obstacle, paths_of
from bitshift.nn.weights import method_weight, output_channels, set_weight
from bitshift.train.data.augment import Augment
from bitshift.train.data.base import TrainData
from bitshift.train.feed import drawn_inputs

logger = logging.getLogger("bitshift")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of the scan: its path, and how many weights it has in how many output channels.

    ``tied`` are the paths of further layers that hold the same weight: they take its format, and cost nothing more.
    """

    path: str
    weights: int
    channels: int
    tied: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Every layer that takes the format."""
        return self.path, *self.tied


@dataclass(frozen=True, kw_only=True)
class Scan:
    """``damage[i, f]``: mean KL divergence, in nat, from the float network when layer i alone takes format f."""

    layers: tuple[Layer, ...]
    formats: tuple[str, ...]
    damage: np.ndarray
    rows: int

    def bits(self) -> np.ndarray:
        """Bits of the packed codes, float64 (layers, formats)."""
        width = [get_format(name).bits for name in self.formats]
        return np.array([[layer.weights * bits for bits in width] for layer in self.layers], dtype=np.float64)


@torch.no_grad()
def scan(
    model: nn.Module,
    data: TrainData,
    formats: Sequence[str],
    *,
    rows: int = 512,
    batch_size: int = 256,
    seed: int = 0,
    augment: Augment | None = None,
    exclude: Callable[[str], bool] | None = None,
    scale: str = "pot",
    accept: Callable[[tuple[Layer, ...]], None] | None = None,
) -> Scan:
    """Round each layer of the float ``model`` alone, to each of ``formats``, and see what becomes of the logits.

    Layers that share a weight are one: they are rounded together.

    Rounding is that of method ``nearest`` with a searched scale per channel; a norm right behind the layer uses batch
    statistics meanwhile, as calibration would set it. The model is left as it came.

    Args:
        model: a trained float network; logits (N, classes).
        data: training rows: no label is read, and no test row should be.
        formats: names in ``bitshift inspect formats``.
        rows: how many.
        batch_size: rows at a time.
        seed: draws the rows.
        augment: that of the training, since the norms' statistics belong to it.
        exclude: layers that have their format already.
        scale: ``pot`` (powers of two) or ``free``, as the network will have it.
        accept: is told the layers before the first is rounded, and may raise.

    Raises:
        ValueError: an unknown format, no layer left, or logits that are not finite.
    """
    if len(set(formats)) != len(formats) or not formats:
        raise ValueError(f"formats {list(formats)}: name each once, at least one")
    for name in formats:
        get_format(name)
    nearest = get_method("nearest")
    device = next(model.parameters()).device
    with closing(drawn_inputs(data, rows, batch_size, seed, augment, device)) as drawn:
        batches = list(drawn)
    order, paths = observe(model, batches[0][:2]), paths_of(model)
    held: dict[int, list[nn.Module]] = {}
    for module in order.calls:
        if type(module) in CONVERTIBLE and not obstacle(module, {}):
            held.setdefault(id(module.weight), []).append(module)
    found = [
        modules
        for modules in held.values()
        if not (exclude and any(exclude(path) for module in modules for path in paths[module]))
    ]
    if not found:
        raise ValueError("the model has no convolution or linear layer whose format is to be chosen")
    layers = tuple(_layer([paths[module][0] for module in modules], modules[0]) for modules in found)
    if accept is not None:
        accept(layers)
    damage = np.empty((len(found), len(formats)))
    with kept_modes(model):
        model.eval()
        expected = [F.log_softmax(model(x).float(), dim=1) for x in batches]
        for i, modules in enumerate(found):
            path, module = layers[i].path, modules[0]
            weight = module.weight
            assert isinstance(weight, Tensor)
            original = weight.detach().clone()
            behind = [order.normed[m] for m in modules if m in order.normed]
            # without running statistics there is nothing that a calibration would set
            norms = [norm for norm in behind if getattr(norm, "running_mean", None) is not None]
            rows_first = method_weight(module).detach().float().clone()
            for f, name in enumerate(formats):
                method = nearest.from_float(rows_first, name, scale=scale)
                set_weight(module, method.weight())
                damage[i, f] = _divergence(model, norms, batches, expected)
            weight.copy_(original)
            if not np.isfinite(damage[i]).all():
                raise ValueError(f"layer {path!r}: logits are not finite when it is rounded; check the float model")
            logger.info(
                "search: %s  %s", path, "  ".join(f"{n} {d:.4g}" for n, d in zip(formats, damage[i], strict=True))
            )
    return Scan(layers=layers, formats=tuple(formats), damage=damage, rows=sum(map(len, batches)))


def _layer(paths: list[str], module: nn.Module) -> Layer:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return Layer(path=paths[0], weights=weight.numel(), channels=output_channels(module), tied=tuple(paths[1:]))


def _divergence(model: nn.Module, norms: list[nn.Module], batches: list[Tensor], expected: list[Tensor]) -> float:
    """Mean KL divergence in nat; ``norms`` use batch statistics and keep their running ones."""
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    for norm in norms:
        norm.train()
    total, rows = 0.0, 0
    for x, wanted in zip(batches, expected, strict=True):
        got = F.log_softmax(model(x).float(), dim=1)
        total += float(F.kl_div(got, wanted, reduction="sum", log_target=True))
        rows += len(x)
    for norm in norms:
        norm.eval()
    for buffer, value in kept:
        buffer.copy_(value)
    return total / rows


__all__ = ["Layer", "Scan", "scan"]
