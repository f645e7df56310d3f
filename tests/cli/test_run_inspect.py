"""`run` and `inspect` answer what the runtime and the graph say."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitshift import runtime
from bitshift.cli import main
from bitshift.core import modelfile
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node, Value

MakeGraph = Callable[..., Graph]


def answer(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> Any:
    """The JSON on stdout of a verb that succeeds."""
    assert main([*map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_run_prints_the_labels_of_the_largest_outputs(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).normal(size=(5, 1, 4, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    want = runtime.load(model_file).run(x)
    got = answer(capsys, "run", model_file, tmp_path / "x.npy", "--top", "2", "--batch-size", "2")
    assert [r["input"] for r in got["results"]] == [f"{tmp_path / 'x.npy'}[{i}]" for i in range(5)]
    for row, values in zip(got["results"], want, strict=True):
        top = row["outputs"]["y"]["top"]
        order = np.argsort(-values, kind="stable")[:2]
        assert [t["label"] for t in top] == [("cat", "dog", "owl")[i] for i in order]
        assert [t["value"] for t in top] == [float(values[i]) for i in order]


def test_run_answers_a_person_in_a_line_for_each_input(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.jpg"):
        Image.new("L", (5, 4), 200).save(tmp_path / name)
    assert main(["run", str(model_file), str(tmp_path / "a.png"), str(tmp_path / "b.jpg")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if str(tmp_path) in line]
    assert len(lines) == 2
    assert all(any(label in line for label in ("cat", "dog", "owl")) for line in lines)


def test_run_writes_the_outputs_it_is_asked_for(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).normal(size=(5, 1, 4, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    answer(capsys, "run", model_file, tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), runtime.load(model_file).run(x))


def test_run_takes_several_inputs_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = FixedPoint(8, 4)
    values = {n: Value(n, (3,), kind) for n in ("left", "right", "both")}
    graph = Graph(("left", "right"), ("both",), values, (Node("add", ("left", "right"), "both"),), {})
    modelfile.save(graph, tmp_path / "add.safetensors")
    np.save(tmp_path / "a.npy", np.array([[1, 2, 3]], np.int8))
    np.save(tmp_path / "b.npy", np.array([[10, 0, -3]], np.int8))
    got = answer(
        capsys, "run", tmp_path / "add.safetensors", f"left={tmp_path}/a.npy", f"right={tmp_path}/b.npy", "--top", "3"
    )
    top = got["results"][0]["outputs"]["both"]["top"]
    assert {t["index"]: t["value"] for t in top} == {0: 11 / 16, 1: 2 / 16, 2: 0.0}
    assert main(["run", str(tmp_path / "add.safetensors"), f"left={tmp_path}/a.npy"]) == 2
    assert "give each by name: left=FILE right=FILE" in capsys.readouterr().err


@pytest.mark.parametrize("axes", [(), (1,)])
def test_run_names_the_label_of_an_argmax_output(
    axes: tuple[int, ...], tmp_path: Path, small_graph: MakeGraph, capsys: pytest.CaptureFixture[str]
) -> None:
    g = small_graph()
    scores, best = Value("scores", (*axes, 3), g.values["y"].type), Value("best", axes, FixedPoint(32, 0))
    values = {**g.values, "scores": scores, "best": best}
    nodes = (
        *g.nodes, Node("reshape", ("y",), "scores", {"shape": [*axes, 3]}), Node("argmax", ("scores",), "best")
    )  # fmt: skip
    graph = Graph(g.inputs, ("best",), values, nodes, g.constants, g.meta)
    modelfile.save(graph, tmp_path / "argmax.safetensors")
    x = np.random.default_rng(0).normal(size=(1, 4, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    index = int(runtime.load(tmp_path / "argmax.safetensors").run(x[None]).item())
    got = answer(capsys, "run", tmp_path / "argmax.safetensors", tmp_path / "x.npy")
    assert got["results"][0]["outputs"]["best"] == {"index": index, "label": ("cat", "dog", "owl")[index]}


def mapped(node: Node, inputs: tuple[Value, ...], output: Value, **meta: Any) -> Graph:
    """One node."""
    values = {v.name: v for v in (*inputs, output)}
    return Graph(tuple(v.name for v in inputs), (output.name,), values, (node,), {}, meta)


def test_run_prints_a_number_that_is_no_argmax_as_a_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = FixedPoint(8, 2)
    node = Node("reshape", ("x",), "y", {"shape": []})
    graph = mapped(node, (Value("x", (1,), kind),), Value("y", (), kind), labels=["cat", "dog", "eel"])
    modelfile.save(graph, tmp_path / "regression.safetensors")
    np.save(tmp_path / "x.npy", np.array([[2.75], [-1.5]]))
    got = answer(capsys, "run", tmp_path / "regression.safetensors", tmp_path / "x.npy")
    assert [r["outputs"]["y"] for r in got["results"]] == [{"value": 2.75}, {"value": -1.5}]
    assert main(["run", str(tmp_path / "regression.safetensors"), str(tmp_path / "x.npy")]) == 0
    text = capsys.readouterr().out
    assert "2.75" in text
    assert "eel" not in text


@pytest.mark.parametrize("axes", [(2, 3), (4,)])
def test_run_prints_shape_and_range_of_a_map_of_classes(
    axes: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = Value("x", (*axes, 3), FixedPoint(8, 2)), Value("y", axes, FixedPoint(32, 0))
    modelfile.save(mapped(Node("argmax", ("x",), "y"), (x,), y, labels=["a", "b", "c"]), tmp_path / "map.safetensors")
    scores = np.zeros((1, *axes, 3), np.int8)
    scores[..., 1] = 1
    scores[(0, *[0] * len(axes), 2)] = 2
    np.save(tmp_path / "x.npy", scores)
    got = answer(capsys, "run", tmp_path / "map.safetensors", tmp_path / "x.npy")
    assert got["results"][0]["outputs"]["y"] == {"shape": list(axes), "min": 1.0, "max": 2.0}


def test_one_array_file_for_several_outputs_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {n: Value(n, (3,), FixedPoint(8, 4)) for n in "xyz"}
    nodes = (Node("add", ("x", "x"), "y"), Node("add", ("x", "y"), "z"))
    modelfile.save(Graph(("x",), ("y", "z"), values, nodes, {}), tmp_path / "two.safetensors")
    np.save(tmp_path / "x.npy", np.zeros((1, 3), np.int8))
    command = ["run", str(tmp_path / "two.safetensors"), str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")]
    assert main(command) == 2
    captured = capsys.readouterr()
    assert "--output writes one array; this model has the outputs y, z" in captured.err
    assert captured.out == ""


def test_run_writes_a_chrome_trace_of_every_step(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitshift._engine")
    x = np.random.default_rng(0).normal(size=(5, 1, 4, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    trace_file = tmp_path / "trace.json"
    answer(
        capsys, "run", model_file, tmp_path / "x.npy", "--profile", trace_file, "--threads", "2", "--batch-size", "3"
    )
    trace = json.loads(trace_file.read_text())
    steps = runtime.load(model_file, threads=2).steps
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    tracks = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert trace["otherData"].items() >= {"samples": 3, "threads": 2, "runs": 10}.items()
    assert {e["args"]["value"] for e in spans} == {step.name for step in steps}
    assert {e["tid"] for e in spans} == set(tracks) <= {0, 1}
    for e in spans:
        step = next(s for s in steps if s.name == e["args"]["value"] and s.op == e["cat"])
        assert (e["args"]["kernel"], e["args"]["isa"]) == (step.kernel, step.isa)
        assert e["args"]["operations"] == step.operations * e["args"]["samples"]
        assert e["ts"] >= 0
        assert e["dur"] >= 0
        assert e["args"]["GOP/s"] >= 0
    for tid in tracks:  # a thread does one thing at a time
        own = sorted((e["ts"], e["ts"] + e["dur"]) for e in spans if e["tid"] == tid)
        assert all(end <= begin + 1e-3 for (_, end), (begin, _) in pairwise(own))
    assert main(["run", str(model_file), str(tmp_path / "x.npy"), "--profile", str(trace_file)]) == 0
    captured = capsys.readouterr()
    assert "slowest steps" in captured.out
    assert f"wrote {trace_file}" in captured.err


def test_a_profile_of_the_reference_is_refused(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 4, 5), np.float32))
    command = ["run", str(model_file), str(tmp_path / "x.npy"), "--backend", "reference", "--threads", "2"]
    assert main([*command, "--profile", str(tmp_path / "t.json")]) == 2
    captured = capsys.readouterr()
    assert "only the engine knows its steps" in captured.err
    assert captured.out == ""


def test_inspect_counts_what_the_file_holds(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = answer(capsys, "inspect", model_file)
    graph = modelfile.load(model_file)
    (layer,) = got["layers"]
    assert (layer["name"], layer["format"], layer["weights"], layer["packed_bytes"]) == ("head.fc", "pot3d", 60, 24)
    levels = np.array(layer["levels"])
    codes = graph.constants["fc.codes"]
    from bitshift.core.formats import FORMATS

    decoded = FORMATS["pot3d"].decode(codes)
    assert layer["counts"] == [int((decoded == level).sum()) for level in levels]
    assert got["bytes"] == model_file.stat().st_size
    assert sum(got["constants"].values()) + got["header_bytes"] == got["bytes"]
    assert got["multiplications"] == 0


def test_inspect_says_that_a_file_is_multiplication_free(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model_file)]) == 0
    text = capsys.readouterr().out
    assert "multiplication-free" in text
    assert "three animals" in text
    assert "head.fc" in text


def test_inspect_names_the_place_and_kind_of_every_multiplication(
    tmp_path: Path, small_graph: MakeGraph, capsys: pytest.CaptureFixture[str]
) -> None:
    modelfile.save(small_graph(format="int8", mult=np.array([3, 4, 5])), tmp_path / "m.safetensors")
    got = answer(capsys, "inspect", tmp_path / "m.safetensors")
    node = next(n for n in got["nodes"] if n["name"] == "head.fc")
    assert got["multiplications"] == node["multiplications"] == 60 + 2
    assert "weights of int8" in node["where"]
    assert "give the layer a shift format" in node["where"]
    assert "2 of 3 output multipliers" in node["where"]
    assert "without --multiplier" in node["where"]
    assert "--option scale=pot, of the method uniform step=pot" in node["where"]
    assert main(["inspect", str(tmp_path / "m.safetensors")]) == 0
    assert "multiplications are left here:\n  head.fc [linear]: 62" in capsys.readouterr().out


def test_inspect_prints_the_graph_when_asked(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model_file), "--graph"]) == 0
    assert modelfile.load(model_file).pretty() in capsys.readouterr().out


@pytest.mark.parametrize("registry", ["formats", "ops", "methods", "models", "recipes", "backends"])
def test_inspect_lists_a_whole_registry(registry: str, capsys: pytest.CaptureFixture[str]) -> None:
    from bitshift.backends import BACKENDS
    from bitshift.core.formats import FORMATS
    from bitshift.core.ops import OPS

    rows = answer(capsys, "inspect", registry)[registry]
    names = {row[registry.removesuffix("s")] for row in rows}
    if registry in ("methods", "models", "recipes"):
        from bitshift.nn.method import METHODS
        from bitshift.train.models import MODELS
        from bitshift.train.recipes import RECIPES

        assert names == set({"methods": METHODS, "models": MODELS, "recipes": RECIPES}[registry])
    else:
        assert names == set({"formats": FORMATS, "ops": OPS, "backends": BACKENDS}[registry])
    assert main(["inspect", registry]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in names)
