"""The config.json of a run directory, read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitshift.cli.errors import CliError
from bitshift.train.files import CONFIG


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a run directory; CliError when there is none or it is damaged."""
    if not path.is_dir():
        what = "a file, not a run directory" if path.exists() else "no such directory"
        raise CliError(f"{path}: {what}; a run directory is what `bitshift train` and `bitshift convert` leave")
    file = path / CONFIG
    if not file.exists():
        runs = ", ".join(str(p.parent) for p in sorted(path.glob(f"*/{CONFIG}"))[:4])
        raise CliError(f"{path}: no run directory (it has no {CONFIG})" + (f"; inside it are {runs}" if runs else ""))
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CliError(f"{file}: damaged ({error})") from None
    if not isinstance(config, dict):
        raise CliError(f"{file}: expected an object")
    return config


def describe_network(network: Mapping[str, Any]) -> str:
    """One line for people about ``about.network`` of a config.json: model, method, width, activations."""
    shift = network["shift"]
    if shift is None:
        return f"{network['model']}, float32"
    bits, activations = shift["bits"], shift["activations"]
    weights = f"{shift['method']} {shift['format'] or (f'{bits}-bit' if bits else '')}".strip()
    if not isinstance(activations, int):
        kind = f"{activations} fixed-point activations" if activations else "float activations"
        return f"{network['model']}, {weights}, {kind}"
    # without a multiplier nothing is certain: int8 layers and free scales multiply too, only the graph can be counted
    rest = ", one multiplier a channel" if shift["multiplier"] else ""
    return f"{network['model']}, {weights}, {activations}-bit activations{rest}"
