"""Generated C gives the reference's integers: every op over random shapes, random graphs, a trained network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bitshift.core.graph import Graph
from bitshift.core.ops import OPS
from c99_host import assert_equal, needs_cc
from strategies import Case, Seeded, one_op, random_case

OWN = sorted(set(OPS) - {"affine", "unary", "quantize", "dequantize"})
QUICK = 1
"""Random cases an op; the slow test has many more."""


def shifts_only(graph: Graph) -> Graph:
    """``graph`` with each multiplier rounded down to a power of two, as multiplication-free training gives them."""
    constants = dict(graph.constants)
    for node in graph.nodes:
        if "mult" in node.consts:
            mult = constants[node.consts["mult"]]
            constants[node.consts["mult"]] = (1 << np.floor(np.log2(mult)).astype(np.int64)).astype(mult.dtype)
    return dataclasses.replace(graph, constants=constants)


def check_case(case: Case, folder: Path) -> None:
    assert_equal(shifts_only(case.graph), case.inputs, folder)


def integer_graphs(count: int) -> list[int]:
    """Seeds of ``count`` random graphs that compute with integers only."""
    found, seed = [], 0
    while len(found) < count:
        floats = [node.op for node in random_case(seed).graph.nodes if node.op in ("dequantize", "quantize")]
        if not floats:
            found.append(seed)
        seed += 1
    return found


@needs_cc
@pytest.mark.parametrize("op", OWN)
def test_an_op_gives_the_references_integers(op: str, tmp_path: Path) -> None:
    for seed in range(QUICK):
        folder = tmp_path / str(seed)
        folder.mkdir()
        check_case(one_op(Seeded(seed), op), folder)


@needs_cc
@pytest.mark.slow
@pytest.mark.parametrize("op", OWN)
def test_an_op_gives_the_references_integers_over_many_shapes(op: str, tmp_path: Path) -> None:
    for seed in range(QUICK, 30):
        check_case(one_op(Seeded(seed), op), tmp_path)


@needs_cc
def test_random_graphs_give_the_references_integers(tmp_path: Path) -> None:
    for seed in integer_graphs(4):
        check_case(random_case(seed), tmp_path)


@needs_cc
@pytest.mark.slow
def test_many_random_graphs_give_the_references_integers(tmp_path: Path) -> None:
    for seed in integer_graphs(150)[4:]:
        check_case(random_case(seed), tmp_path)
