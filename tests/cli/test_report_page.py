"""The page: well-formed, self-contained, and true to its data."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from bitshift.cli.errors import CliError
from bitshift.cli.report import comparison
from bitshift.cli.report.collect import from_model
from bitshift.cli.report.data import (
    Comparison,
    Energy,
    Evaluation,
    History,
    Operations,
    ReportData,
    Tile,
)
from bitshift.cli.report.history import read_history, thin
from bitshift.cli.report.page import render
from bitshift.cli.summary import WeightLayer
from bitshift.core import modelfile
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node, Value
from bitshift.core.ops import Cost

NASTY = "<script>alert('x')</script> & \"q\""
FULL = ReportData(
    title=NASTY,
    subtitle="LeNet",
    made="2026-01-01",
    tiles=[Tile(value="97.80 %", name="accuracy", below="float twin 98.10 %")],
    comparison=[
        Comparison(name="float32", accuracy=0.981, weight_bytes=245000, multiplications=1200000, energy_pj=5.5e6),
        Comparison(name="uniform", command="bitshift report runs/x --measure"),
        Comparison(name="ours", accuracy=0.978, weight_bits="pot3d", multiplications=0, ours=True),
    ],
    histories=[
        History(
            name="ours", step_loss=[(10, 2.0), (20, math.nan), (30, 1.0)], train_accuracy=[(1, 0.5), (2, 0.6)],
            valid_loss=[(1, 1.5), (2, 1.2)], valid_accuracy=[(1, 0.55), (2, 0.66)],
            value_flips={"conv1": [(1, 0.125), (2, 0.0)], NASTY: [(2, 0.25)]}, sign_flips={"conv1": [(2, 0.0)]},
        )
    ],
    layers=[
        WeightLayer(name="conv1", op="conv", format="pot2d", shape=(2, 3), packed_bytes=4, levels=(-2, -1, 1, 2),
              counts=(1, 2, 3, 0)),
        WeightLayer(name="head", op="linear", format="float32", shape=(2, 5), packed_bytes=40, levels=(), counts=()),
    ],
    sizes=[("packed weight codes", 4, "")],
    operations=[Operations(name="head", op="linear", shifts=1, adds=2, multiplications=10, where="weights kept float")],
    energy=Energy(parts={"ours": {"shifts": 3.0}, "float32": {"multiplications": 37.0}}, source="Table 1 of a paper"),
    evaluation=Evaluation(title="Test set", labels=("cat", "dog"), confusion=((9, 1), (2, 8))),
    graph_text="input x\noutput y",
    configuration={"train": {"epochs": 2}},
)  # fmt: skip


def tree(page: str) -> ET.Element:
    doctype, _, rest = page.partition("\n")
    assert doctype == "<!DOCTYPE html>"
    return ET.fromstring(rest)


class Links(HTMLParser):
    """Every address that a browser would load or follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            (tag, v or "") for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "xlink:href")
        ]
        if tag in ("script", "link", "iframe", "object", "embed", "img"):
            self.found.append((tag, "element"))


@pytest.mark.parametrize("data", [FULL, ReportData(title="bare", subtitle="", made="")], ids=["full", "bare"])
def test_the_page_is_well_formed_and_loads_nothing(data: ReportData) -> None:
    page = render(data)
    tree(page)
    links = Links()
    links.feed(page)
    assert all(tag == "a" and target.startswith("#") for tag, target in links.found)
    assert "url(" not in page
    assert "@import" not in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page


def test_every_link_inside_the_page_has_its_section() -> None:
    page = render(FULL)
    targets = set(re.findall(r'href="#(\w+)"', page))
    assert targets == {
        "comparison", "curves", "levels", "flips", "sizes", "operations", "confusion", "graph", "configuration"
    }  # fmt: skip
    assert all(f'<section id="{t}">' in page for t in targets)


def test_markup_in_names_is_shown_and_not_run() -> None:
    page = render(FULL)
    assert "<script" not in page
    assert NASTY in "".join(tree(page).itertext())


def test_the_rows_of_the_comparison_show_their_figures() -> None:
    text = " ".join("".join(tree(render(FULL)).itertext()).split())
    for figure in ("98.10 %", "97.80 %", "245.0 kB", "1.2M", "5.5 µJ", "Table 1 of a paper"):
        assert figure in text


def test_an_unmeasured_row_names_the_command_that_measures_it() -> None:
    text = "".join(tree(render(FULL)).itertext())
    assert "not measured; bitshift report runs/x --measure measures it" in text


def test_confusion_accuracy_is_the_share_of_the_diagonal() -> None:
    assert FULL.evaluation is not None
    assert FULL.evaluation.accuracy == 17 / 20
    text = "".join(tree(render(FULL)).itertext())
    assert "85.00 % of 20 right" in text
    assert "dog taken for cat (2)" in text


def test_multiplications_left_are_named_and_none_is_said() -> None:
    assert "weights kept float" in render(FULL)
    free = replace(FULL, operations=[Operations(name="fc", op="linear", shifts=5, adds=5, multiplications=0)])
    assert "No multiplication</b> is executed" in render(free)
    assert "No multiplication</b> is executed" not in render(FULL)


def test_a_section_without_data_says_how_to_get_it() -> None:
    page = render(ReportData(title="t", subtitle="", made="", missing={"flips": "train two epochs"}))
    assert '<section id="flips"' in page
    assert "train two epochs" in page
    assert '<section id="levels"' not in page


def test_the_page_of_a_model_file_shows_its_layers(model_file: Path) -> None:
    data = from_model(model_file)
    assert data.title == "three animals"
    assert [(x.name, x.format, x.weights) for x in data.layers] == [("head.fc", "pot3d", 60)]
    assert sum(data.layers[0].counts) == 60
    assert sum(size for name, size, _ in data.sizes if name != "file") == model_file.stat().st_size
    assert "head.fc" in render(data)


def test_the_page_says_of_a_file_what_is_counted_and_not_what_its_name_says(
    tmp_path: Path, small_graph: Callable[..., Graph]
) -> None:
    for format, words in (("pot3d", "multiplication-free"), ("int8", "60 multiplications a sample")):
        path = tmp_path / f"{format}.safetensors"
        modelfile.save(small_graph(format=format), path)
        assert from_model(path).subtitle == f"{path}, {words}"


def test_shared_weights_are_stored_once_in_every_sum_of_the_page(tmp_path: Path) -> None:
    """Two layers of 4 weights each with one array of codes: 16 bytes as float32, 2 packed."""
    values = {name: Value(name, (2,), FixedPoint(8, 7)) for name in "xyz"}
    nodes = [
        Node("linear", (a,), b, {"format": "pot3d"}, {"codes": "codes", "offset": f"offset.{b}"}, source=b)
        for a, b in ("xy", "yz")
    ]
    constants = {"codes": np.zeros((2, 2), np.uint8), "offset.y": np.array([1, 2]), "offset.z": np.array([3, 4])}
    path = tmp_path / "tied.safetensors"
    modelfile.save(Graph(("x",), ("z",), values, tuple(nodes), constants, {}), path)
    data = from_model(path)
    assert [layer.shared for layer in data.layers] == [False, True]
    assert data.sizes[-1][2] == "float32 weights alone would be 16 B"
    assert data.tiles[0].below == f"{16 / path.stat().st_size:.1f} x smaller than its float32 weights"
    assert re.search(r"<td[^>]*>all layers</td>(<td[^>]*></td>){3}<td[^>]*>4</td>", render(data))


def lines(path: Path, *objects: object) -> Path:
    path.write_text("".join(json.dumps(o) + "\n" for o in objects))
    return path


def flips(epoch: int, value: float | None, sign: float | None) -> dict[str, object]:
    layer = {"name": "conv1.method", "count": 8, "value_rate": value, "sign_rate": sign}
    return {"kind": "flips", "step": epoch, "label": epoch, "layers": [layer], "mean": layer}


def test_curves_are_read_by_kind_and_epochs_count_from_one(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "metrics.jsonl",
        {"kind": "step", "step": 5, "loss": 2.5},
        {"kind": "epoch", "epoch": 0, "train_accuracy": 0.5, "valid_accuracy": 0.25, "valid_loss": None},
        flips(0, None, None),
        {"kind": "step", "step": 10, "loss": None},
        {"kind": "epoch", "epoch": 1, "train_accuracy": 0.75},
        flips(1, 0.125, 0.0),
        {"kind": "something new"},
    )
    history = read_history("ours", path)
    assert history.name == "ours"
    assert history.step_loss[0] == (5, 2.5)
    assert math.isnan(history.step_loss[1][1])
    assert history.train_accuracy == [(1, 0.5), (2, 0.75)]
    assert history.valid_accuracy == [(1, 0.25)]
    assert history.value_flips == {"conv1": [(2, 0.125)]}
    assert history.sign_flips == {"conv1": [(2, 0.0)]}


def test_a_line_cut_off_by_a_kill_is_left_out_and_damage_inside_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", {"kind": "step", "step": 1, "loss": 1.0})
    path.write_text(path.read_text() + '{"kind": "ste')
    assert read_history("a", path).step_loss == [(1, 1.0)]
    path.write_text("no json\n" + path.read_text())
    with pytest.raises(CliError, match="line 1: not JSON"):
        read_history("a", path)


def test_long_curves_are_thinned_to_means() -> None:
    points = [(float(i), float(i % 2)) for i in range(4000)]
    thinned = thin(points)
    assert len(thinned) == 400
    assert all(y == 0.5 for _, y in thinned)
    assert thinned[-1][0] == 3999.0


def measured(kind: comparison.Kind, accuracy: float) -> comparison.Measured:
    cost = Cost(shifts=3, adds=4)
    return comparison.Measured(
        kind=kind, name=kind, accuracy=accuracy, samples=10, weight_bits="pot3d", weight_bytes=9, cost=cost
    )


def test_measured_rows_survive_the_file_in_the_order_of_the_table(tmp_path: Path) -> None:
    comparison.add(tmp_path, measured("ours", 0.5))
    comparison.add(tmp_path, measured("float", 0.75))
    comparison.add(tmp_path, measured("ours", 0.625))
    assert comparison.read(tmp_path) == [measured("float", 0.75), measured("ours", 0.625)]


def test_the_table_has_every_kind_and_says_which_are_not_measured() -> None:
    names = {"float": "f", "int8": "i", "uniform": "u", "ours": "o"}
    rows = comparison.table([measured("ours", 0.5)], "do it", names)
    assert [(r.name, r.accuracy, r.command) for r in rows] == [
        ("f", None, "do it"), ("i", None, "do it"), ("u", None, "do it"), ("ours", 0.5, "")
    ]  # fmt: skip
    assert (rows[3].shifts, rows[3].adds, rows[3].multiplications) == (3, 4, 0)


def test_a_damaged_comparison_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / comparison.FILE).write_text('{"rows": [{}]}')
    with pytest.raises(CliError, match="delete it and measure again"):
        comparison.read(tmp_path)
