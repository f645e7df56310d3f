"""What a report shows, as plain values: collecting and drawing know nothing of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bitshift.cli.summary import WeightLayer


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One headline figure: the number, what it is, and a line below it."""

    value: str
    name: str
    below: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One row of the table of networks. A row that was not measured says how to measure it in ``command``."""

    name: str
    accuracy: float | None = None
    weight_bits: str = ""
    weight_bytes: int | None = None
    file_bytes: int | None = None
    multiplications: int | None = None
    shifts: int | None = None
    adds: int | None = None
    energy_pj: float | None = None
    note: str = ""
    command: str = ""
    ours: bool = False


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Operations of one sample in one node of the graph."""

    name: str
    op: str
    shifts: int
    adds: int
    multiplications: int
    where: str = ""
    """What the multiplications are, when there are any."""


@dataclass(frozen=True, kw_only=True)
class History:
    """What training of one network wrote down: (x, y) points by curve."""

    name: str
    step_loss: Sequence[tuple[float, float]] = ()
    train_accuracy: Sequence[tuple[float, float]] = ()
    valid_loss: Sequence[tuple[float, float]] = ()
    valid_accuracy: Sequence[tuple[float, float]] = ()
    value_flips: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """Per layer: (epoch, share of the weights whose level changed since the epoch before)."""
    sign_flips: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A confusion matrix: ``confusion[true][predicted]`` counts samples."""

    title: str
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def samples(self) -> int:
        """Samples evaluated."""
        return sum(map(sum, self.confusion))

    @property
    def accuracy(self) -> float:
        """Share on the diagonal."""
        return sum(row[i] for i, row in enumerate(self.confusion)) / max(self.samples, 1)


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Estimated energy of one sample by kind of operation, and where the constants come from."""

    parts: Mapping[str, Mapping[str, float]]
    """Network -> kind of operation -> picojoule."""
    source: str


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything on the page. Absent parts are empty, and the page says what is missing and how to get it."""

    title: str
    subtitle: str
    made: str
    tiles: Sequence[Tile] = ()
    comparison: Sequence[Comparison] = ()
    comparison_note: str = ""
    histories: Sequence[History] = ()
    layers: Sequence[WeightLayer] = ()
    sizes: Sequence[tuple[str, int, str]] = ()
    """(part of the file, bytes, remark)."""
    operations: Sequence[Operations] = ()
    energy: Energy | None = None
    evaluation: Evaluation | None = None
    graph_text: str = ""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    """Section id -> what to run so that it appears."""
