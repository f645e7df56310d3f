"""The weight-freezing study reads runs, averages layers, keeps JSON and draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import freezing
import pytest
from common import Row, write
from freezing_plots import draw_all


def layer(name: str, count: int, value: float, *, steps: list[float] | None = None) -> dict[str, Any]:
    return {
        "name": name, "count": count, "value_rate": value, "sign_rate": value / 2, "never_flipped": 1 - value,
        "distance": 0.3, "reversal_rate": value / 4, "zeros": 0.0, "update": 1e-3, "steps": steps,
    }  # fmt: skip


def run(folder: Path, *, method: str = "denseshift", fine: bool = True) -> Path:
    """A run directory of a resnet8 as ``fit`` leaves it, with three epochs."""
    folder.mkdir(parents=True)
    names = ["conv1.method", "stack1.conv1.method", "stack2.conv2.method", "linear.weight"]

    def record(kind: str, step: int, **more: Any) -> dict[str, Any]:
        layers = [layer(n, 10 * (i + 1), 0.1 * (i + 1), steps=[1.0, 2.0, 3.0 + i]) for i, n in enumerate(names)]
        return {"kind": kind, "step": step, "layers": layers, **more}

    lines = [record("flip_steps", step) for step in (4, 8, 12)] if fine else []
    lines += [record("flips", 8 * (epoch + 1), epoch=epoch) for epoch in range(3)]
    lines.append({"kind": "result", "step": 24, "valid_accuracy": 0.5, "seconds": 1.0})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    train = {"epochs": 3, "batch_size": 8, "lr": 0.1, "optimizer": "sgd", "schedule": "cosine", "seed": 0}
    (folder / "config.json").write_text(json.dumps({"train": train, "about": {"model": "resnet8", "shift": method}}))
    return folder


def test_a_history_holds_the_inner_layers_weighted_by_their_weights(tmp_path: Path) -> None:
    found = freezing.history(run(tmp_path / "denseshift-3"), "DenseShift")
    assert found is not None
    assert found["layers"] == ["stack1.conv1", "stack2.conv2"]
    first = found["epoch_records"][0]
    assert first["value_rate"] == pytest.approx((20 * 0.2 + 30 * 0.3) / 50)
    assert first["steps"] == pytest.approx([1.0, 2.0, (20 * 4 + 30 * 5) / 50])
    assert [r["step"] for r in found["step_records"]] == [4, 8, 12]
    assert [x["name"] for x in found["last_layers"]] == ["stack1.conv1", "stack2.conv2"]
    assert found["per_epoch"] == 8


def test_an_unfinished_run_is_left_out(tmp_path: Path) -> None:
    folder = run(tmp_path / "float")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    assert freezing.history(folder, "float") is None
    found = freezing.history(folder, "float", unfinished=True)
    assert found is not None
    assert (found["accuracy"], found["title"]) == (None, "float (3 of 3 epochs)")
    assert freezing.figures(found)[0].metric == "flip rate, epoch 1"
    assert freezing.history(tmp_path / "nowhere", "nothing") is None


def test_runs_of_the_accuracy_table_are_called_by_their_method() -> None:
    assert freezing.title_of(Path("runs/deepshift_q-5-seed0")) == "DeepShift-Q 5 bits"
    assert freezing.title_of(Path("runs/float-seed2")) == "float"
    assert freezing.title_of(Path("runs/float_SGD-seed0")) == "float, SGD"


def test_runs_of_the_json_stay_and_are_replaced_where_they_are_found_again(tmp_path: Path) -> None:
    before = [freezing.history(run(tmp_path / name, fine=False), name) for name in ("a", "b")]
    write(tmp_path / "out.json", [], {"study": before})
    changed = run(tmp_path / "again" / "a", fine=True)
    words = ["--train", "--work", str(tmp_path), "--json", str(tmp_path / "out.json"), "--add", str(changed)]
    found = freezing.study(freezing.parser().parse_args(words))
    assert [x["title"] for x in found] == ["a", "b"]
    assert found[0]["step_records"]
    assert not found[1]["step_records"]


def test_a_run_that_has_come_to_its_end_replaces_what_was_kept_of_it(tmp_path: Path) -> None:
    folder = run(tmp_path / "float-seed0")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join(lines[:-2]) + "\n")
    write(tmp_path / "out.json", [], {"study": [freezing.history(folder, "float", unfinished=True)]})
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    words = ["--train", "--work", str(tmp_path), "--json", str(tmp_path / "out.json"), "--add", str(folder)]
    assert [x["title"] for x in freezing.study(freezing.parser().parse_args(words))] == ["float"]


def test_the_kept_file_draws_the_same_figures_again(tmp_path: Path) -> None:
    runs = [
        freezing.history(run(tmp_path / n, fine=n != "uniform-3-seed0"), n)
        for n in ("float", "s3-3", "uniform-3-seed0")
    ]
    rows = [row for found in runs if found for row in freezing.figures(found)]
    assert Row(case="resnet8, float", metric="test accuracy", value=50.0, unit="%") in rows
    write(tmp_path / "kept.json", rows, {"study": runs})
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept["study"] == runs
    drawn = draw_all(kept["study"], tmp_path / "figures")
    assert [path.name for path in drawn] == ["freezing_steps.svg", "freezing_layers.svg", "freezing_epochs.svg"]
    before = drawn[0].read_bytes()
    assert b"<svg" in before
    assert draw_all(runs, tmp_path / "figures")[0].read_bytes() == before  # pyright: ignore[reportArgumentType]


def test_figures_are_drawn_beside_the_json_unless_a_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []
    monkeypatch.setattr(freezing, "draw", lambda _, folder: folders.append(folder))
    (tmp_path / "kept.json").write_text('{"study": []}')
    for words in ([], ["--figures", str(tmp_path / "figures")]):
        freezing.rows(freezing.parser().parse_args(["--draw", str(tmp_path / "kept.json"), *words]))
    own = ["--train", "--work", str(tmp_path), "--json", str(tmp_path / "results" / "out.json")]
    freezing.rows(freezing.parser().parse_args(own))
    assert folders == [tmp_path, tmp_path / "figures", tmp_path / "results"]
