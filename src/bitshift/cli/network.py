"""Which network a run holds: a model by name or from the user's own code, and how it was converted.

Imports torch; verbs import this file when they run.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.cli.errors import CliError
from bitshift.cli.rundir import describe_network
from bitshift.cli.weightfile import read_state
from bitshift.nn.config import Rule, ShiftConfig
from bitshift.nn.convert import ConversionReport, convert
from bitshift.train.checkpoint import load_state
from bitshift.train.models import build, published_state


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Enough to build a run's network again; ``as_dict`` stands in the run's config.json.

    ``model`` is a name in ``train.models.MODELS`` or ``module:function`` of the user; ``input_shape`` is (C, ...) per
    sample; ``shift`` None is the float network.
    """

    model: str
    num_classes: int
    input_shape: tuple[int, ...]
    shift: ShiftConfig | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back."""
        shift = None if self.shift is None else asdict(self.shift) | {"options": dict(self.shift.options)}
        return {
            "model": self.model,
            "num_classes": self.num_classes,
            "input_shape": list(self.input_shape),
            "shift": shift,
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
        if weights is not None:
            load_state_dict(model, weights, self)
        return model

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
        raise CliError(f"{path} belongs to another network than {spec.model}: {wrong}")
    # State dicts from before torch 0.4.1 lack this counter; nothing that is evaluated depends on it.
    counters = {n: t for n, t in model.state_dict().items() if n.endswith("num_batches_tracked")}
    load_state(model, counters | tensors, str(path))
