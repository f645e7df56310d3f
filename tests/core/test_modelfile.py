"""The model file's graph: one fault each, and files on disk."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitshift.core.container import read_container, write_container
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph, GraphError
from bitshift.core.modelfile import ModelFileError, dumps, load, loads, save
from bitshift.core.ops import OPS
from strategies import Builder, Seeded, one_op, random_case

S8 = FixedPoint(8, 7)


def small(**meta: Any) -> Graph:
    """A linear layer of 3-bit codes with every constant, and a table."""
    b = Builder()
    x = b.input((4,), S8)
    consts = {
        "codes": np.arange(8, dtype=np.uint8).reshape(2, 4),
        "offset": np.array([5, -(2**35)]),
        "mult": np.array([1, 300], dtype=np.int32),
        "shift": np.array([3, 4], dtype=np.uint8),
    }
    y = b.node("linear", [x], (2,), S8, {"format": "pot3d", "clamp": [0, 127]}, consts, "fc")
    t = b.node("table", [y], (2,), S8, {}, {"table": np.arange(-128, 128).astype(np.int8)})
    return b.graph([t], meta)


def edited(graph: Graph, edit: Callable[[dict[str, Any], dict[str, np.ndarray]], Any]) -> bytes:
    """The file of ``graph`` after ``edit`` changed the JSON tree or the tensors."""
    metadata, tensors = read_container(dumps(graph))
    tree, tensors = json.loads(metadata["graph"]), dict(tensors)
    edit(tree, tensors)
    return write_container({**metadata, "graph": json.dumps(tree)}, tensors)


def refuses(edit: Callable[[dict[str, Any], dict[str, np.ndarray]], Any], match: str) -> None:
    with pytest.raises(ModelFileError, match=match):
        loads(edited(small(), edit))


def test_the_unedited_file_is_read() -> None:
    graph = loads(edited(small(), lambda tree, tensors: None))
    assert graph.nodes[0].attrs["clamp"] == (0, 127)
    assert graph.const(graph.nodes[0], "offset").dtype == np.int64
    assert graph.const(graph.nodes[0], "mult").dtype == np.int32


def test_stored_dtypes_are_the_narrowest() -> None:
    _, tensors = read_container(dumps(small()))
    assert {n: t.dtype.name for n, t in tensors.items()} == {
        "v1.codes": "uint8",
        "v1.offset": "int64",
        "v1.mult": "int32",
        "v1.shift": "uint8",
        "v2.table": "int8",
    }
    narrow = edited(small(), lambda tree, t: t.update({"v1.offset": np.array([5, 6], np.int32)}))
    assert loads(narrow).constants["v1.offset"].dtype == np.int64
    assert read_container(dumps(loads(narrow)))[1]["v1.offset"].dtype == np.int32


def test_constants_that_equal_their_default_are_left_out() -> None:
    b = Builder()
    x = b.input((2,), S8)
    consts = {
        "codes": np.zeros((1, 2), np.uint8),
        "offset": np.zeros(1, np.int64),
        "mult": np.ones(1, np.int32),
        "shift": np.zeros(1, np.uint8),
    }
    y = b.node("linear", [x], (1,), FixedPoint(32, 7), {"format": "pot2"}, consts)
    assert set(read_container(dumps(b.graph([y])))[1]) == {"v1.codes"}


def node(tree: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return tree["nodes"][index]


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda g, t: g.pop("meta"), "exactly inputs, outputs"),
        (lambda g, t: g.update(more=1), "exactly inputs, outputs"),
        (lambda g, t: g.update(inputs="v0"), "inputs: must be a list"),
        (lambda g, t: g.update(inputs=[]), "not computed before"),
        (lambda g, t: g.update(outputs=[]), "at least one"),
        (lambda g, t: g.update(outputs=["v2", "v2"]), "twice"),
        (lambda g, t: g.update(outputs=["nothing"]), "never computed"),
        (lambda g, t: g.update(values=[]), "values must be an object"),
        (lambda g, t: g["values"].update(extra={"shape": [1], "type": "f32"}), "never computed"),
        (lambda g, t: g["values"].pop("v0"), "no description"),
        (lambda g, t: g["values"]["v0"].update(shape=[0]), "shape"),
        (lambda g, t: g["values"]["v0"].update(shape=[1] * 7), "at most 6"),
        (lambda g, t: g["values"]["v0"].update(shape=[2**16, 2**16]), "more than"),
        (lambda g, t: g["values"]["v0"].update(shape=[4, 1]), "input's shape"),
        (lambda g, t: g["values"]["v0"].update(type="s8"), "type 's8'"),
        (lambda g, t: g["values"]["v0"].update(type="s08.7"), "type 's08.7'"),
        (lambda g, t: g["values"]["v0"].update(type="s33.7"), "33 bits"),
        (lambda g, t: g["values"]["v0"].update(type="s8.65"), "frac 65"),
        (lambda g, t: g["values"]["v0"].update(type="s8.-0"), "type 's8.-0'"),
        (lambda g, t: g["values"]["v0"].update(type=8), "type"),
        (lambda g, t: g["values"]["v0"].update(extra=8), "exactly shape and type"),
        (lambda g, t: g["values"].update({"ü": {"shape": [1], "type": "f32"}}), "printable ASCII"),
        (lambda g, t: node(g).update(op="conv3d"), "unknown op 'conv3d'"),
        (lambda g, t: node(g).update(op="liner"), "did you mean 'linear'"),
        (lambda g, t: node(g).update(op=1), "op and source"),
        (lambda g, t: node(g).update(extra=1), "exactly attrs"),
        (lambda g, t: node(g).update(inputs=["v9"]), "not computed before"),
        (lambda g, t: node(g).update(output="v0"), "written twice"),
        (lambda g, t: node(g)["attrs"].update(extra=1), "set of attributes"),
        (lambda g, t: node(g)["attrs"].pop("format"), "the node's format is another"),
        (lambda g, t: node(g)["attrs"].update(format="pot3"), "the node's format is another"),
        (lambda g, t: node(g)["attrs"].update(clamp=[0.0, 127]), "clamp"),
        (lambda g, t: node(g)["attrs"].update(clamp=[0, 128]), "clamp"),
        (lambda g, t: node(g)["attrs"].update(clamp=[5, 4]), "lo <= hi"),
        (lambda g, t: node(g)["attrs"].update(clamp=None), "clamp"),
        (lambda g, t: node(g)["consts"].update(colour="v1.mult"), "unknown role"),
        (lambda g, t: node(g)["consts"].update(scale="v1.mult"), "scale"),
        (lambda g, t: node(g)["consts"].update(shift="v1.none"), "is not in the file"),
        (lambda g, t: node(g)["consts"].update(shift="v1.codes"), "exactly the codes"),
        (lambda g, t: node(g)["consts"].pop("codes"), "used by no node"),
        (lambda g, t: node(g)["consts"].pop("shift"), "'v1.shift' is used by no node"),
        (lambda g, t: t.update(more=np.zeros(1, np.uint8)), "'more' is used by no node"),
        (lambda g, t: t.pop("v1.codes"), "no tensor"),
        (lambda g, t: t.update({"v1.shift": np.zeros(2, np.int32)}), r"\(shift\) is int32: allowed is uint8"),
        (lambda g, t: t.update({"v1.shift": np.full(2, 63, np.uint8)}), "shift is 63 to 63; allowed: 0 to 62"),
        (lambda g, t: t.update({"v1.shift": np.zeros(3, np.uint8)}), r"shift is uint8 of shape \[3\]"),
        (lambda g, t: t.update({"v1.mult": np.zeros(2, np.int32)}), "mult is 0 to 0; allowed: 1 to 65535"),
        (lambda g, t: t.update({"v1.mult": np.full(2, 65536, np.int32)}), "mult is 65536"),
        (lambda g, t: t.update({"v1.mult": np.ones(2, np.int16)}), "is int16"),
        (lambda g, t: t.update({"v1.offset": np.zeros((2, 1), np.int64)}), "offset is int64 of shape"),
        (lambda g, t: t.update({"v2.table": np.zeros(256, np.uint8)}), r"\(table\) is uint8: allowed is int8"),
        (lambda g, t: t.update({"v2.table": np.zeros(255, np.int8)}), "table is int8 of shape"),
        (lambda g, t: g["codes"].update({"v1.codes": {"format": "pot9", "shape": [2, 4]}}), "unknown format 'pot9'"),
        (lambda g, t: g["codes"].update({"v1.codes": {"format": "pot3d", "shape": [2, 6]}}), r"uint8 of shape \[6\]"),
        (lambda g, t: g["codes"].update({"v1.codes": {"format": "pot3d", "shape": []}}), "1 to 8 axes"),
        (lambda g, t: g["codes"].update({"v1.codes": {"format": "pot3d", "shape": [2**31 - 1, 9]}}), "at most"),
        (lambda g, t: g["codes"].pop("v1.codes"), "exactly the codes"),
        (lambda g, t: t.update({"v1.codes": np.zeros(3, np.uint8)}), r"uint8 of shape \[4\]"),
        (lambda g, t: t.update({"v1.codes": np.full(4, 255, np.uint8)}), "padding bit"),
        (lambda g, t: g.update(meta={"colour": "red"}), "with the keys labels"),
        (lambda g, t: g.update(meta={"labels": [1]}), "list of strings"),
        (lambda g, t: g.update(meta={"name": 3}), "name must be a string"),
        (lambda g, t: g.update(meta=[]), "meta: allowed is an object"),
        (lambda g, t: g.update(meta=3), "meta: allowed is an object"),
        (lambda g, t: g.update(meta={"preprocess": 3}), "preprocess: needs exactly"),
    ],
)
def test_one_fault_is_refused_by_name(edit: Callable[..., Any], match: str) -> None:
    refuses(edit, match)


def test_reserved_codes_are_refused() -> None:
    b = Builder()
    x = b.input((2,), S8)
    y = b.node("linear", [x], (1,), FixedPoint(32, 7), {"format": "pot2"}, {"codes": np.array([[0, 1]], np.uint8)})
    with pytest.raises(ModelFileError, match=r"codes 'v1.codes': .*reserved code 2 at index \(0, 1\)"):
        loads(edited(b.graph([y]), lambda tree, t: t.update({"v1.codes": np.array([0b1000], np.uint8)})))


PREPROCESS = {"kind": "image", "channels": 1, "size": [4, 4], "mean": [128], "scale": [0.0078125]}


def test_meta_is_kept() -> None:
    meta = {"labels": ["Nein", "Jä ☃"], "preprocess": PREPROCESS, "name": "digits"}
    assert dict(loads(dumps(small(**meta))).meta) == meta


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kind": "sound"}, "kind 'sound'"),
        ({"channels": 2}, "channels 2"),
        ({"channels": 3}, "list of 3 finite"),
        ({"size": [4]}, "size"),
        ({"size": [0, 4]}, "size"),
        ({"mean": [float("inf")]}, "mean"),
        ({"mean": ["1"]}, "mean"),
        ({"mean": [10**400]}, "mean"),
        ({"scale": [0]}, "a scale is 0"),
        ({"more": 0}, "exactly kind"),
    ],
)
def test_broken_preprocess_is_refused_by_reader_and_writer(change: dict[str, Any], match: str) -> None:
    broken = {**copy.deepcopy(PREPROCESS), **change}
    with pytest.raises(ModelFileError, match=match):
        dumps(small(preprocess=broken))
    if "mean" not in change:
        refuses(lambda tree, t: tree.update(meta={"preprocess": broken}), match)


@pytest.mark.parametrize("meta", [{"name": "a\ud800"}, {"labels": ["b", "\udfff"]}])
def test_text_that_no_reader_accepts_is_not_written(meta: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match="holds a lone surrogate"):
        dumps(small(**meta))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": "other"}, "is this a bitshift model"),
        ({"format_version": "3"}, "format version '3'; this program reads the versions 1 and 2"),
        ({"format_version": "2"}, "format version 2; the ops of the graph ask for version 1"),
        ({"more": "1"}, "exactly format"),
        ({"graph": "{"}, "graph: no valid JSON"),
        ({"graph": "[]"}, "expected a JSON object"),
    ],
)
def test_foreign_metadata_is_refused(change: dict[str, str], match: str) -> None:
    metadata, tensors = read_container(dumps(small()))
    with pytest.raises(ModelFileError, match=match):
        loads(write_container({**metadata, **change}, tensors))


@pytest.mark.parametrize("op", ["conv_transpose", "embedding", "upsample", "conv", "max_pool", "avg_pool"])
def test_a_file_says_the_lowest_version_that_has_its_ops(op: str) -> None:
    found = set()
    for seed in range(30):
        graph = one_op(Seeded(seed), op).graph
        data = dumps(graph)
        newer = OPS[op].since == 2 or len(graph.values[graph.inputs[0]].shape) == 4
        version = read_container(data)[0]["format_version"]
        found.add(version)
        assert version == ("2" if newer else "1")
    assert found == ({"2"} if OPS[op].since == 2 else {"1", "2"})


def test_attributes_survive_as_tuples_and_open_limits_as_none() -> None:
    b = Builder()
    x = b.input((2, 3), Float32())
    y = b.node("clamp", [x], (2, 3), Float32(), {"lo": 0.25, "hi": None})
    z = b.node("pad", [y], (2, 6), Float32(), {"padding": [[0, 0], [1, 2]], "value": -1})
    graph = loads(dumps(b.graph([z])))
    assert dict(graph.nodes[0].attrs) == {"lo": 0.25, "hi": None}
    assert dict(graph.nodes[1].attrs) == {"padding": ((0, 0), (1, 2)), "value": -1}


def test_a_graph_that_breaks_a_rule_is_not_written() -> None:
    graph = small()
    bad = Graph(
        graph.inputs,
        graph.outputs,
        graph.values,
        graph.nodes,
        {**graph.constants, "v1.shift": np.array([63, 1], np.uint8)},
    )
    with pytest.raises(GraphError, match="shift is 1 to 63"):
        dumps(bad)


def test_names_that_a_file_cannot_hold_are_refused() -> None:
    b = Builder()
    b.input((1,), S8)
    value = b.values.pop("v0")
    name = "größe"
    graph = Graph((name,), (name,), {name: type(value)(name, value.shape, value.type)}, (), {})
    with pytest.raises(ModelFileError, match="printable ASCII"):
        dumps(graph)


def test_a_constant_under_the_name_of_the_metadata_is_refused() -> None:
    graph = small()
    names = {name: "__metadata__" if name == "v1.offset" else name for name in graph.constants}
    nodes = [replace(n, consts={role: names[name] for role, name in n.consts.items()}) for n in graph.nodes]
    constants = {names[name]: array for name, array in graph.constants.items()}
    with pytest.raises(ModelFileError, match="constant '__metadata__'"):
        dumps(replace(graph, nodes=tuple(nodes), constants=constants))


def test_save_is_atomic_and_load_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    written = save(small(), path)
    assert path.stat().st_size == written
    assert dumps(load(path)) == path.read_bytes()
    before = path.read_bytes()

    def fail(handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save(random_case(3).graph, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(b"not a model")
    with pytest.raises(ModelFileError, match=r"net\.safetensors: header of"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing")


def test_random_graphs_of_seeds_are_reproducible() -> None:
    assert dumps(random_case(11).graph) == dumps(random_case(11).graph)
    assert Seeded(1).int(0, 10**9) == Seeded(1).int(0, 10**9)
