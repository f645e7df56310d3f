"""The constants of every estimate, from one file, ``hardware.json``: published energies and synthesised operators.

Its energies are edited by hand, each with its source; its operators are written by ``make generate`` from
``docs/results/hardware.json``, which ``bench/hardware/synthesise.py`` measures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Energy:
    """A published energy: pJ of one operation, what it is, where it was published."""

    pj: float
    what: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Operator:
    """A synthesised operator: LUT4 of an iCE40; gates (NAND2), delay and power in the OSU 0.18 um library.

    ``power`` is vectorless, in mW: only its ratio to another operator's has a meaning.
    """

    luts: int
    gates: int
    delay_ns: float
    power: float


@cache
def energies() -> Mapping[str, Energy]:
    """The published energies by name."""
    data = _data()
    return {
        name: Energy(pj=row["pj"], what=row["what"], source=data["sources"][row["source"]])
        for name, row in data["energies"].items()
    }


@cache
def operators() -> Mapping[str, Operator]:
    """The synthesised operators by their case in docs/results/hardware.json."""
    return {name: Operator(**row) for name, row in _data()["operators"].items()}


def source(name: str) -> str:
    """The full text of the source called ``name``."""
    return _data()["sources"][name]


@cache
def _data() -> dict[str, Any]:
    return json.loads(resources.files("bitshift.core").joinpath("hardware.json").read_text(encoding="utf-8"))
