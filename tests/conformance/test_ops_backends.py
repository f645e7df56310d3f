"""Law: every op on every backend gives the reference's integers; floats agree within what their sums allow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitshift.backends import BACKENDS, get_backend
from bitshift.core.fixed import Float32
from bitshift.core.graph import Graph, Node
from bitshift.core.ops import OPS
from bitshift.core.reference import execute
from strategies import FLOAT_ONLY, INT_ONLY, Case, graph_cases, node_cases

OTHERS = [name for name in BACKENDS if name != "reference"]
EPSILON = 2.0**-24
"""Relative error of one float32 rounding."""


def backend(name: str):
    module = get_backend(name)
    reason = module.available()
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    return module


def tolerance(graph: Graph, node: Node, values: dict[str, np.ndarray]) -> np.ndarray | float:
    """What two correct float evaluations of ``node`` may differ by, beside one rounding of the result.

    A sum of n products in float32 is off by at most n + 1 roundings of the sum of the magnitudes, whatever the order;
    scale and bias add two more.
    """
    x = np.abs(values[node.inputs[0]].astype(np.float64))
    largest = float(x.max()) if x.size else 0.0
    if node.op in ("conv", "conv_transpose", "linear", "embedding"):
        role = "weight" if "weight" in node.consts else "codes"
        shape = graph.constants[node.consts[role]].shape
        terms = math.prod(shape[1:])
        if node.op == "embedding":
            terms, largest = 1, 1.0
        if role == "weight":
            weight = float(np.abs(graph.constants[node.consts[role]]).max())
        else:
            from bitshift.core.formats import FORMATS

            weight = float(FORMATS[node.attrs["format"]].max_level)
        scale = float(np.abs(graph.constants[node.consts["scale"]]).max()) if "scale" in node.consts else 1.0
        bias = float(np.abs(graph.constants[node.consts["bias"]]).max()) if "bias" in node.consts else 0.0
        return 2 * (terms + 3) * EPSILON * (terms * largest * weight * scale + bias)
    if node.op == "avg_pool":
        terms = math.prod(node.attrs["kernel"])
        return 2 * (terms + 1) * EPSILON * terms * largest * abs(node.attrs["scale"])
    if node.op == "affine":  # a fused multiply-add rounds once, a product and a sum twice
        return 4 * EPSILON * (largest * 2 + 10)
    if node.op == "unary":  # exp, tanh and erf of two libraries may differ by some units of float64's last place
        return 2 * EPSILON * max(largest, 1.0)
    return 0.0


def assert_equal(case: Case, got: dict[str, np.ndarray], name: str, *, exact: bool) -> None:
    """Every output of ``got`` is the reference's, in dtype, shape and value."""
    values = execute(case.graph, case.inputs, keep=True)
    assert list(got) == list(case.graph.outputs)
    for output in case.graph.outputs:
        expected, found = values[output], got[output]
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        if exact or not isinstance(case.graph.values[output].type, Float32):
            np.testing.assert_array_equal(found, expected, err_msg=f"{name}: {case.graph.pretty()}")
            continue
        (node,) = case.graph.nodes
        allowed = tolerance(case.graph, node, values)
        np.testing.assert_allclose(found, expected, rtol=2 * EPSILON, atol=allowed, err_msg=case.graph.pretty())


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("op", sorted(set(OPS) - FLOAT_ONLY))
@settings(max_examples=200)
@given(data=st.data())
def test_every_integer_op_gives_the_references_integers(name: str, op: str, data: st.DataObject) -> None:
    module = backend(name)
    case = data.draw(node_cases(op))
    assert_equal(case, module.compile(case.graph).run_int(case.inputs), name, exact=True)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("op", sorted(set(OPS) - INT_ONLY))
@settings(max_examples=200)
@given(data=st.data())
def test_every_float_op_agrees_within_its_rounding(name: str, op: str, data: st.DataObject) -> None:
    module = backend(name)
    case = data.draw(node_cases(op, floats=True))
    assert_equal(case, module.compile(case.graph).run_int(case.inputs), name, exact=False)


@pytest.mark.parametrize("name", OTHERS)
@settings(max_examples=400)
@given(case=graph_cases())
def test_whole_graphs_give_the_references_integers(name: str, case: Case) -> None:
    module = backend(name)
    assert_equal(case, module.compile(case.graph).run_int(case.inputs), name, exact=True)
