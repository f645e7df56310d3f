"""The engine as a backend: what it takes and refuses, memory, threads, and the C side built from source."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bitshift.backends import engine, get_backend
from bitshift.core.container import ModelFileError
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, GraphError, Node, Value
from bitshift.core.modelfile import dumps, load, save
from bitshift.core.reference import execute
from strategies import random_case

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "cpp" / "tests" / "data"
pytestmark = pytest.mark.skipif(engine.available() is not None, reason=str(engine.available()))


def chain(*values: Value, nodes: list[Node], constants: dict[str, np.ndarray] | None = None) -> Graph:
    """A graph from the first value to the last."""
    named = {v.name: v for v in values}
    return Graph((values[0].name,), (values[-1].name,), named, tuple(nodes), constants or {})


def relu(type: FixedPoint | Float32, shape: tuple[int, ...] = (4,)) -> Graph:
    """One clamp at 0."""
    return chain(
        Value("x", shape, type), Value("y", shape, type), nodes=[Node("clamp", ("x",), "y", {"lo": 0, "hi": None})]
    )


def linear(levels: np.ndarray, type: FixedPoint, out: FixedPoint, **vectors: np.ndarray) -> Graph:
    """A linear node in int8 codes with ``levels`` (O, I)."""
    x, y = Value("x", (levels.shape[1],), type), Value("y", (levels.shape[0],), out)
    constants = {"codes": FORMATS["int8"].encode(levels), **vectors}
    node = Node("linear", ("x",), "y", {"format": "int8"}, {role: role for role in constants}, "fc")
    return chain(x, y, nodes=[node], constants=constants)


def small_cnn() -> Graph:
    return load(DATA / "small_cnn.safetensors")


def inputs_of(graph: Graph, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random integers of each input's type."""
    rng = np.random.default_rng(seed)
    return {
        n: rng.integers(v.type.lo, v.type.hi, (batch, *v.shape), endpoint=True).astype(v.type.dtype)
        for n, v in ((n, graph.values[n]) for n in graph.inputs)
        if isinstance(v.type, FixedPoint)
    }


# ---- what it takes and refuses ---------------------------------------------------------------------------------------


def test_it_is_registered_and_runs_every_op() -> None:
    backend = get_backend("engine")
    assert backend.NAME == "engine"
    assert backend.available() is None
    assert backend.unsupported(small_cnn()) == []


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((2, 4), np.int16), "int16"),
        (np.zeros((2, 4), np.uint8), "uint8"),
        (np.zeros((2, 4), np.float32), "float32"),
        (np.zeros((2, 5), np.int8), "shape"),
        (np.zeros(4, np.int8), "shape"),
        (np.full((1, 4), 16, np.int8), "holds"),
    ],
)
def test_a_wrong_input_is_refused_by_name_and_never_converted(array: np.ndarray, says: str) -> None:
    executable = engine.compile(relu(FixedPoint(5, 0)))
    with pytest.raises(ValueError, match=says) as caught:
        executable.run_int({"x": array})
    assert "'x'" in str(caught.value)


def test_the_binding_itself_refuses_what_the_wrapper_would_catch() -> None:
    model = engine.compile(relu(FixedPoint(5, 0)))._model
    good, out = np.zeros((2, 4), np.int8), np.zeros((2, 4), np.int8)
    model.run([good], [out])
    with pytest.raises(TypeError, match="dtype"):
        model.run([good.astype(np.int16)], [out])
    with pytest.raises(TypeError, match="C-contiguous"):
        model.run([np.zeros((2, 8), np.int8)[:, ::2]], [out])
    with pytest.raises(TypeError, match="C-contiguous"):
        model.run([[1, 2, 3, 4]], [out])
    with pytest.raises(ValueError, match="shape"):
        model.run([np.zeros((2, 3), np.int8)], [out])
    with pytest.raises(ValueError, match="number of samples"):
        model.run([good], [np.zeros((3, 4), np.int8)])
    with pytest.raises(ValueError, match="each input"):
        model.run([], [out])
    with pytest.raises(ValueError, match="outside of s5"):
        model.run([np.full((2, 4), -17, np.int8)], [out])
    readonly = np.zeros((2, 4), np.int8)
    readonly.setflags(write=False)
    model.run([readonly], [out])
    with pytest.raises(TypeError, match="'y'"):
        model.run([good], [readonly])


def test_a_bad_file_raises_with_the_readers_own_words() -> None:
    with pytest.raises(ValueError, match="is this a model file"):
        engine._engine.Model(b"no model at all", memory_limit=1, op_limit=1)
    with pytest.raises(TypeError):
        engine._engine.Model(bytearray(dumps(small_cnn())), memory_limit=1 << 30, op_limit=1 << 50)


def test_an_accumulator_over_int32_is_refused_with_layer_and_channel() -> None:
    levels = np.full((3, 520), 1)
    levels[1] = 127
    graph = linear(levels, FixedPoint(16, 0), FixedPoint(8, 0))
    with pytest.raises((GraphError, ModelFileError), match=r"'fc'.*2163998720.*channel 1"):
        engine.compile(graph)


def test_limits_are_refused_before_any_memory_is_taken() -> None:
    huge = relu(FixedPoint(8, 0), (1 << 16, 1 << 14))
    with pytest.raises(GraphError, match="memory limit"):
        engine.compile(huge, max_activation_bytes=1 << 20)
    shape = (1, 1 << 30)
    pool = {"kernel": (1 << 29,), "stride": (1,), "padding": ((0, 0),), "mult": 1, "offset": 0, "shift": 0}
    out = Value("y", (1, (1 << 29) + 1), FixedPoint(32, 0))
    many = chain(Value("x", shape, FixedPoint(2, 0)), out, nodes=[Node("avg_pool", ("x",), "y", pool)])
    with pytest.raises(GraphError, match="operations"):
        engine.compile(many, max_activation_bytes=1 << 40)


# ---- arithmetic at its ends ------------------------------------------------------------------------------------------


def test_ties_round_up_and_results_saturate() -> None:
    graph = linear(
        np.array([[1], [1], [127]]),
        FixedPoint(8, 0),
        FixedPoint(8, 0),
        offset=np.array([1, 2, 0], np.int64),
        shift=np.array([1, 2, 0], np.uint8),
    )
    x = np.array([[-3], [-2], [1], [2], [127], [-128]], np.int8)
    got = engine.compile(graph).run_int({"x": x})["y"]
    expected = [[-1, -1, -128], [-1, 0, -128], [1, 0, 127], [1, 1, 127], [64, 32, 127], [-64, -32, -128]]
    np.testing.assert_array_equal(got, np.array(expected, np.int8))


def test_the_largest_accumulator_that_is_allowed_is_exact() -> None:
    # 516 * 127 * 32768 = 2147352576, just under 2^31; both signs, and the 64-bit form of rule 4 behind it.
    levels = np.stack([np.full(516, 127), np.full(516, -127)])
    for mult in (1, 65535):
        graph = linear(
            levels,
            FixedPoint(16, 0),
            FixedPoint(32, 0),
            mult=np.full(2, mult, np.int32),
            shift=np.full(2, 16 if mult > 1 else 0, np.uint8),
        )
        x = np.full((1, 516), -32768, np.int16)
        got = engine.compile(graph).run_int({"x": x})["y"]
        assert got.tolist() == [
            [(-2147352576 * mult) >> (16 if mult > 1 else 0), (2147352576 * mult) >> (16 if mult > 1 else 0)]
        ]


def test_int16_products_at_their_ends_do_not_wrap() -> None:
    # Two products of -32768 * 32767 are nearly 2^31 in magnitude: the pairwise multiply-add of SIMD must not overflow.
    form = FORMATS["pot5d"]  # 32768 does not fit int16
    codes = form.encode(np.array([[32768, 16384], [-32768, -16384]]))
    x, y = Value("x", (2,), FixedPoint(16, 0)), Value("y", (2,), FixedPoint(32, 0))
    node = Node("linear", ("x",), "y", {"format": "pot5d"}, {"codes": "c"})
    graph = chain(x, y, nodes=[node], constants={"c": codes})
    data = np.array([[-32768, -32768], [32767, 32767]], np.int16)
    np.testing.assert_array_equal(engine.compile(graph).run_int({"x": data})["y"], execute(graph, {"x": data})["y"])


def test_quantize_takes_nan_and_infinities() -> None:
    out = Value("y", (6,), FixedPoint(8, 3))
    graph = chain(Value("x", (6,), Float32()), out, nodes=[Node("quantize", ("x",), "y", {"rounding": "half_up"})])
    x = np.array([[np.nan, np.inf, -np.inf, 0.0625, -0.0625, 3e38]], np.float32)
    assert engine.compile(graph).run_int({"x": x})["y"].tolist() == [[0, 127, -128, 1, 0, 127]]


def test_nan_passes_through_float_ops_as_in_the_reference() -> None:
    x = np.array([[np.nan, 1, 2, -1], [3, np.nan, np.inf, -np.inf]], np.float32)
    attrs = {"kernel": (2,), "stride": (1,), "padding": ((1, 0),), "dilation": (1,)}
    values = [Value("x", (1, 4), Float32()), Value("y", (1, 4), Float32())]
    for node in (Node("max_pool", ("x",), "y", attrs), Node("clamp", ("x",), "y", {"lo": -1.0, "hi": 2.0})):
        graph = chain(*values, nodes=[node])
        data = {"x": x[:, None]}
        np.testing.assert_array_equal(engine.compile(graph).run_int(data)["y"], execute(graph, data)["y"])


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_dead_values_give_their_memory_back() -> None:
    names, n = [f"v{i}" for i in range(30)], 10_000
    values = [Value(name, (n,), FixedPoint(8, 0)) for name in names]
    nodes = [Node("clamp", (a,), b, {"lo": -100 + i, "hi": None}) for i, (a, b) in enumerate(pairwise(names))]
    graph = chain(*values, nodes=nodes)
    executable = engine.compile(graph)
    assert executable.arena_bytes <= 2 * (n + 64)
    x = {"v0": np.arange(-128, 128, dtype=np.int8).repeat(40)[None, :n]}
    np.testing.assert_array_equal(executable.run_int(x)["v29"], execute(graph, x)["v29"])


def test_inputs_are_not_written_and_may_lie_anywhere() -> None:
    graph = small_cnn()
    executable, data = engine.compile(graph), inputs_of(graph, 3)["x"]
    expected = execute(graph, {"x": data})["y"]
    before = data.copy()
    np.testing.assert_array_equal(executable.run_int({"x": data})["y"], expected)
    np.testing.assert_array_equal(data, before)
    strided = np.zeros((*data.shape[:-1], 2 * data.shape[-1]), np.int8)[..., ::2]
    strided[...] = data
    np.testing.assert_array_equal(executable.run_int({"x": strided})["y"], expected)
    np.testing.assert_array_equal(executable.run_int({"x": np.asfortranarray(data)})["y"], expected)


def test_misaligned_inputs_are_read_right() -> None:
    graph = relu(FixedPoint(20, 0), (5,))
    executable = engine.compile(graph)
    raw = np.zeros(2 * 5 * 4 + 1, np.uint8)
    odd = raw[1:].view(np.int32).reshape(2, 5)
    assert odd.ctypes.data % 4
    odd[...] = np.arange(-5, 5).reshape(2, 5) * 1000
    np.testing.assert_array_equal(executable.run_int({"x": odd})["y"], np.maximum(odd, 0))


def test_an_empty_batch_gives_empty_outputs() -> None:
    got = engine.compile(small_cnn()).run_int({"x": np.zeros((0, 2, 9, 7), np.int8)})
    assert got["y"].shape == (0, 10)


# ---- threads ---------------------------------------------------------------------------------------------------------


def test_several_models_and_several_threads_of_one_run_at_once() -> None:
    cases = [random_case(seed) for seed in range(40, 52)]
    jobs = [(engine.compile(case.graph), case, execute(case.graph, case.inputs)) for case in cases]
    cnn = small_cnn()
    data = [inputs_of(cnn, 20, seed) for seed in range(6)]
    shared = engine.compile(cnn)
    expected = [execute(cnn, x) for x in data]

    def work(index: int) -> None:
        for turn in range(25):
            executable, case, wanted = jobs[(index + turn) % len(jobs)]
            got = executable.run_int(case.inputs)
            for name in wanted:
                np.testing.assert_array_equal(got[name], wanted[name])
            at = (index + turn) % len(data)
            np.testing.assert_array_equal(shared.run_int(data[at])["y"], expected[at]["y"])

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work, i) for i in range(6)]:
            future.result()


def test_a_run_holds_no_python_lock() -> None:
    """Another thread's Python code goes on while the engine runs: it counts."""
    graph = linear(np.ones((2000, 2000), np.int64), FixedPoint(8, 0), FixedPoint(32, 0))
    executable = engine.compile(graph)
    x, ticks, during, done = np.ones((120, 2000), np.int8), 0, 0, False

    def tick() -> None:
        nonlocal ticks
        while not done:
            ticks += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with ThreadPoolExecutor(1) as pool:
            counting = pool.submit(tick)
            model, out = executable._model, [np.empty((120, 2000), np.int32)]
            for _ in range(50):  # a busy machine may give the counter no core during one run
                before = ticks
                model.run([x], out)
                during = max(during, ticks - before)
                if during > 20_000:  # far more than fits between two lines of Python
                    break
            done = True
            counting.result()
    finally:
        done = True
        sys.setswitchinterval(interval)
    assert during > 20_000


# ---- the C side, built from source -----------------------------------------------------------------------------------


def build(target: Path, *options: str) -> Path:
    """The C tests and programs, built into ``target``."""
    if shutil.which("cmake") is None or shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no cmake or no C compiler")
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(target), "-DBITSHIFT_TESTS=ON", *options],
        ["cmake", "--build", str(target)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return target / "cpp" / "tests"


@pytest.mark.slow
def test_the_c_example_prints_the_references_integers(tmp_path: Path) -> None:
    programs = build(tmp_path / "build", "-DCMAKE_BUILD_TYPE=Release")
    graph = small_cnn()
    x = inputs_of(graph, 4)["x"]
    (tmp_path / "x.bin").write_bytes(x.tobytes())
    save(graph, tmp_path / "net.safetensors")
    command = [programs / "bitshift_run", tmp_path / "net.safetensors", tmp_path / "x.bin"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    got = [[int(v) for v in line.split(":")[1].split()] for line in done.stdout.splitlines()]
    np.testing.assert_array_equal(np.array(got), execute(graph, {"x": x})["y"])
    failed = subprocess.run([*command[:2], tmp_path / "net.safetensors"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "bytes" in failed.stderr


@pytest.mark.slow
def test_ten_thousand_changed_files_under_sanitizers(tmp_path: Path) -> None:
    """Each is refused or runs: no crash, no read or write out of range, no undefined behaviour, no leak."""
    programs = build(tmp_path / "build", "-DBITSHIFT_SANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=RelWithDebInfo")
    graphs = tmp_path / "graphs"
    shutil.copytree(DATA, graphs)
    for seed in range(100):
        save(random_case(seed, floats=seed % 4 == 0).graph, graphs / f"more_{seed}.safetensors")
    fuzz = [programs / "bitshift_fuzz"]
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
    for options in (["--expect-valid"], ["--mutations", "10000", "--seed", "11"]):
        done = subprocess.run([*fuzz, *options, graphs], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-4000:]
    ran = int(done.stderr.split()[0])
    assert ran > 500, done.stderr


def test_the_module_exports_nothing_but_its_entry() -> None:
    """The static library's symbols stay inside: two extensions with an engine each could live in one process."""
    library = ctypes.CDLL(engine._engine.__file__)
    assert hasattr(library, "PyInit__engine")
    assert not hasattr(library, "bsk_conv_int")
