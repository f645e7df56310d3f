"""comparison.json of a run directory: the measured rows float, int8, uniform at the same bits, ours. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from bitshift.cli.errors import CliError
from bitshift.cli.output import to_json
from bitshift.cli.report.data import Comparison
from bitshift.cli.summary import multiplications
from bitshift.core.cost import energy_pj
from bitshift.core.ops import Cost

FILE = "comparison.json"
Kind = Literal["float", "int8", "uniform", "ours"]
KINDS: tuple[Kind, ...] = ("float", "int8", "uniform", "ours")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One network that was evaluated on the whole test set. ``cost`` is that of one sample."""

    kind: Kind
    name: str
    accuracy: float
    samples: int
    weight_bits: str
    weight_bytes: int
    cost: Cost
    file_bytes: int | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def read(run_dir: Path) -> list[Measured]:
    """The rows that were measured so far; empty when there is no file."""
    path = run_dir / FILE
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        names = {f.name for f in fields(Cost)}
        return [Measured(**{**r, "cost": Cost(**{k: v for k, v in r["cost"].items() if k in names})}) for r in rows]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CliError(f"{path}: damaged ({error}); delete it and measure again") from None


def write(run_dir: Path, rows: Sequence[Measured]) -> None:
    """Replace the rows, in the order of the table."""
    ordered = sorted(rows, key=lambda r: KINDS.index(r.kind))
    (run_dir / FILE).write_text(to_json({"rows": [r.as_dict() for r in ordered]}) + "\n", encoding="utf-8")


def add(run_dir: Path, row: Measured) -> None:
    """Put ``row`` in the place of the one of its kind."""
    write(run_dir, [r for r in read(run_dir) if r.kind != row.kind] + [row])


def table(rows: Sequence[Measured], command: str, names: Mapping[str, str]) -> list[Comparison]:
    """The report's rows; a kind that is not in ``rows`` says that ``command`` measures it. ``names`` are for those."""
    out = []
    for kind in KINDS:
        found = next((r for r in rows if r.kind == kind), None)
        if found is None:
            out.append(Comparison(name=names[kind], command=command, ours=kind == "ours"))
            continue
        cost = found.cost
        out.append(
            Comparison(
                name=found.name,
                accuracy=found.accuracy,
                weight_bits=found.weight_bits,
                weight_bytes=found.weight_bytes,
                file_bytes=found.file_bytes,
                multiplications=multiplications(cost),
                shifts=cost.shifts + cost.float_shifts,
                adds=cost.adds + cost.float_adds,
                energy_pj=energy_pj(cost),
                note=found.note,
                ours=kind == "ours",
            )
        )
    return out
