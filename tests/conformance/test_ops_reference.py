"""Laws of every op's reference: equal to plain loops, alike for every batch, inside its bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

import naive
from bitshift.core.bounds import check_bounds
from bitshift.core.cost import count
from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, Node
from bitshift.core.ops import OPS
from bitshift.core.reference import execute
from strategies import FLOAT_ONLY, INT_ONLY, Case, graph_cases, node_cases

INT_OPS = sorted(set(OPS) - FLOAT_ONLY)
FLOAT_OPS = sorted(set(OPS) - INT_ONLY)


def assert_same_integers(got: np.ndarray, expected: np.ndarray, node: Node) -> None:
    """Equal, or the first difference by index."""
    if not np.array_equal(got, expected):
        at = tuple(int(i) for i in np.argwhere(got != expected)[0])
        pytest.fail(f"{node}: at {at} expected {expected[at]}, got {got[at]}")


@pytest.mark.parametrize("op", INT_OPS)
def test_integer_op_equals_plain_loops_and_stays_in_its_bound(op: str) -> None:
    @settings(max_examples=200)
    @given(node_cases(op))
    def law(case: Case) -> None:
        (node,) = case.graph.nodes
        expected = naive.execute(node, case.graph, [case.inputs[n] for n in node.inputs])
        got = execute(case.graph, case.inputs)[node.output]
        assert got.dtype == case.graph.values[node.output].type.dtype
        assert_same_integers(got, expected, node)
        bound = check_bounds(case.graph)[node.output]
        if bound.range is not None and got.size:
            assert bound.range[0] <= got.min() <= got.max() <= bound.range[1]

    law()


@pytest.mark.parametrize("op", FLOAT_OPS)
def test_float_op_equals_plain_loops_within_rounding(op: str) -> None:
    @settings(max_examples=200)
    @given(node_cases(op, floats=True))
    def law(case: Case) -> None:
        (node,) = case.graph.nodes
        inputs = [case.inputs[n] for n in node.inputs]
        expected = naive.execute(node, case.graph, inputs)
        got = execute(case.graph, case.inputs)[node.output]
        if isinstance(case.graph.values[node.output].type, FixedPoint):
            assert_same_integers(got, expected, node)
        else:
            assert got.dtype == np.float32
            assert (np.abs(got - expected) <= float_tolerance(node, case.graph, inputs)).all()

    law()


def float_tolerance(node: Node, graph: Graph, inputs: list[np.ndarray]) -> float:
    """Rounding of float32: half an ulp for each of the terms of a sum, of the sum of their magnitudes.

    Ops that copy or select are exact; of the rest, a sum of n products and its scale and bias round n + 3 times.
    """
    largest = max((float(np.abs(x).max()) for x in inputs if x.size), default=0.0)
    vectors = {
        role: float(np.abs(graph.constants[name]).max()) for role, name in node.consts.items() if role != "codes"
    }
    scale, bias = vectors.get("scale", 1.0), vectors.get("bias", 0.0)
    if node.op in ("conv", "conv_transpose", "linear"):
        if "weight" in node.consts:
            terms, weight = graph.const(node, "weight")[0].size, vectors["weight"]
        else:
            terms, weight = graph.const(node, "codes")[0].size, FORMATS[node.attrs["format"]].max_level
    elif node.op == "embedding":
        terms = 2
        weight = vectors["weight"] if "weight" in node.consts else float(FORMATS[node.attrs["format"]].max_level)
        largest = 1.0
    elif node.op == "avg_pool":
        terms, weight, scale = int(np.prod(node.attrs["kernel"])), 1.0, node.attrs["scale"]
    elif node.op in ("add", "affine", "unary"):
        terms, weight = 2, 1.0
    else:
        return 0.0
    return (terms + 3) * 2.0**-24 * (terms * largest * weight * scale + bias + 1.0)


@settings(max_examples=200)
@given(graph_cases())
def test_every_sample_is_computed_alone(case: Case) -> None:
    batch = len(next(iter(case.inputs.values())))
    whole = execute(case.graph, case.inputs)
    for i in range(batch):
        alone = execute(case.graph, {name: x[i : i + 1] for name, x in case.inputs.items()})
        for name in case.graph.outputs:
            assert np.array_equal(whole[name][i : i + 1], alone[name])
    twice = execute(case.graph, {name: np.concatenate([x, x[::-1]]) for name, x in case.inputs.items()})
    for name in case.graph.outputs:
        assert np.array_equal(twice[name], np.concatenate([whole[name], whole[name][::-1]]))


@settings(max_examples=200)
@given(graph_cases())
def test_every_value_of_a_network_lies_in_its_bound_and_keeps_its_type(case: Case) -> None:
    bounds = check_bounds(case.graph)
    values = execute(case.graph, case.inputs, keep=True)
    assert set(values) == set(case.graph.values)
    for name, bound in bounds.items():
        array, value = values[name], case.graph.values[name]
        assert array.dtype == value.type.dtype
        assert array.shape[1:] == value.shape
        if bound.range is not None and array.size:
            assert bound.range[0] <= array.min() <= array.max() <= bound.range[1]


@settings(max_examples=200)
@given(graph_cases(floats=True))
def test_costs_are_counts_and_an_empty_batch_gives_empty_outputs(case: Case) -> None:
    table = count(case.graph)
    assert len(table.rows) == len(case.graph.nodes)
    total = table.total
    for row in table.rows:
        assert 0 <= row.cost.narrow_shifts <= row.cost.shifts
        assert 0 <= row.cost.narrow_multiplications <= row.cost.multiplications
        assert row.cost.operations >= 0
    assert total.operations == sum(row.cost.operations for row in table.rows)
    assert table.energy_pj >= 0
    assert table.peak_activation_bytes >= max(v.size_bytes for v in case.graph.values.values())
    for name, array in execute(case.graph, {name: x[:0] for name, x in case.inputs.items()}).items():
        assert array.shape == (0, *case.graph.values[name].shape)
