"""What ``convert`` did, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Row:
    """One module (or inserted quantiser): what it was, what it became, or why it stayed.

    ``became`` is empty when it stayed; ``note`` then holds the reason. ``scale`` describes the weight scale, ``norm``
    the norm, ``quantiser`` the type of an inserted activation quantiser. Empty strings and None mean "does not
    apply".
    """

    path: str
    was: str
    became: str = ""
    method: str = ""
    format: str = ""
    bits: int | None = None
    weights: int = 0
    scale: str = ""
    norm: str = ""
    quantiser: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """The rows of a conversion in the model's order; ``str()`` is a table for people, :meth:`to_json` for machines."""

    rows: tuple[Row, ...]

    @property
    def converted(self) -> tuple[Row, ...]:
        """Layers whose weights are now in a shift format."""
        return tuple(r for r in self.rows if r.became and r.format)

    @property
    def stayed(self) -> tuple[Row, ...]:
        """Modules that were left as they are, with the reason in ``note``."""
        return tuple(r for r in self.rows if not r.became)

    def row(self, path: str) -> Row:
        """The first row of ``path``; KeyError if there is none."""
        for row in self.rows:
            if row.path == path:
                return row
        raise KeyError(path)

    def with_notes(self, notes: Mapping[str, str]) -> ConversionReport:
        """The same report with a remark in front of the note of some paths."""
        if not notes:
            return self
        joined = ((r, [t for t in (notes.get(r.path), r.note) if t]) for r in self.rows)
        return ConversionReport(rows=tuple(replace(r, note="; ".join(texts)) for r, texts in joined))

    def with_quantisers(self, types: Mapping[str, str]) -> ConversionReport:
        """The same report with the types that quantisers, by path, have now that data have set their grids."""
        rows = (replace(r, quantiser=types.get(r.path, r.quantiser)) if r.quantiser else r for r in self.rows)
        return ConversionReport(rows=tuple(rows))

    def to_json(self) -> str:
        """``{"rows": [...]}`` with the fields of :class:`Row`."""
        return json.dumps({"rows": [asdict(r) for r in self.rows]}, indent=1)

    def __str__(self) -> str:
        header = ("module", "was", "became", "weights", "scale", "norm", "note")
        table: list[tuple[str, ...]] = [header]
        for r in self.rows:
            became = r.became or "(stays)"
            if r.format:
                became = f"{r.became} {r.format} by {r.method}"
            elif r.quantiser:
                became = f"{r.became} {r.quantiser}"
            table.append((r.path or "(model)", r.was, became, str(r.weights or ""), r.scale, r.norm, r.note))
        used = [i for i in range(len(header)) if any(line[i] for line in table[1:])] or [0]
        widths = {i: max(len(line[i]) for line in table) for i in used}
        lines = ["  ".join(line[i].ljust(widths[i]) for i in used).rstrip() for line in table]
        weights = sum(r.weights for r in self.converted)
        lines.append(
            f"{len(self.converted)} layers with {weights} weights converted, {len(self.stayed)} modules stayed"
        )
        return "\n".join(lines)


__all__ = ["ConversionReport", "Row"]
