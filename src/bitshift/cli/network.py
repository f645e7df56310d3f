"""Which network a run holds: a model by name or from the user's own code, and how it was converted.

Imports torch; verbs import this file when they run.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.cli.errors import CliError
from bitshift.cli.rundir import describe_network, read_config
from bitshift.cli.weightfile import read_state
from bitshift.nn.config import Rule, ShiftConfig
from bitshift.nn.convert import ConversionReport, convert
from bitshift.nn.modes import kept_modes
from bitshift.nn.observe import run_sample
from bitshift.nn.plan import ConvertError
from bitshift.train.checkpoint import load_state
from bitshift.train.files import CONFIG, FLOAT
from bitshift.train.input_scale import add_input_bias
from bitshift.train.models import MODELS, build, published_state


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Enough to build a run's network again; ``as_dict`` stands in the run's config.json.

    ``model`` is a name in ``train.models.MODELS`` or ``module:function`` of the user; ``input_shape`` is (C, ...) per
    sample; ``shift`` None is the float network. ``input_bias``: the first layer has a bias that the model's own lacks,
    because it took in a change of the input's pixels (``train.input_scale``).
    """

    model: str
    num_classes: int
    input_shape: tuple[int, ...]
    shift: ShiftConfig | None = None
    input_bias: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back."""
        shift = None if self.shift is None else asdict(self.shift) | {"options": dict(self.shift.options)}
        return {
            "model": self.model,
            "num_classes": self.num_classes,
            "input_shape": list(self.input_shape),
            "shift": shift,
            **({"input_bias": True} if self.input_bias else {}),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> NetworkSpec:
        """The spec that :meth:`as_dict` wrote."""
        shift = values["shift"]
        if shift is not None:
            shift = ShiftConfig(**{**shift, "rules": tuple(Rule(**r) for r in shift["rules"])})
        return NetworkSpec(
            model=values["model"],
            num_classes=values["num_classes"],
            input_shape=tuple(values["input_shape"]),
            shift=shift,
            input_bias=values.get("input_bias", False),
        )

    def describe(self) -> str:
        """One line for people."""
        return describe_network(self.as_dict())

    def sample(self, count: int = 2) -> Tensor:
        """Random inputs (count, *input_shape) that only show ``convert`` the order of the calls and the shapes."""
        return torch.randn(count, *self.input_shape, generator=torch.Generator().manual_seed(0))

    def build_float(self, weights: Path | None = None) -> nn.Module:
        """The float model, filled from ``weights`` (a state dict) if given."""
        if ":" in self.model:
            model = call_user_function(self.model, num_classes=self.num_classes, in_channels=self.input_shape[0])
        else:
            model = build(self.model, num_classes=self.num_classes, in_channels=self.input_shape[0])
        there = weights is not None and weights.is_dir() and (weights / CONFIG).exists() and _has_input_bias(weights)
        if there:
            add_input_bias(model, self.sample())
        if weights is not None:
            load_state_dict(model, weights, self)
        if self.input_bias and not there:
            add_input_bias(model, self.sample())
        return model

    def rebuilding(self, net: nn.Module, model: nn.Module) -> NetworkSpec:
        """This spec, with ``input_bias`` where its like of ``model``, converted from the float ``net``, needs that."""
        with torch.random.fork_rng(devices=[]):
            plain = replace(self, input_bias=False).build_float().state_dict().keys()
        added = net.state_dict().keys() - plain
        return replace(self, input_bias=bool(added & model.state_dict().keys()))

    def build(
        self, weights: Path | None = None, *, sample: Tensor | None = None
    ) -> tuple[nn.Module, ConversionReport | None]:
        """The converted network (the float one without ``shift``) and what ``convert`` reports.

        ``weights`` fill the float model before it is converted. Seed torch's global generator for a reproducible start.
        """
        model = self.build_float(weights)
        if self.shift is None:
            return model, None
        return convert(model, self.shift, sample=self.sample() if sample is None else sample)


def check_sample(model: nn.Module, sample: Tensor, about: str) -> Any:
    """What ``model`` gives for ``sample`` in eval mode.

    Raises:
        CliError: it does not run; says ``about`` and torch's first line.
    """
    found: list[Any] = []
    try:
        with kept_modes(model), torch.random.fork_rng(devices=[]):
            model.eval()
            run_sample(lambda x: found.append(model(x)), sample)
    except ConvertError as error:
        raise CliError(f"{about}; {error}") from error
    return found[0]


def meant_for(model: str, shape: Sequence[int]) -> str:
    """``the data are SHAPE a sample``, and what a model by name is meant for."""
    said = f"the data are {tuple(shape)} a sample"
    if model not in MODELS:
        return said
    height, width = MODELS[model].input_size
    square = f" (--image-size {height})" if height == width else ""
    return f"{said}, {model} is meant for pictures of {height}x{width}{square}"


def _has_input_bias(run: Path) -> bool:
    """Whether the network of a run directory has a first layer with a bias of its own."""
    network = (read_config(run).get("about") or {}).get("network") or {}
    return bool(network.get("input_bias"))


def call_user_function(name: str, **offered: int) -> nn.Module:
    """The module that ``module:function`` returns; of ``offered`` it gets the keywords that its signature names.

    Raises:
        CliError: no such module or function, one that needs other arguments, or a result that is no nn.Module.
    """
    module_name, _, function_name = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise CliError(f"{name}: no module {error.name!r} in {folder} or among the installed packages") from None
        raise CliError(f"{name}: importing {module_name!r} needs {error.name!r}, which is not installed") from error
    except ValueError as error:  # an empty or relative name
        raise CliError(f"{name}: {error}; write module:function") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise CliError(
            f"{name}: module {module_name!r} has no function {function_name!r}; it has {', '.join(own) or 'none'}"
        )
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        raise CliError(f"{name}: has no readable signature; give a Python function that returns the module") from None
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {k: v for k, v in offered.items() if anything or k in parameters}
    needed = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in given
    ]
    if needed:
        raise CliError(f"{name}: needs the argument(s) {', '.join(needed)}; bitshift gives only {', '.join(offered)}")
    model = function(**given)
    if not isinstance(model, nn.Module):
        raise CliError(f"{name}: returned {type(model).__name__}; a torch.nn.Module is needed")
    return model


def load_state_dict(model: nn.Module, path: Path, spec: NetworkSpec) -> None:
    """Fill the float ``model`` of ``spec`` from a run directory, a safetensors file or a torch file (tensors only).

    Raises:
        CliError: no such file, not a state dict, or tensors that do not fit; says which option would fit.
    """
    from bitshift.cli.misfit import misfit

    tensors = published_state(model, read_state(path))
    if (wrong := misfit(model, tensors, spec)) is not None:
        if any(".method." in name for name in tensors) and (path / FLOAT / CONFIG).exists():
            raise CliError(
                f"{path} holds the latents of a shift network; give its float twin, {path / FLOAT}, or go on from the "
                f"latents: bitshift train --backbone {path}"
            )
        raise CliError(f"{path} belongs to another network than {spec.model}: {wrong}")
    # State dicts from before torch 0.4.1 lack this counter; nothing that is evaluated depends on it.
    counters = {n: t for n, t in model.state_dict().items() if n.endswith("num_batches_tracked")}
    load_state(model, counters | tensors, str(path))
