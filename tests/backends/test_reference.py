"""The numpy backend and the registry of backends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from bitshift.backends import BACKENDS, get_backend, reference
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import GraphError
from bitshift.core.reference import execute
from strategies import Builder, Case, graph_cases

S8 = FixedPoint(8, 4)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_offers_the_interface(name: str) -> None:
    module = get_backend(name)
    assert name == module.NAME
    reason = module.available()
    assert reason is None or (isinstance(reason, str) and reason)
    assert callable(module.unsupported)
    assert callable(module.compile)


def test_an_unknown_backend_names_the_near_miss() -> None:
    with pytest.raises(ValueError, match=r"unknown backend 'engin'; did you mean 'engine'.*reference, engine"):
        get_backend("engin")


@settings(max_examples=200)
@given(graph_cases(floats=True))
def test_it_runs_what_the_reference_runs(case: Case) -> None:
    assert reference.unsupported(case.graph) == []
    got = reference.compile(case.graph).run_int(case.inputs)
    expected = execute(case.graph, case.inputs)
    assert list(got) == list(case.graph.outputs)
    assert all(np.array_equal(got[n], expected[n], equal_nan=True) for n in expected)


def test_a_large_batch_is_run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "CHUNK_BYTES", 8 * 4 * 10 * 3)  # three samples of ten elements
    b = Builder()
    y = b.node("requantize", [b.input((10,), S8)], (10,), FixedPoint(8, 2))
    graph = b.graph([y])
    x = np.random.default_rng(0).integers(-128, 128, (10, 10)).astype(np.int8)
    assert np.array_equal(reference.compile(graph).run_int({"v0": x})[y], execute(graph, {"v0": x})[y])


def test_compile_refuses_bounds_and_limits() -> None:
    b = Builder()
    y = b.node("clamp", [b.input((1000,), S8)], (1000,), S8, {"lo": 0, "hi": None})
    with pytest.raises(GraphError, match="2_000 bytes; allowed: 100"):
        reference.compile(b.graph([y]), max_activation_bytes=100)


def test_inputs_are_not_changed() -> None:
    b = Builder()
    x = b.input((1, 4), S8)
    attrs = {"kernel": [2], "stride": [1], "padding": [[0, 0]], "dilation": [1]}
    graph = b.graph([b.node("max_pool", [x], (1, 3), S8, attrs)])
    array = np.array([[[3, 1, 2, 9]]], np.int8)
    reference.compile(graph).run_int({x: array})
    assert array.tolist() == [[[3, 1, 2, 9]]]
