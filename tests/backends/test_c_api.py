"""The engine without Python: what an installation holds, programs built against it, and ``bitshift-run``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import bitshift
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph, Node, Value
from bitshift.core.modelfile import load, save
from bitshift.core.ops.dequantize import dequantize
from bitshift.core.ops.quantize import quantize
from bitshift.core.reference import execute

ROOT = Path(__file__).resolve().parents[2]
CPP = ROOT / "cpp"
NET = CPP / "tests" / "data" / "small_cnn.safetensors"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("cmake", "cc", "c++", "pkg-config", "nm")),
        reason="needs cmake, cc, c++, pkg-config and nm",
    ),
]


def call(*command: object, env: Mapping[str, str] | None = None) -> str:
    """What a command prints; it must end well."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | dict(env or {}))
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@dataclass(frozen=True)
class Installed:
    """An installation under ``prefix``, moved there from where it was installed to."""

    prefix: Path

    @property
    def library(self) -> Path:
        (found,) = self.prefix.glob("lib*/**/libbitshift.so")
        return found

    @property
    def env(self) -> dict[str, str]:
        pc = str(self.library.parent / "pkgconfig")
        return {"PKG_CONFIG_PATH": pc, "LD_LIBRARY_PATH": str(self.library.parent), "BITSHIFT_TUNE": "off"}

    def flags(self, *options: str) -> list[str]:
        return call("pkg-config", *options, "bitshift", env=self.env).split()

    def run(self, *arguments: object) -> str:
        return call(self.prefix / "bin" / "bitshift-run", *arguments, env=self.env)

    def refused(self, *arguments: object) -> str:
        words = [str(self.prefix / "bin" / "bitshift-run"), *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | self.env)
        assert done.returncode == 1
        assert done.stderr.startswith("bitshift-run: ")
        return done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    build, first, prefix = (tmp_path_factory.mktemp("c") / name for name in ("build", "first", "moved"))
    call("cmake", "-S", ROOT, "-B", build, "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_INSTALL_PREFIX={first}")
    call("cmake", "--build", build)
    call("cmake", "--install", build)
    first.rename(prefix)  # pkg-config and CMake must find it wherever it lies
    return Installed(prefix)


def lines(output: str) -> list[list[int]]:
    """The integers that examples/run.c prints, by sample."""
    return [[int(v) for v in line.split(":")[1].split()] for line in output.splitlines()]


def samples(graph: Graph, count: int, seed: int = 0) -> np.ndarray:
    (value,) = (graph.values[name] for name in graph.inputs)
    assert isinstance(value.type, FixedPoint)
    rng = np.random.default_rng(seed)
    return rng.integers(value.type.lo, value.type.hi + 1, (count, *value.shape)).astype(value.type.dtype)


# ---- the libraries ---------------------------------------------------------------------------------------------------


def test_the_shared_library_exports_the_header_and_nothing_else(installed: Installed) -> None:
    header = (installed.prefix / "include" / "bitshift" / "bitshift.h").read_text()
    declared = set(re.findall(r"^BS_API [\w *]+?\*?(bs_\w+)\(", header, re.MULTILINE))
    assert len(declared) > 12
    exported = {line.split()[-1] for line in call("nm", "-D", "--defined-only", installed.library).splitlines()}
    assert exported == declared


def test_programs_built_against_a_minor_version_find_its_library(installed: Installed) -> None:
    minor = ".".join(bitshift.__version__.split(".")[:2])
    names = {path.name for path in installed.library.parent.glob("libbitshift.so*")}
    assert names == {"libbitshift.so", f"libbitshift.so.{minor}", f"libbitshift.so.{bitshift.__version__}"}
    assert installed.flags("--modversion") == [bitshift.__version__]


@pytest.mark.parametrize("static", [False, True])
def test_the_c_example_built_with_pkg_config_prints_the_references_integers(
    installed: Installed, static: bool, tmp_path: Path
) -> None:
    flags = installed.flags("--cflags", "--libs", *["--static"] * static)
    if static:
        flags = [f"-l:lib{flag[2:]}.a" if flag == "-lbitshift" else flag for flag in flags]
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    call("cc", *strict, CPP / "examples" / "run.c", "-o", tmp_path / "run", *flags)
    graph = load(NET)
    x = samples(graph, 5)
    (tmp_path / "x.bin").write_bytes(x.tobytes())
    env = {key: "" if static and key == "LD_LIBRARY_PATH" else value for key, value in installed.env.items()}
    got = lines(call(tmp_path / "run", NET, tmp_path / "x.bin", env=env))
    np.testing.assert_array_equal(np.array(got), execute(graph, {"x": x})["y"].reshape(5, -1))


def test_the_program_of_the_manual_builds_and_runs(installed: Installed, tmp_path: Path) -> None:
    (source,) = re.findall(r"```c\n(.*?)```", (ROOT / "docs" / "engine-c.md").read_text(), re.DOTALL)
    (tmp_path / "net.c").write_text(source)
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
    call("cc", *strict, tmp_path / "net.c", "-o", tmp_path / "net", *installed.flags("--cflags", "--libs"))
    assert call(tmp_path / "net", NET, env=installed.env) == f"{NET}: 126 bytes in, 40 bytes out\n"


PROGRAM = """
#include <bitshift/bitshift.h>
#include <cstdio>
int main(int, char **argv) {
  bs_options options = BS_OPTIONS_INIT;
  options.threads = 2;
  bs_model *model = nullptr;
  if (bs_model_load(argv[1], &options, &model) != BS_OK) return 1;
  for (size_t i = 0; i < bs_step_count(model); i++) {
    bs_step step;
    if (bs_step_info(model, i, &step) != BS_OK) return 1;
    std::printf("%s ", step.op);
  }
  bs_free(model);
  std::printf("%s %s\\n", BS_VERSION, bs_version());
}
"""


def test_a_cxx_program_sees_the_steps(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "main.cpp").write_text(PROGRAM)
    strict = ["-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    call("c++", *strict, tmp_path / "main.cpp", "-o", tmp_path / "main", *installed.flags("--cflags", "--libs"))
    words = call(tmp_path / "main", NET, env=installed.env).split()
    assert words[-2:] == [bitshift.__version__] * 2
    assert words.count("conv") == 2
    assert "linear" in words


@pytest.mark.parametrize("target", ["bitshift", "static"])
def test_cmake_finds_it(installed: Installed, target: str, tmp_path: Path) -> None:
    (tmp_path / "main.cpp").write_text(PROGRAM)
    minor = ".".join(bitshift.__version__.split(".")[:2])
    (tmp_path / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.22)
project(user LANGUAGES CXX)
find_package(bitshift {minor} REQUIRED)
add_executable(main main.cpp)
target_link_libraries(main PRIVATE bitshift::{target})
""")
    call("cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed.prefix}")
    call("cmake", "--build", tmp_path / "build")
    assert "conv" in call(tmp_path / "build" / "main", NET, env=installed.env)


# ---- bitshift-run ----------------------------------------------------------------------------------------------------


def two_ends(tmp_path: Path) -> tuple[Graph, Path]:
    """Two inputs of unlike types and two outputs, one of them float."""
    values = {
        "a": Value("a", (2, 3), FixedPoint(5, 2)), "b": Value("b", (2, 3), FixedPoint(12, 4, signed=False)),
        "sum": Value("sum", (2, 3), FixedPoint(16, 4)), "real": Value("real", (2, 3), Float32()),
    }  # fmt: skip
    nodes = (Node("add", ("a", "b"), "sum", {}), Node("dequantize", ("sum",), "real", {}))
    graph = Graph(("a", "b"), ("sum", "real"), values, nodes, {})
    save(graph, tmp_path / "two.safetensors")
    return graph, tmp_path / "two.safetensors"


def test_it_says_what_it_is(installed: Installed) -> None:
    version, built, here = installed.run("--version").splitlines()
    assert version == f"bitshift {bitshift.__version__}"
    assert set(here.split()[1:]) <= set(built.split()[2:])
    assert here.endswith("portable")


def test_it_describes_a_model_and_its_steps(installed: Installed) -> None:
    text = installed.run(NET, "--info", "--threads", 1)
    assert "input   x  s8.7 [2, 9, 7], 126 bytes a sample" in text
    assert sum(" conv " in line for line in text.splitlines()) == 2


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("isa", ["auto", "portable"])
def test_arrays_go_in_and_out(installed: Installed, version: tuple[int, int], isa: str, tmp_path: Path) -> None:
    graph = load(NET)
    x = samples(graph, 3)
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, x, version=version)
    x.tofile(tmp_path / "x.bin")
    expected = execute(graph, {"x": x})["y"]
    for source in ("x.npy", "x.bin"):
        out = tmp_path / "y.npy"
        installed.run(NET, "--input", tmp_path / source, f"--output={out}", "--isa", isa, "--threads", 2)
        got = np.load(out)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    installed.run(NET, "--input", tmp_path / "x.bin", "--output", tmp_path / "y.bin")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "y.bin", expected.dtype).reshape(expected.shape), expected)
    installed.run(NET, "--input", tmp_path / "x.npy", "--output", out, "--float")
    np.testing.assert_array_equal(np.load(out), dequantize(expected, graph.values["y"].type))
    # One sample needs no batch axis, and NumPy's own order of the header's keys is not the only one.
    np.save(tmp_path / "one.npy", x[0])
    installed.run(NET, "--input", tmp_path / "one.npy", "--output", out)
    np.testing.assert_array_equal(np.load(out), expected[:1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_quantised_by_the_rule_of_the_op(installed: Installed, dtype: type, tmp_path: Path) -> None:
    graph, path = two_ends(tmp_path)
    rng = np.random.default_rng(1)
    arrays = {name: (rng.standard_normal((50, 2, 3)) * 8).astype(dtype) for name in "ab"}
    arrays["a"].flat[:8] = [0.125, -0.125, 0.375, np.nan, np.inf, -np.inf, 1e30, -1e-30]
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    inputs = [f"--input={name}={tmp_path / name}.npy" for name in "ba"]
    installed.run(path, *inputs, f"--output=real={tmp_path}/real.npy", f"--output=sum={tmp_path}/sum.npy")
    expected = execute(graph, {name: quantize(array, graph.values[name].type) for name, array in arrays.items()})
    np.testing.assert_array_equal(np.load(tmp_path / "sum.npy"), expected["sum"])
    np.testing.assert_array_equal(np.load(tmp_path / "real.npy"), expected["real"])


def test_random_samples_lie_in_the_range_of_the_type(installed: Installed, tmp_path: Path) -> None:
    """The engine refuses integers beyond it, so that a wrong one would not run."""
    _, path = two_ends(tmp_path)
    for seed in range(3):
        text = installed.run(path, "--batch", 500, "--seed", seed)
        assert text.startswith("sum  s16.4 [2, 3]:")


def test_it_times_and_profiles(installed: Installed, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    text = installed.run(NET, "--repeat", 7, "--profile", trace, "--threads", 2, "--batch", 3)
    assert re.search(r"^7 runs of 3 samples: median [\d.e+-]+ ms", text, re.MULTILINE)
    assert sum(re.search(r"\d%.*\bconv\b", line) is not None for line in text.splitlines()) == 2
    events = json.loads(trace.read_text())["traceEvents"]
    assert {event["args"]["run"] for event in events} == set(range(7))
    assert {"conv", "linear"} <= {event["cat"] for event in events}
    assert all(event["ph"] == "X" and event["dur"] >= 0 and event["ts"] >= 0 for event in events)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage: bitshift-run"),
        (["/nowhere"], "/nowhere: No such file"),
        (["{net}", "--what"], "unknown option --what"),
        (["{net}", "--threads", "many"], "whole number"),
        (["{net}", "--isa", "abacus"], "abacus"),
        (["{net}", "--repeat"], "needs a value"),
        (["{net}", "--input", "{dir}/wide.npy"], "has dtype <i8; input x (s8.7 [2, 9, 7]) needs |i1 (its integers) or"),
        (["{net}", "--input", "{dir}/shape.npy"], "has shape (3, 5); input x needs (2, 9, 7)"),
        (["{net}", "--input", "{dir}/fortran.npy"], "Fortran order"),
        (["{net}", "--input", "{dir}/cut.npy"], "bytes of data"),
        (["{net}", "--input", "{dir}/odd.bin"], "samples of 126 bytes"),
        (["{net}", "--input", "{dir}/x.npy", "--input", "{dir}/x.npy"], "the model has 1"),
        (["{net}", "--output", "/nowhere/y.npy"], "/nowhere/y.npy: No such file"),
        (["{dir}/odd.bin"], "odd.bin: "),
    ],
)
def test_it_refuses_with_a_reason(installed: Installed, arguments: list[str], said: str, tmp_path: Path) -> None:
    x = samples(load(NET), 2)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "wide.npy", x.astype(np.int64))
    np.save(tmp_path / "shape.npy", np.zeros((3, 5), np.int8))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(x))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    (tmp_path / "odd.bin").write_bytes(bytes(125))
    assert said in installed.refused(*(word.format(net=NET, dir=tmp_path) for word in arguments))


def test_integers_outside_of_a_narrow_type_are_refused(installed: Installed, tmp_path: Path) -> None:
    _, path = two_ends(tmp_path)
    np.save(tmp_path / "a.npy", np.full((1, 2, 3), 16, np.int8))
    np.save(tmp_path / "b.npy", np.zeros((1, 2, 3), np.int16))
    said = installed.refused(path, "--input", tmp_path / "a.npy", "--input", tmp_path / "b.npy")
    assert "'a' holds integers outside of s5.2" in said
