"""``bitshift inspect --hardware``: operator counts of one sample, and gates and energy beside int8 and int4 weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitshift.cli.errors import CliError
from bitshift.cli.output import Output, size_text

if TYPE_CHECKING:
    from bitshift.core.graph import Graph
    from bitshift.core.hardware import Column, HardwareEstimate

_INTEGER_ENERGIES = ("mult_int8", "mult_int32", "add_int32", "shift_int16", "shift_int32", "lookup_int8", "sram_bit")
"""What an integer network is made of: every published energy that an estimate may hold."""


def estimate_of(path: Path, graph: Graph) -> HardwareEstimate:
    """The estimate of ``graph``; CliError names the file and the first float node."""
    from bitshift.core.graph import GraphError
    from bitshift.core.hardware import estimate

    try:
        return estimate(graph)
    except GraphError as error:
        raise CliError(f"{path}: {error}") from None


def show(out: Output, made: HardwareEstimate) -> None:
    """Both tables, what dominates, and the constants with their sources."""
    from bitshift.core import hardware
    from bitshift.core.constants import operators

    cost = made.total
    own = made.columns[0]
    narrow, shifts16 = cost.narrow_multiplications, cost.narrow_shifts
    rows = [(f"multiply-accumulates int8 x {name}", f"{n:,}") for name, n in own.products.items()]
    rows += [
        ("additions", f"{cost.adds:,}"),
        ("shifts of at most 16 bits", f"{shifts16:,}"),
        ("shifts of more bits", f"{cost.shifts - shifts16:,}"),
        ("multiplications of at most 8 bits", f"{narrow:,}"),
        ("multiplications of more bits", f"{cost.multiplications - narrow:,}"),
        ("comparisons", f"{cost.comparisons:,}"),
        ("look-ups", f"{cost.lookups:,}"),
        ("requantisations", f"{cost.requantisations:,}"),
        ("weight bits read, each weight once", f"{cost.weight_bits:,}"),
    ]
    out.table("operators of one sample", ("operator", "count"), rows, right=(1,))
    out.line("Additions, shifts and multiplications hold those of the multiply-accumulates, too.")
    out.line()
    columns = ("", *(column.name for column in made.columns))
    out.table("hardware estimate of one sample, nJ", columns, _estimate_rows(made), right=(1, 2, 3))
    out.line(f"everything read once: {_shares(own, 'once')}")
    out.line(f"read anew for every product: {_shares(own, 'anew')}")
    usual = operators()[hardware.USUAL_REQUANTISER]
    out.line(
        f"All columns requantise as this network does ({made.requantiser.removeprefix('requantise: ')}, "
        f"{operators()[made.requantiser].gates:,} gates). int8 engines usually multiply by 31 bits: {usual.gates:,} "
        f"gates, {made.usual_requantiser_pj / 1e3:,.4g} nJ more."
    )
    out.line(
        "Gates are NAND2 equivalents of one multiply-accumulate unit of each format, with its accumulator. "
        "Accuracy is not compared: all columns are the same graph."
    )
    out.line()
    out.table("constants", ("one operation", "pJ", "source"), _constant_rows(made), right=(1,))
    out.line("Gates, delays and powers: yosys and OpenSTA, OSU 0.18 um library; bench/hardware, docs/hardware.md.")


def _unit_formats(made: HardwareEstimate) -> list[str]:
    """Weight formats of the multiply-accumulate units of all columns, int8 first, by which the others are scaled."""
    return list(dict.fromkeys(["int8", *(name for column in made.columns for name in column.products)]))


def _constant_rows(made: HardwareEstimate) -> list[tuple[str, str, str]]:
    """Every energy of the estimate with where it comes from: the units first, then what is published."""
    from bitshift.core.constants import energies
    from bitshift.core.hardware import product_pj

    rows = []
    for name in _unit_formats(made):
        how = "that of int8 times the ratio of the two units' powers, bench/hardware"
        how = "multiplication, 8 bits + addition, 32 bits" if name == "int8" else how
        rows.append((f"multiply-accumulate int8 x {name}", f"{product_pj(name):.3g}", how))
    return rows + [(e.what, f"{e.pj:g}", e.source) for e in (energies()[name] for name in _INTEGER_ENERGIES)]


def _estimate_rows(made: HardwareEstimate) -> list[tuple[str, ...]]:
    own = made.columns[0]

    def line(title: str, value: Callable[[Column], float], text: Callable[[float], str]) -> tuple[str, ...]:
        base = value(own)
        cells = [text(base)]
        for column in made.columns[1:]:
            found = value(column)
            cells.append(f"{text(found)} ({found / base:.2f}x)" if base else text(found))
        return (title, *cells)

    def energy(pj: float) -> str:
        return f"{pj / 1e3:,.4g}" if pj < 1e7 else f"{pj / 1e3:,.0f}"

    return [
        line("weights", lambda c: c.weight_bits / 8, lambda n: size_text(math.ceil(n))),
        line("multiply-accumulate units, gates", lambda c: c.gates, lambda n: f"{n:,.0f}"),
        line("slowest of them, ns", lambda c: c.delay_ns, lambda n: f"{n:.2f}"),
        line("multiply-accumulates", lambda c: c.product_pj, energy),
        line("all other operations", lambda c: c.other_pj, energy),
        line("weights, each read once", lambda c: c.weights_once_pj, energy),
        line("activations, each read once", lambda c: c.activations_once_pj, energy),
        line("sum, everything read once", lambda c: c.once_pj, energy),
        line("weights, read for every product", lambda c: c.weights_anew_pj, energy),
        line("activations, read for every product", lambda c: c.activations_anew_pj, energy),
        line("sum, read for every product", lambda c: c.anew_pj, energy),
    ]


def _shares(column: Column, reads: str) -> str:
    """What the energy of ``column`` goes to, largest first; ``reads`` is once or anew."""
    parts = {
        "multiply-accumulates": column.product_pj,
        "other operations": column.other_pj,
        "weights": getattr(column, f"weights_{reads}_pj"),
        "activations": getattr(column, f"activations_{reads}_pj"),
    }
    total = sum(parts.values())
    if not total:
        return "nothing"
    ranked = sorted(parts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * pj / total:.0f} %" for name, pj in ranked)


def as_json(made: HardwareEstimate) -> dict[str, Any]:
    """The answer for machines: counts, columns in pJ, and every constant with its source."""
    from bitshift.core.constants import energies, operators
    from bitshift.core.hardware import product_pj

    formats = _unit_formats(made)
    units = [f"multiply-accumulate int8 x {name}" for name in formats]
    return {
        "counts": asdict(made.total),
        "columns": [asdict(column) | {"once_pj": column.once_pj, "anew_pj": column.anew_pj} for column in made.columns],
        "requantiser": made.requantiser,
        "usual_requantiser_pj": made.usual_requantiser_pj,
        "constants": {
            "product_pj": {name: product_pj(name) for name in formats},
            "energies": {name: asdict(energy) for name, energy in energies().items()},
            "operators": {
                name: asdict(found)
                for name, found in operators().items()
                if name in units or name.startswith("requantise")
            },
        },
    }
