"""``bitshift emit-c``: what it writes and says, the folders that other tools take, and its messages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitshift import export_c
from bitshift.cli import main
from bitshift.core import modelfile
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node, Value
from c99_host import CC, FLAGS, SANITIZE, needs_cc

LABELS = ["cat", 'a "quoted" \\ one', "grün??/"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A convolution and a linear layer."""
    rng = np.random.default_rng(0)
    s8, wide = FixedPoint(8, 5), FixedPoint(32, 7)
    values = {
        "x": Value("x", (1, 6, 6), s8), "a": Value("a", (4, 3, 3), FixedPoint(8, 4, signed=False)),
        "f": Value("f", (36,), FixedPoint(8, 4, signed=False)), "y": Value("y", (3,), wide),
    }  # fmt: skip
    conv = {
        "format": "pot3d", "stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1
    }  # fmt: skip
    nodes = (
        Node("conv", ("x",), "a", conv, {"codes": "c", "shift": "s", "offset": "o"}, "stem"),
        Node("reshape", ("a",), "f", {"shape": (36,)}),
        Node("linear", ("f",), "y", {"format": "pot4x2"}, {"codes": "d"}, "head"),
    )
    constants = {
        "c": rng.integers(0, 8, (4, 1, 3, 3)).astype(np.uint8), "s": np.array([3, 4, 5, 6], np.uint8),
        "o": rng.integers(-500, 500, 4), "d": rng.integers(0, 16, (3, 36)).astype(np.uint8),
    }  # fmt: skip
    meta = {
        "labels": LABELS,
        "preprocess": {"kind": "image", "channels": 1, "size": [6, 6], "mean": [128.0], "scale": [1 / 64]},
    }
    path = tmp_path / "net.safetensors"
    modelfile.save(Graph(("x",), ("y",), values, nodes, constants, meta), path)
    return path


def compile_and_run(folder: Path, source: str, *more: str) -> str:
    (folder / "main.c").write_text(source)
    command = [CC, *FLAGS, *SANITIZE, "main.c", *more, "-o", "program"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return subprocess.run(["./program"], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("mean", "scale", "said"),
    [
        (128.0, 1 / 32, ": q = pixel - 128. */"),
        (128.0, 1 / 64, "scale 0.015625. */"),
        (100.0, 1 / 32, "scale 0.03125. */"),
    ],
)
def test_the_header_says_how_a_pixel_becomes_an_integer(
    mean: float, scale: float, said: str, model: Path, tmp_path: Path
) -> None:
    graph = modelfile.load(model)
    pixels = {**graph.meta["preprocess"], "mean": [mean], "scale": [scale]}
    export_c(replace(graph, meta={**graph.meta, "preprocess": pixels}), tmp_path / "firmware")
    (line,) = [
        line for line in (tmp_path / "firmware" / "model.h").read_text().splitlines() if "by channel mean" in line
    ]
    assert line.endswith(said)


@needs_cc
def test_the_written_files_pass_their_self_test_and_carry_the_labels(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "firmware"
    assert main(["emit-c", str(model), "-o", str(folder), "--name", "tiny", "--mode", "plain"]) == 0
    assert "RAM: 48 B beside 36 B of input and 12 B of output" in capsys.readouterr().out
    assert {p.name for p in folder.iterdir()} == {"tiny.h", "tiny.c", "tiny_selftest.c", "README.md"}
    text = compile_and_run(
        folder,
        '#include <stdio.h>\n#include "tiny.h"\nstatic const char *const labels[] = TINY_LABELS;\n'
        'int main(void) { printf("%d %s %d\\n", tiny_selftest(), labels[1], TINY_INPUT_FRAC);'
        ' printf("%s\\n", labels[2]); return 0; }\n',
        "tiny.c", "tiny_selftest.c",
    )  # fmt: skip
    assert text == '0 a "quoted" \\ one 5\ngrün??/\n'


@needs_cc
def test_the_firmware_may_place_the_arena(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "firmware"
    assert main(["emit-c", str(model), "-o", str(folder)]) == 0
    source = (
        '#include "model.h"\nextern uint32_t mine[];\nuint32_t mine[MODEL_ARENA_BYTES / 4];\n'
        "int main(void) { return model_selftest(); }\n"
    )
    compile_and_run(folder, source, "-DMODEL_ARENA=mine", "model.c", "model_selftest.c")


@needs_cc
def test_a_wrong_output_fails_the_self_test_with_its_number(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "firmware"
    assert main(["emit-c", str(model), "-o", str(folder), "--samples", "2"]) == 0
    test = folder / "model_selftest.c"
    stored = test.read_text()
    first = re.search(r"y_stored\[6\] BS_FLASH = \{\s*([^,]+),", stored)
    assert first is not None
    test.write_text(stored.replace(first[0], first[0].replace(first[1], "12345"), 1))
    source = '#include "model.h"\n#include <stdio.h>\nint main(void) { printf("%d", model_selftest()); return 0; }\n'
    assert compile_and_run(folder, source, "model.c", "model_selftest.c") == "1"


def test_two_runs_write_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main(["emit-c", str(model), "-o", str(tmp_path / name)]) == 0
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_json_says_what_it_takes_by_layer(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emit-c", str(model), "-o", str(tmp_path / "f"), "--json", "--mode", "plain"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["kernel"] for row in found["rows"]] == ["plain", "plain"]
    assert found["constants"] == sum(row["constants"] for row in found["rows"])
    # Packed codes: 4 rows of 9 times 3 bits, 3 rows of 36 times 4 bits; 16-bit offsets and the shifts of the conv.
    assert [row["constants"] for row in found["rows"]] == [4 * 4 + 4 * 2 + 4, 3 * 18]


@needs_cc
def test_an_arduino_library_compiles_as_the_ide_does_it(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    assert main(["emit-c", str(model), "-o", str(folder), "--name", "digits", "--arduino"]) == 0
    properties = dict(line.split("=", 1) for line in (folder / "library.properties").read_text().splitlines())
    assert properties["name"] == "digits"
    assert properties["includes"] == "digits.h"
    assert re.fullmatch(r"\d+\.\d+\.\d+", properties["version"])
    sketch = (folder / "examples" / "selftest" / "selftest.ino").read_text()
    cxx = shutil.which("c++")
    if cxx is None:
        pytest.skip("no C++ compiler for the sketch")
    fake = "struct Port { void begin(long) {} void println(const char *) {} operator bool() { return 1; } };\n"
    fake += "Port Serial;\n"
    (tmp_path / "sketch.cpp").write_text(f"{fake}{sketch}int main() {{ setup(); loop(); }}\n")
    objects = []
    for file in ("digits.c", "digits_selftest.c"):
        objects.append(str(tmp_path / f"{file}.o"))
        subprocess.run([CC, *FLAGS, "-c", str(folder / "src" / file), "-o", objects[-1]], check=True)
    command = [cxx, "-Wall", "-Werror", f"-I{folder / 'src'}", str(tmp_path / "sketch.cpp"), *objects]
    subprocess.run([*command, "-o", str(tmp_path / "sketch")], check=True)
    subprocess.run([str(tmp_path / "sketch")], check=True)


def test_a_zephyr_module_names_its_parts(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "module"
    assert main(["emit-c", str(model), "-o", str(folder), "--zephyr"]) == 0
    module = (folder / "zephyr" / "module.yml").read_text()
    assert "cmake: zephyr" in module
    cmake = (folder / "zephyr" / "CMakeLists.txt").read_text()
    for file in re.findall(r"\.\./src/[\w.]+", cmake):
        assert (folder / "zephyr" / file).exists()
    symbols = set(re.findall(r"CONFIG_(\w+)", cmake))
    assert symbols == set(re.findall(r"^config (\w+)", (folder / "zephyr" / "Kconfig").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ram", "12"], "ram is 12 bytes; the smallest"),
        (["--flash", "50"], "flash is 50 bytes: train with"),
        (["--ram", "0"], "ram is 0: needed is a whole number of bytes, 1 or more"),
        (["--target", "cortex-m00"], "unknown target 'cortex-m00'; did you mean 'cortex-m0'"),
        (["--name", "1st"], "name '1st': allowed are C identifiers"),
        (["--example"], "target 'generic' has no emulated board"),
    ],
)
def test_a_wrong_flag_ends_with_code_2_and_says_what_helps(
    flags: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["emit-c", str(model), "-o", str(tmp_path / "f"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_a_file_in_the_folders_place_is_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emit-c", str(model), "-o", str(model)]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err
