"""Freeze a trained shift network: integers in buffers, proven equal to the training model on a sample."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitshift.nn.activations import ActQuant, FixedPointQuant
from bitshift.nn.layers import IntegerError, ShiftEmbedding, ShiftLayer, ShiftLinear
from bitshift.nn.layers.base import accumulator_overflow
from bitshift.nn.layers.frozen import (
    FrozenAvgPool,
    FrozenFixedPoint,
    FrozenFloatLayer,
    FrozenLayer,
    FrozenQuant,
    FrozenSplitAvgPool,
    FrozenTable,
)
from bitshift.nn.layers.pointwise import Pointwise
from bitshift.nn.layers.pool import AvgPool, SplitAvgPool
from bitshift.nn.observe import as_args, first_input
from bitshift.nn.ops import power_of_two

_SEEN = 2.0**-9
"""Share of a layer's largest output below which 8-bit activations cannot show a difference: half a step of 255."""
logger = logging.getLogger("bitshift")


class FreezeError(ValueError):
    """A model that cannot be frozen, or whose frozen form differs; the message names the module."""


class FrozenModel(nn.Module):
    """The integer (or float-activation) network behind ``model``, in eval mode for good.

    ``example`` are inputs of the sample's shapes and dtypes with at most two samples, for ``torch.export``. The state
    dict holds the integers under the user's module paths behind ``model.``.
    """

    def __init__(self, model: nn.Module, sample: Sequence[Any]) -> None:
        super().__init__()
        self.model = model.eval()
        self.training = False
        self._example = tuple(x[:2].detach().clone().cpu() if isinstance(x, Tensor) and x.dim() else x for x in sample)

    @property
    def example(self) -> tuple[Any, ...]:
        """Positional inputs, on the model's device."""
        device = next((t.device for t in self.state_dict().values()), torch.device("cpu"))
        return tuple(x.to(device) if isinstance(x, Tensor) else x for x in self._example)

    def train(self, mode: bool = True) -> FrozenModel:  # noqa: ARG002 - the signature of nn.Module
        """Stays in eval mode: there is nothing left to train."""
        return super().train(False)

    def forward(self, x: Any, *more: Any) -> Any:
        """As the training model in eval; integer networks give exact grid values in float64."""
        return self.model(x, *more)

    @property
    def is_integer(self) -> bool:
        """Whether any layer computes in integers."""
        return any(isinstance(m, FrozenLayer) for m in self.modules())


def freeze(model: nn.Module, sample: Tensor | Sequence[Any]) -> FrozenModel:
    """The frozen form of a model from ``convert``, after training.

    Every shift layer becomes integer codes, multipliers and offsets (its norm folded), every quantiser a fixed type.
    The result is compared with the training model's eval on ``sample``: integer networks must agree in every bit, float
    ones in every layer of ours that gets the same input.
    Accumulator bounds are checked for every input that the types allow, not for the sample only.

    Args:
        model: from ``convert``; not changed.
        sample: an input batch, or a tuple of positional inputs.

    Raises:
        FreezeError: no shift layer, a bound over int32, a norm or scale that has no integers, or a difference.
        RuntimeError: a quantiser that has seen no data.
    """
    if not any(isinstance(m, ShiftLayer) for m in model.modules()):
        raise FreezeError(f"{type(model).__name__} has no shift layer; convert it first")
    reference = copy.deepcopy(model).eval()
    frozen = _replace(copy.deepcopy(reference))
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    result = FrozenModel(frozen, as_args(sample))
    with _misfits_said(reference):
        _prove_equal(reference, result.model, as_args(sample))
    return result


def _frozen_form(path: str, module: nn.Module) -> nn.Module | None:
    """What replaces one module, or None."""
    if isinstance(module, ShiftLayer):
        if not module.is_integer:
            if module.norm is not None:
                raise FreezeError(f"layer {path!r} has a norm but no input quantiser; convert with activations=2..8")
            return FrozenFloatLayer(module)
        try:
            form = module.integer_form()
        except IntegerError as error:
            raise FreezeError(f"layer {path!r}: {error}") from error
        overflow = accumulator_overflow(form.acc_bound, module.method.format, form.input)
        if overflow:
            raise FreezeError(f"layer {path!r}: {overflow}")
        return FrozenLayer(module, form)
    if isinstance(module, ActQuant):
        return FrozenQuant(module)
    if isinstance(module, FixedPointQuant):
        return FrozenFixedPoint(module)
    if isinstance(module, AvgPool):
        return FrozenSplitAvgPool(module) if isinstance(module, SplitAvgPool) else FrozenAvgPool(module)
    return None


@contextmanager
def _misfits_said(model: nn.Module) -> Iterator[None]:
    """Inside, the first call of each integer layer warns where a gain that cannot be held shows in its outputs.

    Beside a far larger gain small ones are raised to what the layer's grid can hold. As a rule the raised channels are
    dead or tiny, and nobody sees it; where the large one is dead, it is the others that are wrong.
    """
    hooks = []
    for path, layer in model.named_modules():
        if isinstance(layer, ShiftLayer) and layer.is_integer and not isinstance(layer, ShiftEmbedding):
            hooks.append(layer.register_forward_hook(_misfit_hook(path)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _misfit_hook(path: str) -> Any:
    said = False

    def look(layer: ShiftLayer, _args: tuple[Any, ...], output: Tensor) -> None:
        nonlocal said
        if said:
            return
        form = layer.integer_form()
        lost = int(form.misfit.sum())
        if not lost:
            return
        shape = [-1] if isinstance(layer, ShiftLinear) else [-1, *[1] * (output.dim() - 2)]
        value = output.detach().double()
        factor = torch.where(form.misfit, (1 - 1 / form.raised).abs(), 0.0)
        moved = (value - (form.offset * power_of_two(-form.frac)).view(shape)).abs() * factor.view(shape)
        top = float(value.abs().max())
        off = float(moved.max()) / top if top else 0.0
        if off <= _SEEN:
            return
        said = True
        gains = form.mult.double() * power_of_two(-form.frac)
        largest = int(gains.argmax())
        free = bool(((form.mult & (form.mult - 1)) == 0).all())
        logger.warning(
            "layer %r: %d of %d channels have a gain more than 2 %% off, because channel %d's is far larger and "
            "multipliers have 16 bits (small gains are raised); on the sample that moves outputs by up to %.2g %% of "
            "the largest. Channel %d's norm has seen next to no variance: is the channel dead? Train on at a lower "
            "rate%s",
            path, lost, len(form.misfit), largest, 100 * off, largest,
            ", or convert with multiplier=True (--multiplier True), which holds gains over 24 bits instead of 15"
            if free else "",
        )  # fmt: skip

    return look


def _replace(model: nn.Module) -> nn.Module:
    """Swap our modules inside ``model`` (changed) for frozen ones; shared modules stay shared."""
    if isinstance(model, fx.GraphModule):
        _tables(model)
    done: dict[nn.Module, nn.Module] = {}
    own = _frozen_form("", model)
    if own is not None:
        return own

    def visit(parent: nn.Module, prefix: str) -> None:
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            path = f"{prefix}{name}"
            if child not in done:
                frozen = _frozen_form(path, child)
                done[child] = child if frozen is None else frozen
                if frozen is None:
                    visit(child, f"{path}.")
            parent._modules[name] = done[child]

    visit(model, "")
    if isinstance(model, fx.GraphModule):
        model.recompile()
    return model


def _tables(model: fx.GraphModule) -> None:
    """Merge each function with the quantiser behind it: the first gives the table, the second leaves the graph."""
    for node in list(model.graph.nodes):
        function = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(function, Pointwise):
            continue
        users = list(node.users)
        quant = model.get_submodule(str(users[0].target)) if len(users) == 1 and users[0].op == "call_module" else None
        if not isinstance(quant, ActQuant):
            raise FreezeError(f"function {node.target!r} has no quantiser of its own behind it")
        parent, _, name = str(node.target).rpartition(".")
        model.get_submodule(parent)._modules[name] = FrozenTable(function, quant, quant.log2_step.device)
        users[0].replace_all_uses_with(node)
        model.graph.erase_node(users[0])
    model.delete_all_unused_submodules()
    model.recompile()


# --- the proof --------------------------------------------------------------------------------------------------------


def _record(
    model: nn.Module, paths: Iterable[str], args: tuple[Any, ...]
) -> tuple[list[tuple[str, Tensor, Tensor]], Any]:
    """Path, input and output of each call of the named modules, in order, and the model's output."""
    recorded: list[tuple[str, Tensor, Tensor]] = []
    hooks = []
    for path in paths:

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, path: str = path) -> None:
            recorded.append((path, first_input(args, kwargs).detach(), output.detach()))

        hooks.append(model.get_submodule(path).register_forward_hook(hook, with_kwargs=True))
    try:
        with torch.no_grad():
            output = model(*args)
    finally:
        for hook_handle in hooks:
            hook_handle.remove()
    return recorded, output


def _prove_equal(reference: nn.Module, frozen: nn.Module, args: tuple[Any, ...]) -> None:
    """FreezeError at the first module whose output differs."""
    known = dict(reference.named_modules())  # a function has another meaning in both: its quantiser went into the table
    ours = (FrozenLayer, FrozenFloatLayer, FrozenAvgPool, FrozenQuant)
    paths = [p for p, m in frozen.named_modules() if isinstance(m, ours) and p in known]
    want, want_output = _record(reference, paths, args)
    got, got_output = _record(frozen, paths, args)
    # A quantiser that several values share loses the calls that went into tables: the layers behind it are compared.
    counts = [Counter(c[0] for c in calls) for calls in (want, got)]
    shared = {p for p in paths if counts[0][p] != counts[1][p] and isinstance(frozen.get_submodule(p), FrozenQuant)}
    want, got = ([c for c in calls if c[0] not in shared] for calls in (want, got))
    if [c[0] for c in want] != [c[0] for c in got]:
        raise FreezeError("the frozen model calls its layers in another order than the training model")
    exact = any(isinstance(m, (FrozenLayer, FrozenQuant)) for m in frozen.modules())
    for (path, x, y), (_, z, got_y) in zip(want, got, strict=True):
        # torch's recurrent layers and products may round a copy of themselves in another order
        _compare(path, frozen.get_submodule(path), x, y, got_y, exact=exact or torch.equal(x, z))
    for at, (a, b) in enumerate(zip(_tensors(want_output), _tensors(got_output), strict=True)):
        _compare(f"output {at}", frozen, None, a, b, exact=exact)


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else []
    return [t for v in values for t in _tensors(v)]


_NEAR = 2.0**-12
"""What two float results may differ by, as a share of the largest, where torch's own layers stand in front."""


def _compare(path: str, module: nn.Module, x: Tensor | None, want: Tensor, got: Tensor, *, exact: bool) -> None:
    if want.shape == got.shape and torch.equal(want, got):
        return
    if want.shape != got.shape:
        shapes = f"{list(got.shape)}, the training model's {list(want.shape)}"
        raise FreezeError(f"{path!r}: the frozen output has shape {shapes}")
    both_nan = want.isnan() & got.isnan()
    different = (want != got) & ~both_nan
    if not exact and want.is_floating_point():
        size = float(want.nan_to_num(0, 0, 0).abs().max()) if want.numel() else 0.0
        different &= ~((want - got).abs() <= _NEAR * size)
    if not bool(different.any()):
        return
    index = tuple(int(i) for i in different.nonzero()[0])
    values = f"expected {float(want[index])!r}, the frozen module gives {float(got[index])!r}"
    message = f"module {path!r} at {index}: {values}"
    if isinstance(module, FrozenLayer) and x is not None and module.channel_axis is not None:
        channel = index[module.channel_axis]
        mult, offset, frac = (int(v[channel]) for v in (module.mult, module.offset, module.frac))
        accs = [(float(v[index]) * 2.0**frac - offset) / mult for v in (want, got)]
        message += f"; accumulator expected {accs[0]:.10g}, got {accs[1]:.10g}"
        message += f" (mult {mult}, offset {offset}, frac {frac})"
    raise FreezeError(f"{message}; {int(different.sum())} of {want.numel()} values differ")


__all__ = ["FreezeError", "FrozenModel", "freeze"]
