"""Generated C on the machine of the tests: compiled under sanitizers, run through a pipe."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from bitshift.backends.c99 import golden
from bitshift.backends.c99.export import render
from bitshift.backends.c99.unit import Unit, compile_graph
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph
from bitshift.core.ops.quantize import quantize

CC = os.environ.get("CC", "cc")
FLAGS = ("-std=c99", "-O0", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

needs_cc = pytest.mark.skipif(shutil.which(CC) is None, reason=f"no C compiler {CC!r}")

_MAIN = """\
#include "{name}.h"
#include <stdio.h>
{buffers}
int main(void)
{{
    for (;;) {{
        if (fread(x{first}, 1, sizeof x{first}, stdin) != sizeof x{first}) {{ return {name}_selftest(); }}
{reads}
        {name}_run({call});
{writes}
    }}
}}
"""


def build(unit: Unit, folder: Path, *, name: str = "model", flags: tuple[str, ...] = (*FLAGS, *SANITIZE)) -> Path:
    """The program that runs ``unit`` on samples from stdin, one after the other, and then its self-test."""
    texts = render(unit, name=name)
    ins = [f"x{i}" if len(unit.program.inputs) > 1 else "x" for i in range(len(unit.program.inputs))]
    outs = [f"y{i}" if len(unit.program.outputs) > 1 else "y" for i in range(len(unit.program.outputs))]
    ports = [b.port for b in (*unit.program.inputs, *unit.program.outputs)]
    texts["main.c"] = _MAIN.format(
        name=name,
        first=ins[0][1:],
        buffers="\n".join(f"static {p.ctype} {v}[{p.size}];" for v, p in zip(ins + outs, ports, strict=True)),
        reads="\n".join(
            f"        if (fread({v}, 1, sizeof {v}, stdin) != sizeof {v}) {{ return 99; }}" for v in ins[1:]
        ),
        call=", ".join(ins + outs),
        writes="\n".join(f"        fwrite({v}, 1, sizeof {v}, stdout);" for v in outs),
    )
    for file, text in texts.items():
        (folder / file).write_text(text)
    program = folder / "host"
    sources = [file for file in texts if file.endswith(".c")]
    done = subprocess.run([CC, *flags, *sources, "-o", str(program)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    return program


def run(unit: Unit, program: Path, integers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs (N, *shape) as integers for ``integers`` (N, *shape) by input; the self-test must pass, too."""
    borders = unit.program.inputs
    count = len(next(iter(integers.values())))
    data = b"".join(integers[b.name][i].tobytes() for i in range(count) for b in borders)
    done = subprocess.run([str(program)], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[:4000] or f"the self-test gave {done.returncode}"
    found, at, stream = {b.name: [] for b in unit.program.outputs}, 0, done.stdout
    for _ in range(count):
        for border in unit.program.outputs:
            part = np.frombuffer(stream, dtype=border.port.type.dtype, count=border.port.size, offset=at)
            found[border.name].append(part.reshape(border.port.shape))
            at += border.port.size_bytes
    assert at == len(stream)
    ports = {b.name: b.port for b in unit.program.outputs}
    return {n: np.array(parts, dtype=ports[n].type.dtype).reshape(count, *ports[n].shape) for n, parts in found.items()}


def assert_equal(graph: Graph, inputs: Mapping[str, np.ndarray], folder: Path, *, mode: str = "auto") -> Unit:
    """The C form of ``graph`` gives the reference's integers for ``inputs`` (N, *shape)."""
    unit = compile_graph(graph, mode=mode)
    integers = {}
    for border in unit.program.inputs:
        array = inputs[border.name]
        if isinstance(graph.values[border.name].type, Float32):
            array = quantize(array, border.port.type, border.rounding)
        integers[border.name] = array
    got = run(unit, build(unit, folder), integers)
    expected = golden.outputs(unit.program, integers)
    for name, array in expected.items():
        assert isinstance(unit.program.outputs[0].port.type, FixedPoint)
        np.testing.assert_array_equal(got[name], array, err_msg=graph.pretty())
        assert got[name].dtype == array.dtype
    return unit
