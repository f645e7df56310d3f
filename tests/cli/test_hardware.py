"""`inspect --hardware`: what it prints and answers, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitshift.cli import main
from bitshift.core import modelfile
from bitshift.core.fixed import Float32
from bitshift.core.graph import Graph, Node, Value
from bitshift.core.hardware import estimate


def test_the_answer_holds_counts_columns_and_the_source_of_each_constant(
    model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(model_file), "--hardware", "--json"]) == 0
    got = json.loads(capsys.readouterr().out)["hardware"]
    made = estimate(modelfile.load(model_file))
    assert got["counts"]["products"] == 60
    assert (got["counts"]["requantisations"], got["counts"]["weight_bits"]) == (3, 180)
    assert [column["name"] for column in got["columns"]] == ["this network", "int8 weights", "int4 weights"]
    assert [column["once_pj"] for column in got["columns"]] == [column.once_pj for column in made.columns]
    assert set(got["constants"]["product_pj"]) == {"pot3d", "int8", "int4"}
    assert all(energy["source"] for energy in got["constants"]["energies"].values())
    assert "multiply-accumulate int8 x pot3d" in got["constants"]["operators"]


def test_a_person_reads_counts_columns_shares_and_sources(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model_file), "--hardware"]) == 0
    text = capsys.readouterr().out
    rows = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert rows["multiply-accumulates int8 x pot3d"].split()[-1] == "60"
    assert rows["weight bits read, each weight once"].split()[-1] == "180"
    assert rows["requantisations"].split()[-1] == "3"
    assert rows["weights"].split()[1:3] == ["23", "B"]
    assert "(2.67x)" in rows["weights"]
    assert "(1.33x)" in rows["weights"]
    own, int8, _ = estimate(modelfile.load(model_file)).columns
    assert f"{own.product_pj / 1e3:,.4g}" in rows["multiply-accumulates"]
    assert f"({int8.product_pj / own.product_pj:.2f}x)" in rows["multiply-accumulates"]
    assert "everything read once: weights " in text
    assert rows["multiply-accumulate int8 x int8"].split()[4:6] == ["0.3", "multiplication,"]
    for what, pj, source in (("addition, 32 bits", "0.1", "Horowitz"), ("shift, 32 bits", "0.13", "ShiftAddLLM")):
        line = next(line for line in text.splitlines() if line.strip().startswith(what))
        assert f" {pj} " in line
        assert source in line


def test_without_the_flag_there_is_no_estimate(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hardware"] is None


def test_a_float_network_is_refused_by_file_node_and_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = {"fc.codes": np.zeros((3, 4), np.uint8)}
    values = {n: Value(n, (size,), Float32()) for n, size in (("x", 4), ("y", 3))}
    node = Node("linear", ("x",), "y", {"format": "pot3d"}, {"codes": "fc.codes"}, source="head.fc")
    modelfile.save(Graph(("x",), ("y",), values, (node,), codes), tmp_path / "f.safetensors")
    assert main(["inspect", str(tmp_path / "f.safetensors"), "--hardware"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for words in ("f.safetensors", "'head.fc' [linear] computes in float32", "--activations 8"):
        assert words in captured.err


def test_a_registry_has_no_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "formats", "--hardware"]) == 2
    assert "'formats' is a registry" in capsys.readouterr().err


def test_weights_that_multiply_are_shown_as_what_they_are(
    tmp_path: Path, small_graph: Callable[..., Graph], capsys: pytest.CaptureFixture[str]
) -> None:
    modelfile.save(small_graph(format="int8", mult=np.array([3, 4, 5])), tmp_path / "m.safetensors")
    assert main(["inspect", str(tmp_path / "m.safetensors"), "--hardware"]) == 0
    text = capsys.readouterr().out
    assert "multiply-accumulates int8 x int8" in text
    assert "as this network does (16-bit multiplier" in text
    assert "(1.00x)" in text
