"""Which layers are converted, to what, and why the others stay: decided before anything is changed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import log2, prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.core.formats import get_format
from bitshift.nn.config import Rule, ShiftConfig
from bitshift.nn.layers import ShiftLayer
from bitshift.nn.method import Method, get_method
from bitshift.nn.weights import CONVOLUTIONS, TRANSPOSED

CONVERTIBLE = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED, nn.Embedding)
NOT_NEW = "not among the layers called new"
"""The report's reason for a layer that ``convert(..., new=...)`` leaves."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.SyncBatchNorm)

NO_GRAPH = (
    nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder,
    nn.TransformerEncoderLayer, nn.TransformerDecoderLayer,
)  # fmt: skip
"""Modules of torch that keep a state, or multiply activations by activations: no graph can hold them."""


class ConvertError(ValueError):
    """A conversion that cannot be done; the message names the module, what was found and the next step."""


@dataclass(frozen=True)
class Choice:
    """What becomes of one layer: ``method`` None leaves it, ``note`` says why, or how the method starts."""

    method: type[Method] | None
    format: str = ""
    options: Mapping[str, Any] | None = None
    pretrained: bool = False
    note: str = field(default="", compare=False)

    @property
    def intended(self) -> bool:
        """Whether the user's own words leave the layer alone: nothing to warn of."""
        return self.note == NOT_NEW or self.note.startswith("kept float")


def paths_of(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module with all its paths (a shared module has several), in registration order."""
    found: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found.setdefault(module, []).append(path)
    return found


def obstacle(module: nn.Module, tied: Mapping[Tensor, list[str]]) -> str:
    """Why this module of a convertible kind cannot be replaced, or ``""``."""
    weight = module._parameters.get("weight")
    if weight is None:
        return "weight is computed (weight_norm, spectral_norm, parametrisation); remove that first"
    if isinstance(weight, nn.parameter.UninitializedParameter):
        return "lazy module: run the model once before converting"
    if weight.numel() == 0:
        return "weight has no elements"
    if not weight.dtype.is_floating_point or weight.dtype == torch.float64:
        return f"weight is {weight.dtype}; float32, float16 and bfloat16 are converted"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"padding_mode={module.padding_mode!r} is not supported; pad with F.pad before the layer"
    if isinstance(module, nn.Embedding):
        options = {
            "max_norm": module.max_norm,
            "sparse": module.sparse,
            "scale_grad_by_freq": module.scale_grad_by_freq,
        }
        found = next((f"{name}={value}" for name, value in options.items() if value), "")
        if found:
            return f"{found} is not supported; build the embedding without it"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return "has hooks, which a replacement would lose; remove them first"
    others = tied.get(weight, [])
    if others:
        return f"its weight is tied to {others[0]!r}, which cannot be converted"
    return ""


def _foreign_ties(model: nn.Module) -> dict[Tensor, list[str]]:
    """Weights of convertible layers that some other kind of module, or a layer of another kind, holds too.

    A table and a linear layer of its rows are one kind: what a language model ties.
    """
    holders: dict[Tensor, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                holders.setdefault(parameter, []).append((f"{path}.{name}" if path else name, module))
    foreign: dict[Tensor, list[str]] = {}
    for parameter, held in holders.items():
        kinds = {type(m) for _, m in held}
        one_kind = len(kinds) == 1 or kinds == {nn.Linear, nn.Embedding}
        if len(held) > 1 and not (one_kind and kinds <= set(CONVERTIBLE)):
            foreign[parameter] = [name for name, m in held if type(m) not in CONVERTIBLE] or [held[0][0]]
    return foreign


def _match_rules(paths: list[str], rules: Iterable[Rule]) -> Rule | None:
    return next((r for r in rules if any(fnmatchcase(p, r.pattern) for p in paths)), None)


def check_rules(rules: Iterable[Rule], candidates: Iterable[str]) -> None:
    """ConvertError, with the near misses, for a rule whose pattern matches no layer."""
    check_patterns((rule.pattern for rule in rules), candidates, "rule")


def check_patterns(patterns: Iterable[str], candidates: Iterable[str], who: str) -> None:
    """ConvertError, with the near misses, for a pattern that matches no layer; ``who`` says where it stands."""
    known = list(candidates)
    for pattern in patterns:
        if any(fnmatchcase(p, pattern) for p in known):
            continue
        near = difflib.get_close_matches(pattern.replace("*", ""), known, n=3, cutoff=0.3)
        hint = (
            f"near misses: {', '.join(map(repr, near))}" if near else f"layers are: {', '.join(map(repr, known[:20]))}"
        )
        raise ConvertError(f"{who} {pattern!r} matches no layer that can be converted; {hint}")


_POWERS: dict[str, dict[str, Any]] = {"uniform": {"step": "pot"}, "apot": {"scale": "pot", "normalise": False}}
"""Options of methods whose scale is free by default, for integer networks without a multiplier: shifts are enough.

The first one says that the scale is a power of two; who sets that one has chosen."""


def _choice(config: ShiftConfig, rule: Rule | None, keep: bool | str) -> Choice:
    """The format and method of one layer from the configuration, its rule and the position's ``keep``."""
    said = rule if rule is not None and rule.keep else None  # a rule that says no keep leaves the position's in force
    keep = said.keep if said else keep
    if keep == "float":
        return Choice(None, note="kept float by " + (f"rule {said.pattern!r}" if said else "keep_first/keep_last"))
    shifts = _POWERS if config.integer and not config.multiplier else {}
    if keep == "int8":
        return Choice(get_method("uniform"), "int8", shifts.get("uniform", {}), True)
    method = get_method(rule.method if rule and rule.method else config.method)
    # another method's option may have the same name and mean something else
    options = dict(config.options) if method.name == config.method else {}
    if rule and rule.options:
        method.check_options(rule.options)
        options = {**options, **rule.options}
    shifting = shifts.get(method.name, {})
    if next(iter(shifting), None) not in options:
        options = {**shifting, **options}
    if rule and (rule.format or rule.bits):
        name, bits = rule.format, rule.bits
    elif rule and rule.method and rule.method != config.method and config.format:
        name, bits = None, get_format(config.format).bits
    else:
        name, bits = config.format, config.bits
    if name is None:
        name = method.format_for(bits if bits is not None else 3 if 3 in method.bits else min(method.bits))
    method.check_format(name)
    init = rule.init if rule and rule.init else config.init
    note = f"{init} start by rule {rule.pattern!r}" if rule and init != config.init else ""
    return Choice(method, name, options, init == "pretrained", note)


def plan(
    model: nn.Module, config: ShiftConfig, order: list[nn.Module] | None, new: Sequence[str] = ()
) -> dict[nn.Module, Choice]:
    """A choice for every module of a convertible kind; ``order`` is the order of the calls where it is known.

    ``order`` may hold shift layers of an earlier conversion: they count as first and last layer, too. ``new``, where
    given, are patterns of the layers to convert; the others stay.

    Raises:
        ConvertError: a rule or a pattern of ``new`` matches nothing, or there is no layer at all.
        ValueError: an unknown method, format, or option.
    """
    get_method(config.method).check_options(config.options)
    paths = paths_of(model)
    layers = [m for m in paths if type(m) in CONVERTIBLE]
    if not layers and not any(isinstance(m, ShiftLayer) for m in paths):
        raise ConvertError(
            "the model has no nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d/2d/3d or nn.Embedding to "
            "convert (subclasses are left alone)"
        )
    check_rules(config.rules, [p for m in layers for p in paths[m]])
    check_patterns(new, [p for m in layers for p in paths[m]], "new")
    tied = _foreign_ties(model)
    known = {*layers, *(m for m in paths if isinstance(m, ShiftLayer))}
    called = [m for m in order or [] if m in known] or layers
    first, last = (called[0], called[-1]) if called else (None, None)
    choices: dict[nn.Module, Choice] = {}
    for module in layers:
        reason = obstacle(module, tied)
        if new and not any(fnmatchcase(p, pattern) for p in paths[module] for pattern in new):
            reason = NOT_NEW
        if reason:
            choices[module] = Choice(None, note=reason)
            continue
        keep = (module is first and config.keep_first) or (module is last and config.keep_last)
        choices[module] = _with_padding_row(module, _choice(config, _match_rules(paths[module], config.rules), keep))
    _keep_ties(choices, paths)
    return choices


def _with_padding_row(module: nn.Module, choice: Choice) -> Choice:
    """``choice``, or none for a table whose row of zeros the format cannot hold."""
    index = module.padding_idx if isinstance(module, nn.Embedding) else None
    if index is None or choice.method is None or get_format(choice.format).has_zero:
        return choice
    note = (
        f"padding_idx={index} needs a row of zeros, and {choice.format} has no level 0; "
        "give this layer a rule with a method that has (s3, deepshift_ps, apot, uniform), or a format such as pot4"
    )
    return Choice(None, note=note)


def _keep_ties(choices: dict[nn.Module, Choice], paths: Mapping[nn.Module, list[str]]) -> None:
    """Layers that share a weight are converted alike, or all of them stay (``choices`` is changed)."""
    sharing: dict[Tensor, list[nn.Module]] = {}
    for module in choices:
        weight = module._parameters.get("weight")
        if weight is not None:
            sharing.setdefault(weight, []).append(module)
    for modules in sharing.values():
        first = choices[modules[0]]
        if all(choices[m] == first for m in modules[1:]):
            continue
        if not any(isinstance(m, nn.Embedding) for m in modules):
            for module in modules[1:]:  # layers of one kind have one method, the first one's
                if choices[module] != first and first.method is not None and choices[module].method is not None:
                    note = f"its weight is tied to {paths[modules[0]][0]!r}, whose method, format and options it takes"
                    choices[module] = replace(first, note=note)
            continue
        words = _told_apart([choices[m] for m in modules])
        for module, own in zip(modules, words, strict=True):
            others = [(m, w) for m, w in zip(modules, words, strict=True) if m is not module]
            other, its = next((pair for pair in others if pair[1] != own), others[0])
            if choices[module].method is not None:
                note = f"its weight is tied to {paths[other][0]!r}, which gets {its}, not {own}: choose one for both"
                choices[module] = Choice(None, note=note)


def _told_apart(choices: Sequence[Choice]) -> list[str]:
    """Each choice in words: its format, and the method, start and options where formats alone do not differ."""
    formats = [c.format or "float" for c in choices]
    if len(set(formats)) > 1:
        return formats
    return [
        f"{c.format} ({', '.join([c.method.name, 'pretrained' if c.pretrained else 'random', *_settings(c)])})"
        if c.method
        else "float"
        for c in choices
    ]


def _settings(choice: Choice) -> list[str]:
    return [f"{name}={value}" for name, value in (choice.options or {}).items()]


def make_method(
    choice: Choice, weight: Tensor, *, norm_behind: bool, generator: torch.Generator | None, pot_step: bool = False
) -> tuple[Method, str]:
    """The method of one layer for float ``weight``, and a note on its scale; ``pot_step`` is set for integer networks.

    A method that starts at unit scale (S3, DenseShift) has weights of size 1 to 8. Without a norm behind it that
    blows the signal up, so such a layer gets a power-of-two scale per tensor that makes the weights' size that of
    He's initialisation.
    """
    cls = choice.method
    assert cls is not None
    options = dict(choice.options or {})
    if pot_step and cls.name == "uniform" and not norm_behind:
        options.setdefault(
            "step", "pot"
        )  # without a norm the scale is the only factor: a shift then brings it to the grid
    if choice.pretrained:
        method = cls.from_float(weight.detach().float(), choice.format, generator=generator, **options)
        note = choice.note
    else:
        method, note = cls.random(weight.shape, choice.format, generator=generator, **options), choice.note
        if cls.unit_start and options.get("scale") is None and not norm_behind:
            size = float(method.levels().square().mean().sqrt())
            exponent = round(log2(sqrt(2 / max(prod(weight.shape[1:]), 1)) / max(size, 2.0**-10)))
            options["scale"] = torch.full((weight.shape[0],), 2.0**exponent)
            method = cls.random(weight.shape, choice.format, generator=generator, **options)
            note = "; ".join(filter(None, [note, f"scale 2^{exponent} because no norm follows"]))
    method = method.to(weight.device)
    return method.requires_grad_(weight.requires_grad), note


def describe_scale(method: Method) -> str:
    """``1``, ``2^-5``, ``2^-7..2^-4`` or ``free``."""
    scale = method.scale().detach().double()
    exponent = torch.log2(scale)
    if not bool((exponent == exponent.round()).all()):
        return "free per channel" if scale.numel() > 1 and scale.min() != scale.max() else "free"
    low, high = int(exponent.min()), int(exponent.max())
    return ("1" if low == 0 else f"2^{low}") if low == high else f"2^{low}..2^{high}"


__all__ = [
    "CONVERTIBLE",
    "NORMS",
    "NO_GRAPH",
    "Choice",
    "ConvertError",
    "describe_scale",
    "make_method",
    "paths_of",
    "plan",
]
