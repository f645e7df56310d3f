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
from bitshift.nn.plan import CONVERTIBLE, NORMS, obstacle, paths_of
from bitshift.nn.weights import method_weight, output_channels, set_weight
from bitshift.train.data.augment import Augment
from bitshift.train.data.base import Request, TrainData
from bitshift.train.data.sampler import step_generator

logger = logging.getLogger("bitshift")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of the scan: its path, and how many weights it has in how many output channels."""

    path: str
    weights: int
    channels: int


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
) -> Scan:
    """Round each layer of the float ``model`` alone, to each of ``formats``, and see what becomes of the logits.

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

    Raises:
        ValueError: an unknown format, no layer left, or logits that are not finite.
    """
    if len(set(formats)) != len(formats) or not formats:
        raise ValueError(f"formats {list(formats)}: name each once, at least one")
    for name in formats:
        get_format(name)
    nearest = get_method("nearest")
    device = next(model.parameters()).device
    order = torch.randperm(len(data), generator=step_generator(seed, 3))[:rows].numpy()
    parts = np.array_split(order, -(-len(order) // batch_size))
    batches: list[Tensor] = []
    with closing(data.batches([Request(rows=part) for part in parts], device)) as raw:
        for index, (images, _) in enumerate(raw):
            changed = images if augment is None else augment(images, step_generator(seed, 4, index))
            batches.append(data.normalise(changed))
    found = [(path, module) for path, module in _layers(model, batches[0][:2]) if exclude is None or not exclude(path)]
    if not found:
        raise ValueError("the model has no convolution or linear layer whose format is to be chosen")
    behind = _norm_behind(model, batches[0][:2])
    damage = np.empty((len(found), len(formats)))
    with kept_modes(model):
        model.eval()
        expected = [F.log_softmax(model(x).float(), dim=1) for x in batches]
        for i, (path, module) in enumerate(found):
            weight = module.weight
            assert isinstance(weight, Tensor)
            original, norm = weight.detach().clone(), behind.get(module)
            rows_first = method_weight(module).detach().float().clone()
            for f, name in enumerate(formats):
                method = nearest.from_float(rows_first, name, scale=scale)
                set_weight(module, method.weight())
                damage[i, f] = _divergence(model, norm, batches, expected)
            weight.copy_(original)
            if not np.isfinite(damage[i]).all():
                raise ValueError(f"layer {path!r}: logits are not finite when it is rounded; check the float model")
            logger.info(
                "search: %s  %s", path, "  ".join(f"{n} {d:.4g}" for n, d in zip(formats, damage[i], strict=True))
            )
    layers = tuple(
        Layer(path=path, weights=module.weight.numel(), channels=output_channels(module))  # type: ignore[union-attr,operator]
        for path, module in found
    )
    return Scan(layers=layers, formats=tuple(formats), damage=damage, rows=len(order))


def _layers(model: nn.Module, sample: Tensor) -> list[tuple[str, nn.Module]]:
    """Path and module of every layer that ``convert`` would take, in the order of the calls."""
    paths = paths_of(model)
    return [
        (paths[module][0], module)
        for module in observe(model, sample).calls
        if type(module) in CONVERTIBLE and not obstacle(module, {})
    ]


def _norm_behind(model: nn.Module, sample: Tensor) -> dict[nn.Module, nn.Module]:
    """The batch norm that reads a layer's very output, by layer."""
    made: list[tuple[Tensor, nn.Module]] = []
    found: dict[nn.Module, nn.Module] = {}

    def after(module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        made.append((output, module))

    def before(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.update({layer: norm for output, layer in made if args and args[0] is output})

    hooks = [m.register_forward_hook(after) for m in model.modules() if type(m) in CONVERTIBLE]
    hooks += [
        m.register_forward_pre_hook(before)
        for m in model.modules()
        if isinstance(m, NORMS) and getattr(m, "running_mean", None) is not None
    ]
    try:
        with kept_modes(model):
            model.eval()
            model(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _divergence(model: nn.Module, norm: nn.Module | None, batches: list[Tensor], expected: list[Tensor]) -> float:
    """Mean KL divergence in nat; ``norm`` uses batch statistics and keeps its running ones."""
    state = None if norm is None else {n: b.clone() for n, b in norm.named_buffers()}
    if norm is not None:
        norm.train()
    total, rows = 0.0, 0
    for x, wanted in zip(batches, expected, strict=True):
        got = F.log_softmax(model(x).float(), dim=1)
        total += float(F.kl_div(got, wanted, reduction="sum", log_target=True))
        rows += len(x)
    if norm is not None and state is not None:
        norm.eval()
        for name, buffer in norm.named_buffers():
            buffer.copy_(state[name])
    return total / rows


__all__ = ["Layer", "Scan", "scan"]
