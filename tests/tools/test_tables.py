"""tools/tables.py: what it draws, what it leaves alone, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tables


def row(**changes: object) -> dict[str, object]:
    base = {"case": "conv", "metric": "time", "value": 1.5, "unit": "ms", "against": "", "runs": 9, "spread": 0.0}
    return {**base, **changes}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = [row(), row(metric="size", value=12345, unit="B", runs=1), row(case="linear", value=0.012345, spread=0.001)]
    (tmp_path / "r.json").write_text(json.dumps({"machine": {}, "rows": rows}))
    return tmp_path


def test_a_plain_table_has_a_line_a_row(root: Path) -> None:
    assert tables.draw("r.json", root) == (
        "| case | metric | value | unit | against | runs |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| conv | time | 1.500 | ms |  | 9 |\n"
        "| conv | size | 12,345 | B |  | 1 |\n"
        "| linear | time | 0.01235 ± 0.0010 | ms |  | 9 |\n"
    )


def test_a_grid_has_a_line_a_case_and_a_column_a_metric(root: Path) -> None:
    assert tables.draw("r.json rows=case columns=metric digits=3", root) == (
        "| case | time [ms] | size [B] |\n"
        "| --- | --- | --- |\n"
        "| conv | 1.50 | 12,345 |\n"
        "| linear | 0.0123 ± 0.0010 |  |\n"
    )


def test_where_selects_rows(root: Path) -> None:
    assert tables.draw("r.json where=case:linear", root).count("\n") == 3


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("missing.json", "not a benchmark's JSON"),
        ("r.json colour=red", "unknown option 'colour=red'"),
        ("r.json rows=case", "go together"),
        ("r.json rows=case columns=speed", "unknown field 'speed'"),
        ("r.json where=case:pool", "no row matches"),
        ("r.json rows=unit columns=metric", "two rows for unit 'ms' and metric 'time'"),
    ],
)
def test_a_bad_table_comment_is_refused_by_name(root: Path, spec: str, reason: str) -> None:
    with pytest.raises(tables.TableError, match=reason):
        tables.draw(spec, root)


def test_a_row_that_breaks_the_contract_is_refused(root: Path) -> None:
    (root / "r.json").write_text(json.dumps({"machine": {}, "rows": [{"case": "conv"}]}))
    with pytest.raises(tables.TableError, match="the contract has"):
        tables.draw("r.json", root)


def test_rewriting_twice_changes_nothing_and_code_blocks_stay(root: Path) -> None:
    block = "<!-- table: r.json where=case:linear -->\nold\n<!-- /table -->"
    text = f"before\n\n{block}\n\n```\n{block}\n```\nafter\n"
    once = tables.rewrite(text, root)
    assert once.count("old") == 1
    assert "| linear | time |" in once
    assert once.endswith(f"```\n{block}\n```\nafter\n")
    assert tables.rewrite(once, root) == once


def test_every_table_of_the_docs_is_current() -> None:
    for path in tables.documents():
        text = path.read_text()
        assert tables.rewrite(text) == text, f"{path}: run `make generate`"
