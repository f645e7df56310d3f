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


def test_the_demos_figures_are_drawn_from_its_result(root: Path) -> None:
    result = {
        "float_accuracy": 0.989, "simulation_accuracy": 0.987, "engine_accuracy": 0.987, "float_bytes": 1720320,
        "file_bytes": 172032, "test_samples": 1000, "differing_outputs": 0, "compared_outputs": 10000,
        "multiplications": 0, "seconds": 123.4,
    }  # fmt: skip
    (root / "demo.json").write_text(json.dumps(result))
    text = tables.rewrite("<!-- demo: demo.json -->\nold\n<!-- /demo -->\n", root)
    assert "| exported file, engine, no torch | 98.70% | 172,032 |" in text
    assert "0 of 10,000 output integers differ; the file is 10.0 times smaller" in text
    assert tables.rewrite(text, root) == text
    (root / "demo.json").write_text("{}")
    with pytest.raises(tables.TableError, match=r"not the result\.json of a demo"):
        tables.rewrite(text, root)


def test_a_demo_that_was_not_measured_stays_empty_but_figures_need_their_file(root: Path) -> None:
    empty = "<!-- demo: none.json -->\n<!-- /demo -->\n"
    assert tables.rewrite(empty, root) == empty
    with pytest.raises(tables.TableError, match=r"none\.json: not the result"):
        tables.rewrite("<!-- demo: none.json -->\n99 %\n<!-- /demo -->\n", root)


def test_energies_are_drawn_with_the_text_of_their_source(root: Path) -> None:
    data = {"sources": {"H": "a paper"}, "energies": {"add": {"pj": 0.1, "what": "addition", "source": "H"}}}
    (root / "hardware.json").write_text(json.dumps(data))
    text = tables.rewrite("<!-- energies: hardware.json -->\n<!-- /energies -->\n", root)
    assert "| addition | 0.1 | a paper |" in text
    assert tables.rewrite(text, root) == text
    (root / "hardware.json").write_text(json.dumps(data | {"sources": {}}))
    with pytest.raises(tables.TableError, match=r"hardware\.json: no energies"):
        tables.rewrite(text, root)


def test_every_table_of_the_docs_is_current() -> None:
    for path in tables.documents():
        text = path.read_text()
        assert tables.rewrite(text) == text, f"{path}: run `make generate`"


def test_rows_are_selected_by_a_text_in_a_field(tmp_path: Path) -> None:
    rows = [
        {
            "case": f"{net}, batch {b}",
            "metric": "time",
            "value": 1.0,
            "unit": "ms",
            "against": "",
            "runs": 1,
            "spread": 0.0,
        }
        for net in ("small net", "large net")
        for b in (1, 16)
    ]
    (tmp_path / "a.json").write_text(json.dumps({"rows": rows}))
    drawn = tables.draw("a.json has=case:large_net has=case:batch_16", tmp_path)
    assert drawn.splitlines()[2:] == ["| large net, batch 16 | time | 1 | ms |  | 1 |"]


def test_an_empty_table_waits_for_its_file(tmp_path: Path) -> None:
    text = "<!-- table: none.json -->\n<!-- /table -->\n"
    assert tables.rewrite(text, tmp_path) == text
    with pytest.raises(tables.TableError, match=r"none\.json"):
        tables.rewrite(text.replace("-->\n<!-- /", "-->\n| old |\n<!-- /", 1), tmp_path)
