"""Read a run's metrics.jsonl into curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from bitshift.cli.errors import CliError
from bitshift.cli.report.data import History

_MOST_POINTS = 400


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a line that was cut off by a kill at the very end is left out."""
    if not path.exists():
        return []
    raw = path.read_text(encoding="utf-8").splitlines()
    lines = []
    for number, text in enumerate(raw, 1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            if number < len(raw):
                raise CliError(f"{path}, line {number}: not JSON; the file is damaged") from None
    return lines


def read_history(name: str, path: Path) -> History:
    """The curves in metrics.jsonl; epochs count from 1. Lines of an unknown kind are left to their writers."""
    step_loss: list[tuple[float, float]] = []
    curves: dict[str, list[tuple[float, float]]] = {k: [] for k in ("train_accuracy", "valid_loss", "valid_accuracy")}
    flips: dict[str, dict[str, list[tuple[float, float]]]] = {"value": {}, "sign": {}}
    for line in read_lines(path):
        match line.get("kind"):
            case "step":
                step_loss.append((line["step"], _number(line.get("loss"))))
            case "epoch":
                for key, points in curves.items():
                    if key in line:
                        points.append((line["epoch"] + 1, _number(line[key])))
            case "flips":
                # An epoch's record is made at its end; the first one has nothing to compare with.
                epoch = line.get("epoch", line.get("label", 0)) + 1
                for layer in line["layers"]:
                    module = layer["name"].removesuffix(".method").removesuffix(".weight")
                    for kind, by_layer in flips.items():
                        if layer.get(f"{kind}_rate") is not None:
                            by_layer.setdefault(module, []).append((epoch, float(layer[f"{kind}_rate"])))
    return History(
        name=name,
        step_loss=thin(step_loss),
        train_accuracy=curves["train_accuracy"],
        valid_loss=curves["valid_loss"],
        valid_accuracy=curves["valid_accuracy"],
        value_flips=flips["value"],
        sign_flips=flips["sign"],
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``_MOST_POINTS`` points: means of equal groups of neighbours, so that noise shrinks and trends stay."""
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(len(points) / _MOST_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]
