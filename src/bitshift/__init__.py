"""Networks with power-of-two weights: train, freeze, export, and run the trained integers bit for bit everywhere.

The names below are loaded on first use, so that ``import bitshift`` (and running a model with :func:`load`) brings in
no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitshift.backends.c99.export import export_c
    from bitshift.core.modelfile import ModelFileError
    from bitshift.lower import export
    from bitshift.nn.config import Rule, ShiftConfig
    from bitshift.nn.convert import convert
    from bitshift.nn.freeze import freeze
    from bitshift.runtime import Model, load

__version__ = "0.1.0"

_HOME = {
    "Model": "bitshift.runtime",
    "ModelFileError": "bitshift.core.modelfile",
    "Rule": "bitshift.nn.config",
    "ShiftConfig": "bitshift.nn.config",
    "convert": "bitshift.nn.convert",
    "export": "bitshift.lower",
    "export_c": "bitshift.backends.c99.export",
    "freeze": "bitshift.nn.freeze",
    "load": "bitshift.runtime",
}
_NEEDS_TORCH = ("bitshift.nn", "bitshift.lower")


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'bitshift' has no attribute {name!r}; it has {', '.join(_HOME)}")
    try:
        value = getattr(importlib.import_module(home), name)
    except ModuleNotFoundError as error:
        if error.name == "torch" and home.startswith(_NEEDS_TORCH):
            raise ModuleNotFoundError(
                f"bitshift.{name} needs PyTorch, which is not installed: pip install 'bitshift[torch]'", name="torch"
            ) from error
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


__all__ = [
    "Model",
    "ModelFileError",
    "Rule",
    "ShiftConfig",
    "__version__",
    "convert",
    "export",
    "export_c",
    "freeze",
    "load",
]
