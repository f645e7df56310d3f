"""Token ids on the command line: a file as numpy writes it, and ids beyond the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitshift.cli.errors import CliError
from bitshift.cli.inputs import read_input
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node, Value
from bitshift.runtime import Model


def table() -> Model:
    """Five rows of two numbers, read by three ids."""
    values = {"ids": Value("ids", (3,), FixedPoint(32, 0)), "y": Value("y", (3, 2), FixedPoint(8, 0))}
    node = Node("embedding", ("ids",), "y", {"format": "pot3d"}, {"codes": "codes"}, "emb")
    codes = np.arange(10, dtype=np.uint8).reshape(5, 2) % 8
    return Model(Graph(("ids",), ("y",), values, (node,), {"codes": codes}), backend="reference")


def test_ids_of_any_width_are_read_and_wrong_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "ids.npy"
    for dtype in (np.int64, np.int32, np.uint8):
        np.save(path, np.array([[0, 4, 2]], dtype))
        assert read_input(path, table(), "ids").tolist() == [[0, 4, 2]]
    np.save(path, np.array([[0, 4, 2], [1, 5, 0]]))
    with pytest.raises(CliError, match=r"the id 5 at index \[1, 1\]; .* rows 0 to 4"):
        read_input(path, table(), "ids")
    np.save(path, np.array([[0, 2**40, 2]]))
    with pytest.raises(CliError, match="holds 0 to 1099511627776"):
        read_input(path, table(), "ids")
