"""Multiplications in front of the graph: a picture's normalisation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bitshift.cli import main
from bitshift.cli.summary import multiplication_words, picture_operations
from bitshift.core import modelfile
from bitshift.core.cost import count
from bitshift.core.fixed import Float32
from bitshift.core.graph import Graph, Node, Value


def with_scale(graph: Graph, scale: float) -> Graph:
    return replace(graph, meta={**graph.meta, "preprocess": {**graph.meta["preprocess"], "scale": [scale]}})


def test_a_scale_that_is_a_power_of_two_multiplies_nothing(small_graph: Callable[..., Graph]) -> None:
    for scale in (2.0**-7, 1 / 64, 1.0, -0.5):
        assert picture_operations(with_scale(small_graph(), scale)) is None
    assert picture_operations(small_graph(meta=False)) is None, "no pictures"


def test_a_graph_of_float_functions_alone_is_named_by_them() -> None:
    x, y = Value("x", (3,), Float32()), Value("y", (3,), Float32())
    graph = Graph(("x",), ("y",), {"x": x, "y": y}, (Node("unary", ("x",), "y", {"fn": "sigmoid"}),), {}, {})
    assert multiplication_words(graph) == "3 functions of floats a sample"
    assert not count(graph).multiplication_free


def test_any_other_scale_is_a_multiplication_a_pixel_wherever_they_are_counted(
    small_graph: Callable[..., Graph], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.safetensors"
    modelfile.save(with_scale(small_graph(), 1 / 58.395), path)
    assert main(["inspect", str(path), "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["multiplications"] == 20
    assert (got["nodes"][0]["name"], got["nodes"][0]["float_multiplications"]) == ("picture", 20)
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "multiplications are left here:\n  picture [preprocess]: 20: (pixel - mean) * scale, 1 of 1 scales" in text
    assert "multiplication-free" not in text
    assert main(["report", str(path), "--output", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "20 multiplications</b> a sample are left" in page
    assert "--normalise pixel" in page
