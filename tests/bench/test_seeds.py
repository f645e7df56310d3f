"""bench/seeds.py: seeds of a row, trained on several machines, make one row."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import common
import pytest
import seeds

from bitshift.train.config import TrainConfig


def options_of(tmp_path: Path, *more: str) -> argparse.Namespace:
    made = common.arguments("")
    made.add_argument("--work", type=Path, default=tmp_path)
    return made.parse_args(["--json", str(tmp_path / "out.json"), *more])


def run_of(
    folder: Path, seed: int, accuracy: float = 0.875, *, lr: float = 0.1, compile: bool = False, mean: float = 128.0
) -> Path:
    folder.mkdir(parents=True)
    train = TrainConfig(epochs=2, batch_size=8, lr=lr, seed=seed, compile=compile, device="cpu", log_every=7).as_dict()
    about = {"model": "resnet20", "pretrained": str(folder)}
    (folder / "config.json").write_text(
        json.dumps({"train": train, "about": about, "data": {"normalise": {"mean": [mean]}}})
    )
    end = {"kind": "result", "valid_accuracy": accuracy, "valid_loss": 0.5}
    (folder / "metrics.jsonl").write_text('{"kind": "step"}\n' + json.dumps(end) + "\n")
    return folder


def row_of(runs: int) -> common.Row:
    return common.Row(case="a", metric="test accuracy", value=80.0, unit="%", runs=runs)


def test_a_run_says_what_it_reached_and_how_without_its_place(tmp_path: Path) -> None:
    found = seeds.finished(run_of(tmp_path / "run", 3, compile=True))
    assert found == {
        "accuracy": 87.5, "loss": 0.5, "train": {"epochs": 2, "batch_size": 8, "lr": 0.1, "seed": 3, "compile": True},
        "about": {"model": "resnet20", "normalise": {"mean": [128.0]}},
    }  # fmt: skip


def test_a_run_before_its_end_has_no_result(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", 0)
    (run / "metrics.jsonl").write_text('{"kind": "step"}\n')
    assert seeds.finished(run) is None
    assert seeds.finished(tmp_path / "none") is None


def test_seeds_of_another_day_join_the_row(tmp_path: Path) -> None:
    first = options_of(tmp_path)
    assert list(seeds.results(first, "a", {0: run_of(tmp_path / "first", 0), 1: tmp_path / "none"})) == [0]
    common.write(first.json, [row_of(1)], first.extra)
    later = options_of(tmp_path)
    found = seeds.results(later, "a", {0: tmp_path / "none", 1: run_of(tmp_path / "later", 1, 0.5, compile=True)})
    assert {seed: result["accuracy"] for seed, result in found.items()} == {0: 87.5, 1: 50.0}
    assert list(later.extra["each"]["a"]) == ["0", "1"]
    assert seeds.results(options_of(tmp_path, "--quick"), "a", {}) == {}


def test_a_run_here_replaces_the_kept_result_of_its_seed(tmp_path: Path) -> None:
    first = options_of(tmp_path)
    seeds.results(first, "a", {0: run_of(tmp_path / "first", 0)})
    common.write(first.json, [row_of(1)], first.extra)
    found = seeds.results(options_of(tmp_path), "a", {0: run_of(tmp_path / "later", 0, 0.25)})
    assert found[0]["accuracy"] == 25.0


def test_two_recipes_make_no_row(tmp_path: Path) -> None:
    first = options_of(tmp_path)
    seeds.results(first, "a", {0: run_of(tmp_path / "first", 0)})
    common.write(first.json, [row_of(1)], first.extra)
    with pytest.raises(SystemExit, match=r"'a': seed 0 was trained by .*'lr': 0.1.*seed 1 by .*'lr': 0.2"):
        seeds.results(options_of(tmp_path), "a", {1: run_of(tmp_path / "later", 1, lr=0.2)})
    with pytest.raises(SystemExit, match=r"'mean': \[128.0\].*seed 1 by .*'mean': \[33.0\]"):
        seeds.results(options_of(tmp_path), "a", {1: run_of(tmp_path / "pixels", 1, mean=33.0)})


def test_a_row_of_more_seeds_than_are_known_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = options_of(tmp_path)
    common.write(old.json, [row_of(3)])
    run = run_of(tmp_path / "run", 0)
    now = options_of(tmp_path)
    assert seeds.results(now, "a", {0: run}) == {}
    assert "has a row of 3 seeds, of which 1 are known" in caplog.text
    assert list(now.extra["each"]["a"]) == ["0"]
