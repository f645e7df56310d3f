"""What each seed of a trained row reached and by which recipe, kept in the table's JSON behind its rows.

So the seeds of a row may be trained on different days and machines: a run folder lives no longer than its machine.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from common import kept_document

from bitshift.train.config import SHOWN_ONLY, TrainConfig

_log = logging.getLogger(__name__)

EACH = "each"
"""Key of the JSON: ``{case: {seed: result}}``, a result as :func:`finished` gives it."""
PATHS = ("data", "pretrained", "backbone")
"""What is said of a run and is a place on its machine."""
SAME_ROW = ("seed", "compile")
"""Fields in which the runs of one row may differ: a compiled step is equal up to rounding."""


def finished(run: Path) -> dict[str, Any] | None:
    """Accuracy in per cent and loss in nat of the last state in the run directory ``run``; None before its end.

    With it ``train``, the fields of the run's TrainConfig that are not the default, and ``about``, what was trained
    and on which pixels.
    """
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    ends = [line for line in lines if line["kind"] == "result"]
    if not ends:
        return None
    config = json.loads((run / "config.json").read_text())
    plain = {field.name: field.default for field in fields(TrainConfig)}
    train = {k: v for k, v in config["train"].items() if k not in SHOWN_ONLY and v != plain[k]}
    about = {k: v for k, v in config["about"].items() if k not in PATHS} | {"normalise": config["data"]["normalise"]}
    accuracy = round(100 * ends[-1]["valid_accuracy"], 6)
    return {"accuracy": accuracy, "loss": ends[-1]["valid_loss"], "train": train, "about": about}


def recipe(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the results of one row share."""
    return {k: v for k, v in result["train"].items() if k not in SAME_ROW} | {"about": result["about"]}


def results(options: argparse.Namespace, case: str, runs: Mapping[int, Path]) -> dict[int, dict[str, Any]]:
    """Results of ``case`` by seed: of the finished ``runs``, and of the other seeds in the JSON.

    They are put into ``options.extra``, so that :func:`common.main` writes them again. Empty if there are none, or
    fewer than a row of the JSON counts, which is older than this record: that row stays.

    Raises:
        SystemExit: they are not of one recipe.
    """
    here = {seed: found for seed, run in runs.items() if (found := finished(run)) is not None}
    before = kept_document(options)
    known = {int(seed): result for seed, result in before.get(EACH, {}).get(case, {}).items()}
    both = dict(sorted((known | here).items()))
    for seed, found in both.items():
        first = next(iter(both.values()))
        if recipe(found) != recipe(first):
            raise SystemExit(
                f"{case!r}: seed {min(both)} was trained by {recipe(first)}, seed {seed} by {recipe(found)}, and a row "
                f"has one recipe; seeds {sorted(here)} are runs in {options.work}, the others are under {EACH!r} in "
                f"{options.json}: train the old ones again, or take them out"
            )
    if both:
        options.extra = getattr(options, "extra", {})
        options.extra.setdefault(EACH, {})[case] = {str(seed): found for seed, found in both.items()}
    counted = max((row["runs"] for row in before["rows"] if row["case"] == case), default=0)
    if counted > len(both):
        _log.warning(
            "%s: %s has a row of %d seeds, of which %d are known; it stays", case, options.json, counted, len(both)
        )
        return {}
    return both
