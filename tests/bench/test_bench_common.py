"""bench/common.py: the JSON contract, paired timing, equality before timing."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import common
import numpy as np
import pytest
import tables


def test_paired_timing_runs_every_candidate_once_a_round_after_the_warm_up() -> None:
    calls: list[str] = []
    times = common.paired({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=2)
    assert (calls.count("a"), calls.count("b")) == (5, 5)
    assert [sorted(calls[i : i + 2]) for i in range(0, 10, 2)] == [["a", "b"]] * 5
    assert {calls[i] for i in range(0, 10, 2)} == {"a", "b"}
    assert [len(t.seconds) for t in times.values()] == [3, 3]


def test_a_ratio_is_taken_within_each_round() -> None:
    slow, fast = common.Timing((2.0, 40.0, 6.0)), common.Timing((1.0, 10.0, 3.0))
    row = fast.ratio(slow, case="conv", against="slow")
    assert (row.value, row.runs, row.unit, row.against) == (2.0, 3, "x", "slow")
    assert row.spread == 1.0


def test_a_timing_row_is_the_median_in_its_unit() -> None:
    row = common.Timing((0.001, 0.002, 0.004)).row("conv")
    assert (row.value, row.unit, row.spread) == (2.0, "ms", 1.5)


def test_equal_arrays_pass() -> None:
    common.check_equal("conv", np.arange(3), np.arange(3))


@pytest.mark.parametrize(
    ("got", "reason"),
    [
        (np.array([0, 1, 3, 4]), r"conv: 2 of 4 values differ, first at \(2,\): expected 2, got 3"),
        (np.arange(4, dtype=np.int8), "got int8"),
        (np.arange(5), r"got int64\(5,\)"),
        (np.array([[0, 1, 2, 3]]), r"got int64\(1, 4\)"),
    ],
)
def test_a_difference_stops_the_benchmark_by_name(got: np.ndarray, reason: str) -> None:
    with pytest.raises(SystemExit, match=reason):
        common.check_equal("conv", np.arange(4), got)


@pytest.mark.parametrize("changes", [{"unit": ""}, {"value": float("nan")}, {"spread": -1.0}, {"runs": 0}])
def test_a_row_that_says_nothing_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        common.Row(**{"case": "conv", "metric": "time", "value": 1.0, "unit": "ms", **changes})


def test_main_writes_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "deep" / "out.json"
    monkeypatch.setattr(sys, "argv", ["x.py", "--json", str(out), "--quick"])

    def rows(options: argparse.Namespace) -> list[common.Row]:
        return [common.Row(case="quick", metric="flag", value=float(options.quick), unit="x")]

    common.main("what it measures", rows)
    document = json.loads(out.read_text())
    assert set(document) == {"machine", "rows"}
    assert {"cpu", "cores", "threads", "versions", "commit"} <= set(document["machine"])
    assert document["rows"] == tables.load(out)
    assert document["rows"][0]["value"] == 1.0
    assert [p.name for p in out.parent.iterdir()] == ["out.json"]


def test_rows_of_earlier_runs_are_there_but_not_for_a_quick_one(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.json", [common.Row(case=case, metric="time", value=2.0, unit="ms") for case in "ab"]
    options = common.arguments("").parse_args(["--json", str(out)])
    assert common.kept(options) == []
    common.write(out, rows)
    assert common.kept(options) == rows
    assert common.kept(common.arguments("").parse_args(["--json", str(out), "--quick"])) == []
    assert common.kept(common.arguments("").parse_args([])) == []
    new = [common.Row(case=case, metric="m", value=9.0, unit="s") for case in ("z", rows[0].case)]
    both = common.with_kept(options, new, lambda case: 0 if case == "z" else 1)
    assert both == [new[0], rows[1], new[1]]


def test_a_benchmark_without_rows_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py"])
    with pytest.raises(SystemExit, match="measured nothing"):
        common.main("", lambda _: [])


def test_the_command_names_no_place_of_this_machine() -> None:
    words = ["/home/me/bench/engine.py", "/data/cifar", "--json", "docs/results/a b.json"]
    assert common._command(words) == "python bench/engine.py cifar --json 'docs/results/a b.json'"


def test_the_command_of_a_benchmark_in_a_folder_of_its_own_names_the_folder() -> None:
    assert common._command([str(common.ROOT / "bench" / "hardware" / "x.py")]) == "python bench/hardware/x.py"


def test_data_that_are_not_there_end_a_benchmark_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitshift.train.data import open_data

    monkeypatch.setattr(sys, "argv", ["x.py"])
    with pytest.raises(SystemExit, match=r"^x\.py: .*nowhere: no such file or folder"):
        common.main("", lambda _: [open_data(tmp_path / "nowhere")])  # pyright: ignore[reportArgumentType]
    with pytest.raises(SystemExit, match=r"^x\.py: no such file or folder: .*none\.th"):
        common.main("", lambda _: [(tmp_path / "none.th").read_bytes()])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="could not convert"):
        common.main("", lambda _: [float("x")])  # pyright: ignore[reportArgumentType]
