"""Turn any model into a shift network: the door of this floor."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.nn.activations import FixedPointQuant
from bitshift.nn.config import Rule, ShiftConfig
from bitshift.nn.latents import keep_in_bfloat16
from bitshift.nn.layers import (
    ShiftConv1d,
    ShiftConv2d,
    ShiftConv3d,
    ShiftConvTranspose1d,
    ShiftConvTranspose2d,
    ShiftConvTranspose3d,
    ShiftEmbedding,
    ShiftLayer,
    ShiftLinear,
)
from bitshift.nn.method import Method
from bitshift.nn.norms import ChannelNorm
from bitshift.nn.observe import CallOrder, observe
from bitshift.nn.plan import (
    CONVERTIBLE,
    NO_GRAPH,
    NORMS,
    Choice,
    ConvertError,
    describe_scale,
    make_method,
    paths_of,
    plan,
)
from bitshift.nn.report import ConversionReport, Row
from bitshift.nn.weights import TRANSPOSED, method_weight

logger = logging.getLogger("bitshift")


def convert(
    model: nn.Module,
    config: ShiftConfig,
    *,
    sample: Tensor | Sequence[Any] | None = None,
    generator: torch.Generator | None = None,
    new: Sequence[str] = (),
) -> tuple[nn.Module, ConversionReport]:
    """A shift network made from a copy of ``model``, and a report of what changed, what stayed and why.

    With float or fixed-point activations every layer with weights is swapped in place and the model keeps its
    class. With ``config.activations`` of 2 to 8 the model is traced with torch.fx and comes back as a ``GraphModule``
    with quantisers on its values; see docs/convert.md.

    Args:
        model: any module; it is not changed. Shared modules stay shared, layers that are shift layers already are left.
        config: see :class:`ShiftConfig`.
        sample: an input batch (or a tuple of positional inputs). Tells the order of the calls, which norm follows which
            layer, and the shapes of average pools. Without it registration order stands in.
        generator: source of the random weights; the global one if None.
        new: patterns of the module paths to convert, for a model whose other parts are done: a shift network with a new
            head, say. Layers that match none of them stay and keep what they have learned. Empty: all layers.

    Raises:
        ConvertError: nothing to convert, a rule that matches nothing, a model that cannot be traced.
        ValueError: an unknown method, format or option.
    """
    from bitshift.nn.foreign import to_float

    try:
        model = copy.deepcopy(model)
    except RuntimeError as error:  # weights that the old weight_norm has computed with a gradient
        first = str(error).partition("\n")[0]
        raise ConvertError(
            f"{type(model).__name__} cannot be copied ({first}); run it once under torch.no_grad(), or remove the old "
            "weight norms with torch.nn.utils.remove_weight_norm"
        ) from error
    model, notes = to_float(model, integer=config.integer)
    if config.integer:
        from bitshift.nn.integer import convert_integer

        model, report = convert_integer(model, config, sample=sample, generator=generator, new=new)
    else:
        order = observe(model, sample)
        choices = plan(model, config, order.calls, new)
        model, report = swap_layers(model, config, choices, order, generator)
    if config.latents == "bfloat16":
        keep_in_bfloat16(model)
    return model, report.with_notes(notes)


def make_layer(
    module: nn.Module,
    method: Method,
    *,
    norm: ChannelNorm | None = None,
    bias: Tensor | None = None,
    input_quant: FixedPointQuant | None = None,
) -> ShiftLayer:
    """The shift layer with the window of ``module`` (of a kind in :data:`CONVERTIBLE`) and the weight of ``method``."""
    common = {"bias": bias, "norm": norm, "input_quant": input_quant}
    kind = next((cls for cls in CONVERTIBLE if isinstance(module, cls)), None)
    if kind is None:
        allowed = ", ".join(cls.__name__ for cls in CONVERTIBLE)
        raise ConvertError(f"no shift layer for {type(module).__name__}; allowed: {allowed}")
    if isinstance(module, nn.Linear):
        layer: ShiftLayer = ShiftLinear(method, **common)
    elif isinstance(module, nn.Embedding):
        layer = ShiftEmbedding(method, padding_idx=module.padding_idx)
    else:
        names = ["stride", "padding", "dilation", "groups", "padding_mode"]
        names += ["output_padding"] if kind in TRANSPOSED else []
        layer = _CONVOLUTIONS[kind](method, **{name: getattr(module, name) for name in names}, **common)
    return layer.train(module.training)


_CONVOLUTIONS: dict[type[nn.Module], type[ShiftLayer]] = {
    nn.Conv1d: ShiftConv1d,
    nn.Conv2d: ShiftConv2d,
    nn.Conv3d: ShiftConv3d,
    nn.ConvTranspose1d: ShiftConvTranspose1d,
    nn.ConvTranspose2d: ShiftConvTranspose2d,
    nn.ConvTranspose3d: ShiftConvTranspose3d,
}


def layer_row(path: str, module: nn.Module, layer: ShiftLayer, *, norm: str = "", note: str = "") -> Row:
    """The report's row of a converted layer."""
    method = layer.method
    row = module.padding_idx if isinstance(module, nn.Embedding) else None
    if row is not None and bool(module.weight[row].any()):  # type: ignore[index]
        note = "; ".join(filter(None, [note, f"row {row} (padding_idx) was not zero and is now"]))
    return Row(
        path=path,
        was=type(module).__name__,
        became=type(layer).__name__,
        method=method.name,
        format=method.format.name,
        bits=method.format.bits,
        weights=prod(method.shape),
        scale=describe_scale(method),
        norm=norm,
        note=note,
    )


def stay_row(path: str, module: nn.Module, note: str) -> Row:
    """The report's row of a module that stays."""
    return Row(path=path, was=type(module).__name__, note=note)


def other_rows(model: nn.Module) -> dict[nn.Module, Row]:
    """Rows of the modules with parameters that are no candidates: converted before, or of another kind."""
    rows: dict[nn.Module, Row] = {}
    inside: set[nn.Module] = set()
    for module, paths in paths_of(model).items():
        if module in inside or type(module) in CONVERTIBLE:
            continue
        if isinstance(module, ShiftLayer):
            inside.update(module.modules())
            rows[module] = stay_row(paths[0], module, "is a shift layer already")
        elif isinstance(module, CONVERTIBLE):
            rows[module] = stay_row(
                paths[0], module, "a subclass, whose forward may differ; only the exact classes are converted"
            )
        elif isinstance(module, NORMS):
            rows[module] = stay_row(paths[0], module, "norm in float")
        elif own := [name for name, _ in module.named_parameters(recurse=False)]:
            rows[module] = stay_row(paths[0], module, _why_float(module, own))
    return rows


def _why_float(module: nn.Module, own: Sequence[str]) -> str:
    """Why the parameters ``own`` of a module of another kind stay float."""
    if any(type(m) in CONVERTIBLE or isinstance(m, ShiftLayer) for m in module.modules()):
        return f"own parameters ({', '.join(own)}) stay float"
    note = f"no shift layer for {type(module).__name__}"
    return f"{note}; export refuses it" if isinstance(module, NO_GRAPH) else note


_FAST_PATHS = (nn.TransformerEncoder, nn.TransformerEncoderLayer)


def _whole_forward(module: nn.Module, args: Any, output: Any) -> None:
    """A hook that does nothing: a module with hooks does without torch's fast path, which would not call our layers."""


def swap_layers(
    model: nn.Module,
    config: ShiftConfig,
    choices: dict[nn.Module, Choice],
    order: CallOrder,
    generator: torch.Generator | None,
) -> tuple[nn.Module, ConversionReport]:
    """Replace the chosen layers of ``model`` (changed) by float-activation shift layers."""
    paths = paths_of(model)
    rows = other_rows(model)
    methods: dict[Tensor, tuple[Method, str]] = {}
    swaps: dict[nn.Module, ShiftLayer] = {}
    for module, choice in choices.items():
        path = paths[module][0]
        if choice.method is None:
            rows[module] = stay_row(path, module, choice.note)
            if not choice.intended:
                logger.warning("convert: %r stays float: %s", path, choice.note)
            continue
        weight: Tensor = module.weight  # type: ignore[assignment]
        if weight in methods:  # tied weights share one method
            method, note = methods[weight]
            note = choice.note or note
        else:
            behind = module in order.normed
            method, note = make_method(choice, method_weight(module), norm_behind=behind, generator=generator)
            methods[weight] = (method, note)
        quant = FixedPointQuant(config.activations) if isinstance(config.activations, str) else None
        bias: Any = getattr(module, "bias", None)
        layer = make_layer(module, method, bias=bias, input_quant=quant)
        if len(paths[module]) > 1:
            note = "; ".join(filter(None, [note, f"shared with {', '.join(paths[module][1:])}"]))
        swaps[module] = layer
        rows[module] = layer_row(
            path, module, layer, norm="follows, in float" if module in order.normed else "", note=note
        )
    for parent in list(paths):
        for name, child in parent._modules.items():
            if child in swaps:
                parent._modules[name] = swaps[child]
    result = swaps.get(model, model)
    for module in result.modules():
        if isinstance(module, _FAST_PATHS) and any(isinstance(m, ShiftLayer) for m in module.modules()):
            module.register_forward_hook(_whole_forward)
    return result, ConversionReport(rows=tuple(rows[m] for m in paths if m in rows))


__all__ = ["ConversionReport", "ConvertError", "Rule", "ShiftConfig", "convert"]
