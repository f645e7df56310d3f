"""A network that takes its backbone from another training and gets a new head. Imports torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.cli.errors import CliError
from bitshift.cli.misfit import models_of
from bitshift.cli.network import NetworkSpec
from bitshift.cli.rundir import read_config
from bitshift.cli.weightfile import read_state
from bitshift.nn.config import Rule, ShiftConfig
from bitshift.nn.convert import ConversionReport, convert
from bitshift.nn.method import Method
from bitshift.nn.plan import CONVERTIBLE
from bitshift.nn.transfer import TransferError, is_new, load_backbone
from bitshift.train.files import WEIGHTS
from bitshift.train.models import published_state

_FEW = 4
_log = logging.getLogger("bitshift")


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Where a backbone comes from: a run directory or a file of weights, and which parts of the network are new."""

    path: Path
    new: tuple[str, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """The run's config.json; empty for a file."""
        return read_config(self.path) if self.path.is_dir() else {}

    @property
    def spec(self) -> NetworkSpec | None:
        """The network that was trained there; None for a file, which does not say."""
        network = (self.config.get("about") or {}).get("network")
        return None if network is None else NetworkSpec.from_dict(network)

    def state(self) -> dict[str, Tensor]:
        """Its state dict."""
        if self.path.is_dir() and not (self.path / WEIGHTS).exists():
            raise CliError(f"{self.path} has no {WEIGHTS} yet: training has not finished")
        return read_state(self.path)


def is_latent(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is of a converted network."""
    return any(".method." in name for name in state)


def last_layer(model: nn.Module) -> str:
    """The path of the layer that was registered last: the head, where nothing else is said."""
    paths = [path for path, m in model.named_modules() if type(m) in CONVERTIBLE]
    if not paths:
        raise CliError("the model has no linear or convolution layer that could be a new head; give --new-head")
    return paths[-1]


def with_new_head(shift: ShiftConfig, model: nn.Module, new: Sequence[str]) -> ShiftConfig:
    """``shift`` with a rule in front for each layer called new: it starts by its method's random rule.

    For DenseShift that is the paper's low variance. A rule of ``shift`` for such a layer keeps what it says.
    """
    rules = []
    for path, module in model.named_modules():
        if type(module) in CONVERTIBLE and is_new(path, new):
            said = next((r for r in shift.rules if fnmatchcase(path, r.pattern)), Rule(pattern=path))
            start = said.init if said.init or said.keep else "random"
            rules.append(replace(said, pattern=path, init=start))
    return replace(shift, rules=(*rules, *shift.rules))


def build_on(
    backbone: Backbone, spec: NetworkSpec, *, generator: torch.Generator
) -> tuple[nn.Module, NetworkSpec, ConversionReport | None]:
    """The network of ``spec`` on ``backbone``, the spec that builds its like again, and what ``convert`` reports.

    Latents are taken over as they are. Float weights, discrete ones too, are where the backbone's layers start
    (``init="pretrained"``).

    Raises:
        CliError: a backbone that is not there or does not fit; names the options that would fit.
    """
    state, trained = backbone.state(), backbone.spec
    spec = replace(spec, input_bias=trained is not None and trained.input_bias)
    try:
        return _build_on(backbone, state, spec, generator)
    except TransferError as error:
        raise CliError(f"--backbone {backbone.path}: {error.found}.\n{_advice(error, state, spec)}") from None


def _advice(error: TransferError, state: Mapping[str, Tensor], spec: NetworkSpec) -> str:
    """The options that would fit, for tensors that do not."""
    if not error.unfit:
        return (
            "--new-head takes patterns of module paths, e.g. --new-head fc 'head.*'; without it the last layer is new"
        )
    if is_latent(state):
        if spec.shift is None:
            return "These are latents of a shift network: leave out --method float"
        return (
            "Latents fit a network of the same model, method and format only: leave out --model, --method, --bits, "
            "--format and --rules, which a run directory says itself"
        )
    if models := models_of(state, spec):
        return f"These are weights of {' or '.join(models)}: --model {models[0]}"
    if len(error.unfit) <= _FEW:
        return f"Begin these parts anew: --new-head {' '.join(error.unfit)} (and the last layer, unless it is to stay)"
    return "Give the --model that was trained, or say with --new-head which parts are new"


def _refuse_other_latents(
    backbone: Backbone, model: nn.Module, spec: NetworkSpec, new: Sequence[str], generator: torch.Generator
) -> None:
    """CliError if latents of the run would mean something else in ``model``: tensors of two methods may look alike."""
    trained = backbone.spec
    if trained is None or trained.shift is None:
        return
    if (trained.model, trained.shift) == (spec.model, spec.shift):
        return  # as the run says itself: no need to convert its network again
    there = convert(trained.build_float(), trained.shift, sample=trained.sample(), generator=generator)[0]
    theirs = {path: _meaning(m) for path, m in there.named_modules() if isinstance(m, Method)}
    for path, method in model.named_modules():
        if (
            isinstance(method, Method)
            and not is_new(path, new)
            and theirs.get(path, _meaning(method)) != _meaning(method)
        ):
            layer = path.removesuffix(".method")
            raise CliError(
                f"--backbone {backbone.path}: layer {layer!r} was trained as {theirs[path]} and is {_meaning(method)} "
                "here: its latents would stand for other weights. Leave out --method, --bits, --format and --rules, "
                "which the run directory says itself, or begin from its discrete weights (nn.transfer.discrete_weights)"
            )


def _meaning(method: Method) -> str:
    """What decides how latents are read: the method and the set that it ends with."""
    path = getattr(method, "path", ()) or (method.format.name,)
    return f"{method.name} in {path[-1]}"


def _build_on(
    backbone: Backbone, state: Mapping[str, Tensor], spec: NetworkSpec, generator: torch.Generator
) -> tuple[nn.Module, NetworkSpec, ConversionReport | None]:
    model = spec.build_float()
    if not is_latent(state):
        state = published_state(model, state)
    new = backbone.new or (last_layer(model),)
    shift, report = spec.shift, None
    if shift is None:
        done = load_backbone(model, state, new=new)
    elif is_latent(state):
        shift = with_new_head(shift, model, new)
        model, report = convert(model, shift, sample=spec.sample(), generator=generator)
        done = load_backbone(model, state, new=new)
        _refuse_other_latents(backbone, model, spec, new, generator)
    else:
        done = load_backbone(model, state, new=new)
        shift = with_new_head(replace(shift, init="pretrained"), model, new)
        model, report = convert(model, shift, sample=spec.sample(), generator=generator)
    _log.info("backbone %s: %s", backbone.path, done)
    return model, replace(spec, shift=shift), report
