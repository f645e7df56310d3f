"""The structure of a graph: names, order, read-only constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, GraphError, Node, Value

S8 = FixedPoint(8, 7)


def chain(**changes: Any) -> Graph:
    """X -> clamp -> y, with parts replaced."""
    parts: dict[str, Any] = {
        "inputs": ("x",),
        "outputs": ("y",),
        "values": {n: Value(n, (2, 3), S8) for n in ("x", "y")},
        "nodes": (Node("clamp", ("x",), "y", {"lo": 0, "hi": None}, source="act"),),
        "constants": {},
    }
    return Graph(**{**parts, **changes})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"inputs": ("x", "x")}, "listed twice"),
        ({"inputs": ()}, "not computed before"),
        ({"outputs": ()}, "at least one"),
        ({"outputs": ("y", "y")}, "output is listed twice"),
        ({"outputs": ("z",)}, "never computed"),
        ({"nodes": ()}, "'y' has no description or is never computed"),
        ({"nodes": (Node("clamp", ("z",), "y"),)}, r"node 'y' \[clamp\]: input 'z' is not computed"),
        ({"nodes": (Node("clamp", ("x",), "y"), Node("clamp", ("x",), "y"))}, "written twice"),
        ({"nodes": (Node("clamp", ("x",), "x"),)}, "written twice"),
        ({"nodes": (Node("table", ("x",), "y", {}, {"table": "t"}),)}, r"constant 't' \(table\) is missing"),
        ({"values": {"x": Value("x", (1,), S8)}}, "no description"),
        ({"values": {"x": Value("q", (1,), S8), "y": Value("y", (1,), S8)}}, "filed under another name"),
    ],
)
def test_broken_structure_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(GraphError, match=match):
        chain(**changes)


def test_constants_are_read_only_copies() -> None:
    array = np.zeros(3, np.int64)
    graph = chain(constants={"c": array})
    array[0] = 1
    assert graph.constants["c"][0] == 0
    with pytest.raises(ValueError, match="read-only"):
        graph.constants["c"][0] = 1


def test_attributes_are_plain_and_frozen() -> None:
    node = Node("pad", ("x",), "y", {"padding": [[np.int64(1), 2]], "value": np.float32(0.5)})
    assert dict(node.attrs) == {"padding": ((1, 2),), "value": 0.5}
    assert type(node.attrs["padding"][0][0]) is int
    assert type(node.attrs["value"]) is float


def test_messages_name_node_and_module() -> None:
    assert str(chain().nodes[0]) == "node 'y' [clamp] (module 'act')"
    with pytest.raises(GraphError, match=r"module 'act'.*needs the constant 'table'"):
        chain().const(chain().nodes[0], "table")


def test_pretty_prints_a_line_a_node() -> None:
    assert chain().pretty().splitlines() == [
        "input  x: [2, 3] s8.7",
        "y: [2, 3] s8.7 = clamp(x) lo=0 hi=None  # act",
        "output y",
    ]


def test_users_are_the_nodes_that_read_a_value() -> None:
    assert [n.output for n in chain().users("x")] == ["y"]
    assert chain().users("y") == ()


def test_sizes_count_elements_and_bytes() -> None:
    value = Value("v", (2, 3), FixedPoint(9, 0))
    assert (value.size, value.size_bytes) == (6, 12)
    assert Value("v", (), S8).size == 1
