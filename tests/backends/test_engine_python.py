"""The engine from Python: files read by itself, memory of numpy and torch without copies, threads, forks, profiles."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitshift import runtime
from bitshift.backends import engine
from bitshift.core import modelfile
from bitshift.core.container import ModelFileError
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph, GraphError, Node, Value
from bitshift.core.ops.dequantize import dequantize
from bitshift.core.ops.quantize import quantize
from bitshift.core.reference import execute

DATA = Path(__file__).resolve().parents[2] / "cpp" / "tests" / "data"
CNN = DATA / "small_cnn.safetensors"
pytestmark = pytest.mark.skipif(engine.available() is not None, reason=str(engine.available()))


def same(type: FixedPoint | Float32, shape: tuple[int, ...] = (7,)) -> Graph:
    """The input as it is."""
    values = {n: Value(n, shape, type) for n in "xy"}
    return Graph(("x",), ("y",), values, (Node("clamp", ("x",), "y", {"lo": None, "hi": None}),), {})


def integers(graph: Graph, count: int, seed: int = 0) -> np.ndarray:
    (name,) = graph.inputs
    value = graph.values[name]
    assert isinstance(value.type, FixedPoint)
    rng = np.random.default_rng(seed)
    return rng.integers(value.type.lo, value.type.hi, (count, *value.shape), endpoint=True).astype(value.type.dtype)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_by_the_engine_alone_until_the_graph_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = modelfile.load(CNN), integers(modelfile.load(CNN), 5)
    with monkeypatch.context() as patch:
        patch.setattr(modelfile, "loads", lambda data: pytest.fail("Python has read the file"))
        model = runtime.load(CNN)
        got = model.run_int(x)
        assert (model.backend, model.labels) == ("engine", tuple(graph.meta["labels"]))
        assert model.inputs == tuple(graph.values[n] for n in graph.inputs)
        assert model.outputs == tuple(graph.values[n] for n in graph.outputs)
        assert repr(model)
    np.testing.assert_array_equal(got, execute(graph, {"x": x})["y"])
    assert model.graph.pretty() == graph.pretty()
    assert model.graph is model.graph


def test_labels_and_preprocessing_outlive_the_file_and_the_graph_says_that_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    graph = same(FixedPoint(8, 4), (1, 2, 3))
    image = {"kind": "image", "channels": 1, "size": [2, 3], "mean": [1.0], "scale": [0.5]}
    meta = {"labels": ["a", "b"], "preprocess": image, "name": "it"}
    modelfile.save(Graph(graph.inputs, graph.outputs, graph.values, graph.nodes, {}, meta), path)
    model = runtime.load(path)
    path.unlink()
    assert model.labels == ("a", "b")
    assert model.run(model.preprocess(np.full((2, 3), 3, np.uint8))).tolist() == [[[[1.0] * 3] * 2]]
    with pytest.raises(FileNotFoundError):
        model.graph  # noqa: B018 - the property reads
    modelfile.save(same(FixedPoint(8, 4)), path)
    with pytest.raises(ModelFileError, match="has changed since"):
        model.graph  # noqa: B018


def test_files_that_cannot_be_read_raise_pythons_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        runtime.load(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        runtime.load(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(ModelFileError, match=r"empty: .*too short"):
        runtime.load(tmp_path / "empty")
    with pytest.raises(OSError, match="gone"):
        engine._engine.Model.open(os.fsencode(tmp_path / "gone"), memory_limit=1 << 30, op_limit=1 << 50)
    odd = tmp_path / "n\udcff \u00e9.safetensors"  # a name that is no UTF-8
    odd.write_bytes(CNN.read_bytes())
    assert runtime.load(odd).run_int(np.zeros((1, 2, 9, 7), np.int8)).shape == (1, 10)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threads": 0}, "threads=0"),
        ({"threads": True}, "threads=True"),
        ({"threads": 2.0}, "threads=2.0"),
        ({"threads": 2**40}, "threads=1099511627776: allowed are None and integers from 1 to 1024"),
        ({"isa": "z80"}, "z80.*portable"),
        ({"isa": 5}, "isa=5: allowed are None and a word"),
        ({"tune": "never"}, "never.*force"),
        ({"tune": True}, "tune=True: allowed are None and a word"),
        ({"max_activation_bytes": 10}, "max_activation_bytes"),
        ({"max_activation_bytes": 4e9}, "max_activation_bytes=4000000000.0: allowed are integers from 0"),
        ({"max_activation_bytes": None}, "max_activation_bytes=None"),
        ({"max_activation_bytes": -1}, "max_activation_bytes=-1"),
        ({"max_activation_bytes": 2**70}, "max_activation_bytes=1180591620717411303424"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        runtime.load(CNN, **options)


def test_options_may_be_integers_of_numpy() -> None:
    model = runtime.load(CNN, threads=np.int64(2), max_activation_bytes=np.uint64(1 << 30))
    assert model._engine().threads == 2


def test_threads_and_instruction_sets_change_no_integer() -> None:
    graph = modelfile.load(CNN)
    x = integers(graph, 9)
    want = execute(graph, {"x": x})["y"]
    for isa in ("auto", "portable"):
        for threads in (1, 2, 3):
            model = runtime.load(CNN, threads=threads, isa=isa, tune="off")
            np.testing.assert_array_equal(model.run_int(x), want)
            assert model._engine().threads == threads
    assert runtime.load(CNN, isa="portable")._engine().isa == "portable"


def test_the_environment_sets_threads_and_instruction_set() -> None:
    code = "from bitshift import load; import sys; e = load(sys.argv[1])._engine(); print(e.threads, e.isa)"
    environment = {**os.environ, "BITSHIFT_THREADS": "3", "BITSHIFT_ISA": "portable"}
    command = [sys.executable, "-c", code, str(CNN)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["3", "portable"]


# ---- floats at the border --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "type", [FixedPoint(8, 7), FixedPoint(8, 0, False), FixedPoint(5, 2), FixedPoint(16, -3), FixedPoint(32, 20)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_quantised_as_the_op_does(type: FixedPoint, dtype: type[np.floating]) -> None:
    step = 2.0**-type.frac
    rng = np.random.default_rng(1)
    ties = (rng.integers(type.lo - 3, type.hi + 3, 3001) + 0.5) * step
    x = np.concatenate(
        [ties, np.nextafter(ties, -np.inf), np.nextafter(ties, np.inf), rng.normal(0, type.hi * step, 3001)]
    )
    x = np.concatenate([x, [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e308, -1e308, 5e-324, 3e38]])
    with np.errstate(over="ignore", under="ignore"):
        x = x.astype(dtype)
    x = x[: len(x) // 7 * 7].reshape(-1, 7)
    model = runtime.Model(same(type), backend="engine")
    np.testing.assert_array_equal(model.run_int(x), quantize(x, type))
    np.testing.assert_array_equal(model.run(x), dequantize(quantize(x, type), type))


def test_run_gives_the_references_values() -> None:
    reference, model = runtime.load(CNN, backend="reference"), runtime.load(CNN)
    x = np.random.default_rng(2).normal(size=(3, 2, 9, 7)).astype(np.float32)
    np.testing.assert_array_equal(model.run(x), reference.run(x))


def test_float_networks_take_both_floats() -> None:
    model = runtime.Model(same(Float32()), backend="engine")
    x = np.array([[1.5, np.nan, np.inf, 1e300, -0.0, 1e-50, 2.0]])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(model.run(x), x.astype(np.float32))


# ---- memory that is lent ---------------------------------------------------------------------------------------------


def test_outputs_are_written_where_they_lie() -> None:
    model, graph = runtime.load(CNN), modelfile.load(CNN)
    x = integers(graph, 3)
    whole = np.full((5, 10), 99, graph.values["y"].type.dtype)
    got = model.run_int(x, out=whole[1:4])
    assert np.shares_memory(got, whole)
    np.testing.assert_array_equal(whole[1:4], model.run_int(x))
    assert (whole[[0, 4]] == 99).all()
    values = np.zeros((3, 10), np.float32)
    assert model.run(x, out=values) is values
    np.testing.assert_array_equal(values, model.run(x))
    assert model.run(x, out={"y": values})[0, 0] == values[0, 0]


@pytest.mark.parametrize("backend", ["engine", "reference"])
@pytest.mark.parametrize(
    ("out", "says"),
    [
        (np.zeros((3, 10), np.float64), "'y' has dtype float64; needed is"),
        (np.zeros((2, 10), np.int32), "number of samples|shape"),
        (np.zeros((3, 11), np.int32), "shape"),
        (np.zeros((3, 20), np.int32)[:, ::2], "contiguous"),
        (np.broadcast_to(np.int32(0), (3, 10)), "contiguous|writable"),
        ([[0] * 10] * 3, "'y' has dtype list"),
        ({"z": np.zeros((3, 10), np.int32)}, r"outputs \['z'\] given"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(backend: str, out: Any, says: str) -> None:
    model = runtime.load(CNN, backend=backend)
    assert model.outputs[0].type.dtype == np.int32
    with pytest.raises(ValueError, match=says):
        model.run_int(np.zeros((3, 2, 9, 7), np.int8), out=out)


@pytest.mark.parametrize("backend", ["engine", "reference"])
def test_tensors_of_torch_are_read_and_written_where_they_lie(backend: str) -> None:
    torch = pytest.importorskip("torch")
    model, x = runtime.load(CNN, backend=backend), integers(modelfile.load(CNN), 4)
    want = model.run_int(x)
    out = torch.zeros((4, 10), dtype=torch.int32)
    assert model.run_int(torch.from_numpy(x), out=out) is out
    np.testing.assert_array_equal(out.numpy(), want)
    floats = torch.randn(4, 2, 9, 7)
    values = torch.zeros(4, 10)
    model.run(floats, out=values)
    np.testing.assert_array_equal(values.numpy(), model.run(floats.numpy()))
    np.testing.assert_array_equal(model.run(floats), values.numpy())
    np.testing.assert_array_equal(model.run(floats.requires_grad_().detach()), values.numpy())


def two_in_two_out() -> Graph:
    """Sum and difference of bytes, in 16 bits."""
    values = {n: Value(n, (2,), FixedPoint(16, 2)) for n in ("a", "b", "sum", "twice")}
    nodes = (Node("add", ("a", "b"), "sum"), Node("add", ("a", "a"), "twice"))
    return Graph(("a", "b"), ("sum", "twice"), values, nodes, {})


@pytest.mark.parametrize("backend", ["engine", "reference"])
@pytest.mark.parametrize(
    ("places", "says"),
    [  # where a, b, sum and twice begin in one array, in samples of 4
        ((0, 4, 0, 8), "output 'sum' shares memory with input 'a'; an output needs memory of its own"),
        ((0, 4, 8, 5), "output 'twice' shares memory with input 'b'"),
        ((0, 4, 8, 8), "output 'twice' shares memory with output 'sum'"),
        ((0, 4, 9, 12), "output 'twice' shares memory with output 'sum'"),
        ((0, 0, 4, 8), ""),  # inputs are only read
    ],
)
def test_outputs_that_share_memory_are_refused(backend: str, places: tuple[int, ...], says: str) -> None:
    model, whole = runtime.Model(two_in_two_out(), backend=backend), np.zeros((16, 2), np.int16)
    a, b, total, twice = (whole[at : at + 4] for at in places)
    if says:
        with pytest.raises(ValueError, match=says):
            model.run_int({"a": a, "b": b}, out={"sum": total, "twice": twice})
    else:
        model.run_int({"a": a, "b": b}, out={"sum": total, "twice": twice})


@pytest.mark.parametrize("backend", ["engine", "reference"])
def test_values_are_not_written_over_the_values_that_they_come_from(backend: str) -> None:
    torch = pytest.importorskip("torch")
    model, x = runtime.Model(same(FixedPoint(8, 4)), backend=backend), np.zeros((2000, 7), np.float32)
    for lent in (x, torch.from_numpy(x)):
        with pytest.raises(ValueError, match="output 'y' shares memory with input 'x'"):
            model.run(lent, out=lent)
    assert model.run(x[:0], out=x[:0]).shape == (0, 7)  # no byte is shared


@pytest.mark.parametrize("backend", ["engine", "reference"])
def test_a_tensor_is_read_as_its_values(backend: str) -> None:
    torch = pytest.importorskip("torch")
    model, x = runtime.load(CNN, backend=backend), torch.randn(3, 2, 9, 7, generator=torch.Generator().manual_seed(0))
    negated = torch._neg_view(x.clone())
    assert negated.is_neg()
    np.testing.assert_array_equal(model.run(negated), model.run(-x))
    np.testing.assert_array_equal(model.run(x.clone().requires_grad_()), model.run(x))


@pytest.mark.parametrize("backend", ["engine", "reference"])
def test_tensors_that_would_not_hold_the_outputs_are_refused(backend: str) -> None:
    torch = pytest.importorskip("torch")
    model, x = runtime.load(CNN, backend=backend), np.zeros((3, 2, 9, 7), np.float32)
    out = torch.zeros(3, 10)
    with pytest.raises(ValueError, match=r"output 'y' is a negated view .*out\.resolve_neg\(\)"):
        model.run(x, out=torch._neg_view(out))
    out.requires_grad_()
    with pytest.raises(ValueError, match=r"output 'y' requires grad; use out\.detach\(\)"):
        model.run(x, out=out)
    np.testing.assert_array_equal(model.run(x, out=out.detach()).numpy(), model.run(x))


def test_no_copy_is_made_of_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    model = runtime.Model(same(FixedPoint(8, 0), (1 << 24,)), backend="engine")
    x, out = torch.ones((1, 1 << 24), dtype=torch.int8), torch.zeros((1, 1 << 24), dtype=torch.int8)
    seen: list[Any] = []

    class Spy:
        def run(self, inputs: Any, outputs: Any, **options: Any) -> None:
            seen.append((inputs, outputs))
            native.run(inputs, outputs, **options)

    native = model._engine()._model
    monkeypatch.setattr(model._engine(), "_model", Spy())
    model.run_int(x, out=out)
    ((inputs, outputs),) = seen
    assert inputs[0] is x
    assert outputs[0] is out
    assert int(out.sum()) == 1 << 24


class Lender:
    """What lends memory by DLPack and is nothing else."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("backend", ["engine", "reference"])
def test_any_object_with_dlpack_is_taken(backend: str) -> None:
    model, x = runtime.load(CNN, backend=backend), integers(modelfile.load(CNN), 4)
    np.testing.assert_array_equal(model.run_int(Lender(x)), model.run_int(x))


@pytest.mark.parametrize("backend", ["engine", "reference"])
def test_tensors_whose_memory_cannot_be_read_are_refused_by_name(backend: str) -> None:
    torch = pytest.importorskip("torch")
    model, x = runtime.load(CNN, backend=backend), torch.zeros(2, 2, 9, 7)
    complex = torch.zeros(2, 2, 9, 7, dtype=torch.complex64)
    for bad in (x.bfloat16(), x.to("meta"), x.to_sparse(), complex, complex.conj()):
        with pytest.raises(ValueError, match="input 'x'"):
            model.run_int(bad)


def test_tensors_that_do_not_fit_are_refused_by_name() -> None:
    torch = pytest.importorskip("torch")
    model = runtime.load(CNN)
    for x, says in [
        (torch.zeros(2, 2, 9, 7, dtype=torch.int16), "'x' has the dtype int16; .*int8, or float32 or float64"),
        (torch.zeros(2, 2, 9, 7, dtype=torch.bfloat16), "bfloat16"),
        (torch.zeros(2, 2, 7, 9), "shape"),
        (torch.zeros(2, 9, 7, 2).permute(0, 3, 1, 2), "C-contiguous"),
        (torch.zeros(2, 2, 9, 7, device="meta"), "'x'"),
    ]:
        with pytest.raises(ValueError, match=says):
            model.run_int(x)


def test_numpy_arrays_in_other_layouts_are_copied_first() -> None:
    graph = same(FixedPoint(16, 2), (5,))
    model, x = runtime.Model(graph, backend="engine"), integers(same(FixedPoint(16, 2), (5,)), 6)
    want = model.run_int(x)
    odd = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.int16).reshape(x.shape)
    odd[...] = x
    floats = np.zeros(x.size * 4 + 2, np.uint8)[2:].view(np.float32).reshape(x.shape)
    floats[...] = x / 4
    for other in (np.asfortranarray(x), x.astype(">i2"), odd, floats, floats.astype(">f8"), np.repeat(x, 2, 1)[:, ::2]):
        np.testing.assert_array_equal(model.run_int(other), want)


# ---- threads and processes -------------------------------------------------------------------------------------------


def test_one_model_serves_many_threads() -> None:
    model, graph = runtime.load(CNN, threads=2), modelfile.load(CNN)
    data = [integers(graph, 1 + seed % 4, seed) for seed in range(8)]
    want = [execute(graph, {"x": x})["y"] for x in data]
    start = threading.Barrier(6)

    def work(index: int) -> None:
        start.wait()
        for turn in range(40):
            at = (index + turn) % len(data)
            np.testing.assert_array_equal(model.run_int(data[at]), want[at])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))


def _child(model: runtime.Model, x: np.ndarray, queue: Any) -> None:
    again = runtime.load(CNN, threads=2)
    queue.put((model.run_int(x).tolist(), again.run_int(x).tolist()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_may_use_the_parents_model(threads: int) -> None:
    model, x = runtime.load(CNN, threads=threads), integers(modelfile.load(CNN), 6)
    want = model.run_int(x).tolist()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_child, args=(model, x, queue)) for _ in range(2)]
    for child in children:
        child.start()
    for _ in children:
        assert queue.get(timeout=60) == (want, want)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert model.run_int(x).tolist() == want


# ---- steps and profiles ----------------------------------------------------------------------------------------------


def test_steps_say_what_runs() -> None:
    model, graph = runtime.load(CNN, threads=1), modelfile.load(CNN)
    assert model.steps
    names = {node.output: node for node in graph.nodes}
    for step in model.steps:
        assert step.kernel
        assert step.isa
        if step.op != "convert":
            assert names[step.name].source == step.source
        assert step.activation_bytes == step.in_bytes + step.out_bytes > 0
    weighted = [s for s in model.steps if s.op in ("conv", "linear")]
    assert {s.name for s in weighted} >= {n.output for n in graph.nodes if n.op in ("conv", "linear")}
    assert all(s.operations > 0 for s in weighted)
    with pytest.raises(AttributeError):
        model.steps[0].name = "x"  # type: ignore[misc]
    with pytest.raises(ValueError, match="only the engine"):
        runtime.load(CNN, backend="reference").steps  # noqa: B018


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("samples", [1, 70])
def test_a_profile_times_every_step_of_every_run(threads: int, samples: int, tmp_path: Path) -> None:
    model = runtime.load(CNN, threads=threads)
    found = model.profile(np.zeros((samples, 2, 9, 7), np.float32), repeats=4)
    assert (len(found.runs), found.samples, found.threads) == (4, samples, threads)
    assert found.steps == model.steps
    assert min(found.runs) <= found.seconds <= max(found.runs)
    for run in range(4):
        for index in range(len(found.steps)):
            own = [e for e in found.events if (e.run, e.step) == (run, index)]
            assert own
            assert sum(e.samples for e in own if (e.phase, e.thread) == (0, own[0].thread)) == samples
            assert all(e.end >= e.begin and 0 <= e.thread < threads for e in own)
    assert sum(t.seconds for t in found.times) <= max(found.runs)
    assert all(t.seconds >= 0 and math.isfinite(t.gops) for t in found.times)
    found.save(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert len([e for e in trace["traceEvents"] if e["ph"] == "X"]) == len(found.events)
    with pytest.raises(ValueError, match="repeats=0"):
        model.profile(np.zeros((1, 2, 9, 7), np.float32), repeats=0)


def test_limits_name_the_option(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    modelfile.save(same(FixedPoint(8, 0), (1 << 16, 1 << 10)), path)
    with pytest.raises(GraphError, match=r"big.safetensors: .*max_activation_bytes raises the memory limit"):
        runtime.load(path, max_activation_bytes=1 << 20)
