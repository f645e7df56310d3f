"""Laws of the model file: what is written is read back, and no broken file is more than a ModelFileError."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from bitshift.core.bounds import check_bounds
from bitshift.core.check import check
from bitshift.core.container import read_container, write_container
from bitshift.core.cost import check_limits
from bitshift.core.graph import Graph, GraphError
from bitshift.core.modelfile import ModelFileError, dumps, loads
from bitshift.core.reference import execute, run_checked
from bitshift.core.roles import DEFAULTS
from strategies import Case, graph_cases, random_case


def assert_same_graph(a: Graph, b: Graph) -> None:
    """Equal but for constants that hold only their default, which a file leaves out."""
    assert (a.inputs, a.outputs, dict(a.values), dict(a.meta)) == (b.inputs, b.outputs, dict(b.values), dict(b.meta))
    assert len(a.nodes) == len(b.nodes)
    for x, y in zip(a.nodes, b.nodes, strict=True):
        assert (x.op, x.inputs, x.output, x.attrs, x.source) == (y.op, y.inputs, y.output, y.attrs, y.source)
        for role in {*x.consts, *y.consts}:
            kept, read = (g.constants.get(n.consts.get(role, "")) for g, n in ((a, x), (b, y)))
            if read is None:
                assert kept is not None
                assert (kept == DEFAULTS[role]).all()
            else:
                assert kept is not None
                assert kept.dtype == read.dtype
                assert np.array_equal(kept, read)


@settings(max_examples=200)
@given(graph_cases(floats=True))
def test_what_is_written_is_read_back(case: Case) -> None:
    data = dumps(case.graph)
    read = loads(data)
    assert_same_graph(case.graph, read)
    assert dumps(read) == data
    before, after = execute(case.graph, case.inputs), execute(read, case.inputs)
    assert all(np.array_equal(before[name], after[name], equal_nan=True) for name in before)


@pytest.mark.parametrize("seed", range(40))
def test_any_safetensors_reader_lists_the_tensors(seed: int) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is an extra")
    data = dumps(random_case(seed, floats=True).graph)
    tensors = safetensors.load(data)
    assert sum(t.nbytes for t in tensors.values()) == len(data) - 8 - int.from_bytes(data[:8], "little")


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One fault: a flipped bit, a changed byte, a cut, an insertion, a repeated piece, or a changed number."""
    kind = int(rng.integers(0, 6))
    at = int(rng.integers(0, len(data)))
    if kind == 0:
        return data[:at] + bytes([data[at] ^ (1 << int(rng.integers(0, 8)))]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + bytes([int(rng.integers(0, 256))]) + data[at + 1 :]
    if kind == 2:
        return data[:at] if rng.integers(0, 2) else data[at:]
    if kind == 3:
        return data[:at] + rng.bytes(int(rng.integers(1, 9))) + data[at:]
    if kind == 4:
        end = at + int(rng.integers(1, 40))
        return data[:end] + data[at:end] + data[end:]
    digits = [0] + [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    place = digits[int(rng.integers(0, len(digits)))]
    return data[:place] + bytes([int(rng.integers(48, 58))]) + data[place + 1 :]


def mutate_graph(data: bytes, rng: np.random.Generator) -> bytes:
    """A fault in the graph's text inside of a sound container, so that it meets the checks of the graph."""
    metadata, tensors = read_container(data)
    text = mutate(metadata["graph"].encode("ascii"), rng).decode("latin-1")
    return write_container({**metadata, "graph": text}, tensors)


def assert_refused_or_valid(data: bytes) -> bool:
    """True if ``data`` is a valid file, whose graph then runs where its bounds and limits allow it; else refused."""
    try:
        graph = loads(data)
    except ModelFileError as error:
        if not 0 < len(str(error)) < 2000:
            pytest.fail(f"a message of {len(str(error))} characters")
        return False
    check(graph)
    try:
        check_bounds(graph)
        check_limits(graph, max_activation_bytes=1 << 20)
    except GraphError:
        return True
    inputs = {n: np.zeros((1, *graph.values[n].shape), graph.values[n].type.dtype) for n in graph.inputs}
    run_checked(graph, inputs)
    return True


def run_mutations(count: int, seed: int) -> int:
    """How many of ``count`` mutations were valid files."""
    rng = np.random.default_rng(seed)
    files = [dumps(random_case(1000 + i, floats=bool(i % 2)).graph) for i in range(40)]
    valid = 0
    for i in range(count):
        data = files[i % len(files)]
        if i % 2:
            valid += assert_refused_or_valid(mutate_graph(data, rng))
            continue
        for _ in range(int(rng.integers(1, 4))):
            data = mutate(data, rng) or b"\0"
        valid += assert_refused_or_valid(data)
    return valid


def test_mutated_files_are_refused_or_valid() -> None:
    valid = run_mutations(500, seed=1)
    assert 0 < valid < 250, "most faults must be seen, and some must lead behind the checks of the container"


@pytest.mark.slow
def test_ten_thousand_mutated_files_are_refused_or_valid() -> None:
    valid = run_mutations(10_000, seed=2)
    assert 0 < valid < 5_000


def test_every_flipped_byte_and_every_cut_of_one_file() -> None:
    data = dumps(random_case(7).graph)
    for at in range(len(data)):
        assert_refused_or_valid(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        assert not assert_refused_or_valid(data[:at]), f"cut at {at} of {len(data)}"
