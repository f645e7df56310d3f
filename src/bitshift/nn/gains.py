"""Give a folded layer its gain back: rounding shrinks a weight, and nothing behind a mean-only norm undoes that.

A norm that was folded into a weight divided by the deviation of what really came; a fixed weight does not. A few
percent lost in each layer multiply through the depth of a network: of the logits of a published ResNet-20 29 % were
left with two-term 4-bit weights, 6 % with one-term 3-bit weights (docs/accuracy.md). The scale of a channel is a
power of two and cannot mend it, but the weight can be multiplied before it is rounded: other codes, and the right gain.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.nn.layers import ShiftLayer
from bitshift.nn.method import Method
from bitshift.nn.modes import kept_modes
from bitshift.nn.norms import ShiftNorm
from bitshift.nn.observe import first_input
from bitshift.nn.plan import Choice, make_method

_LEAST = 1e-3
"""Channels below this share of the largest deviation are dead: noise decides their factor, so they get none."""


@dataclass(frozen=True)
class Unmatched:
    """What a layer's method was made of; the layer keeps it until its gains have been matched or a state is loaded."""

    choice: Choice
    weight: Tensor

    def method(self, factor: Tensor, generator: torch.Generator | None = None) -> Method:
        """The method of the weight times ``factor`` (O)."""
        scaled = self.weight * factor.to(self.weight).view(-1, *[1] * (self.weight.dim() - 1))
        return make_method(self.choice, scaled, norm_behind=True, generator=generator)[0]


@dataclass
class Renewed:
    """As :class:`Unmatched`, for a method in the midst of training whose weight was rounded to another set."""

    base: Method
    factor: Tensor | None = None
    """What the weight was last multiplied by."""

    def method(self, factor: Tensor, generator: torch.Generator | None = None) -> Method:  # noqa: ARG002
        """The method for its weight times ``factor`` (O)."""
        self.factor = factor
        return self.base.rescaled(factor)


def unmatched_layers(model: nn.Module) -> list[ShiftLayer]:
    """The layers whose weight had a norm folded in and was rounded without a look at data."""
    return [m for m in model.modules() if isinstance(m, ShiftLayer) and m.unmatched is not None]


@torch.no_grad()
def match_gains(model: nn.Module, *inputs: Tensor, seed: int = 0) -> None:
    """Set the gain of every layer of :func:`unmatched_layers`, front to back, by a batch of inputs; the mode stays.

    The deviation of each output channel comes close to that of the float network on the same batch; where its weight is
    not known (:func:`match_again`), to the one that the norm remembers (``norm.running_var``). The float weight is
    multiplied by their ratio, at most 4 either way, and rounded anew with its scale searched anew; a channel that this
    brings no closer stays as it was. Layers behind see the matched output, less its batch mean. Parameters are written
    in place.

    What the folded norm had measured (``running_var``) would be a target, too, but of other images: those of its
    training, augmented. Matched on plain ones, a published ResNet-20 lost a quarter of its logits by that, at 3 bits.
    """
    generator = torch.Generator().manual_seed(seed)
    targets = _float_deviations(model, inputs)

    def match(layer: ShiftLayer, x: Tensor, output: Tensor) -> Tensor | None:
        unmatched, norm = layer.unmatched, layer.norm
        if unmatched is None or norm is None:
            return None  # called before in this forward
        x = x.float()
        target = targets[layer] if layer in targets else norm.running_var.double().sqrt()
        found = _deviation(layer._convolve(x, layer.method.weight()))
        live = (target > _LEAST * target.max()) & (found > 0)
        away = torch.where(live, target / found.clamp_min(1e-30), 1.0)
        ratio = away.clamp(0.25, 4.0)
        _set(layer, unmatched.method(ratio, generator))
        again = _deviation(layer._convolve(x, layer.method.weight()))
        closer = (again / target).log().abs() < away.log().abs()
        if not bool(closer[live].all()):
            _set(layer, unmatched.method(torch.where(closer, ratio, 1.0), generator))
        layer.unmatched = None
        y = layer._convolve(x, layer.method.weight())
        axes = [0, *range(2, y.dim())]
        y = y - y.mean(axes, keepdim=True) + layer._per_channel(norm.bias)  # type: ignore[arg-type]
        return y.to(output.dtype)

    with _hooked(unmatched_layers(model), match):
        model(*inputs)


def _float_deviations(model: nn.Module, inputs: Sequence[Tensor]) -> dict[ShiftLayer, Tensor]:
    """Deviation per output channel (O) of each layer whose float weight is known, in a forward with these weights."""
    layers = [layer for layer in unmatched_layers(model) if isinstance(layer.unmatched, Unmatched)]
    found: dict[ShiftLayer, Tensor] = {}

    def run_float(layer: ShiftLayer, x: Tensor, output: Tensor) -> Tensor:
        y = layer._convolve(x.float(), layer.unmatched.weight.to(x.device))
        found[layer] = _deviation(y)
        shift = layer.norm.bias - layer.norm.running_mean  # type: ignore[union-attr, operator]
        return (y + layer._per_channel(shift)).to(output.dtype)

    if layers:
        with _hooked(layers, run_float):
            model(*inputs)
    return found


@contextmanager
def _hooked(
    layers: Iterable[ShiftLayer], hook: Callable[[ShiftLayer, Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """``hook`` behind the forward of each of ``layers``: of the layer, its input and its output."""

    def behind(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        return hook(layer, first_input(args, kwargs), output)

    handles = [layer.register_forward_hook(behind, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def match_again(model: nn.Module, methods: Iterable[Method], x: Tensor) -> dict[Method, Tensor]:
    """Give those of ``methods`` (rounded anew in the midst of training) their gains back that have a norm folded in.

    Their layers' output then has the deviation that ``norm.running_var`` remembers of the steps before; ``x`` is a
    batch of training inputs. Parameters are written in place; norms and modes stay as they are.

    Returns:
        The factor (O) of each method whose weight was multiplied.
    """
    changed = {id(method) for method in methods}
    renewed: dict[Method, Renewed] = {}
    for layer in (m for m in model.modules() if isinstance(m, ShiftLayer)):
        folded = isinstance(layer.norm, ShiftNorm) and not layer.norm.learn_scale
        if folded and id(layer.method) in changed:
            layer.unmatched = renewed[layer.method] = Renewed(copy.deepcopy(layer.method))
    if unmatched_layers(model):
        with kept_modes(model):
            model.eval()
            match_gains(model, x)
    return {method: new.factor for method, new in renewed.items() if new.factor is not None}


def _set(layer: ShiftLayer, method: Method) -> None:
    """Write the state of ``method`` into the layer's own, which an optimiser may hold already."""
    layer.method.load_state_dict(method.state_dict())


def _deviation(y: Tensor) -> Tensor:
    """Standard deviation per channel (axis 1), float64."""
    axes = [0, *range(2, y.dim())]
    return y.double().var(axes, unbiased=False).sqrt()


__all__ = ["Renewed", "Unmatched", "match_again", "match_gains", "unmatched_layers"]
