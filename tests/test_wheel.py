"""Building and installing: the wheel's content and size, and a machine without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow
NO_COMPILER = {"CC": "/nowhere/cc", "CXX": "/nowhere/c++"}


def build(target: Path, **environment: str) -> tuple[Path, str]:
    """The wheel of this checkout, built without touching its build folder, and what pip printed."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "-v",
        "--no-deps",
        "--no-build-isolation",
    ]
    command = [*pip, f"--config-settings=build-dir={target / 'build'}", "-w", str(target), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    (wheel,) = target.glob("*.whl")
    return wheel, done.stdout + done.stderr


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_engine_and_nothing_that_is_not_the_package(tmp_path: Path) -> None:
    wheel, _ = build(tmp_path)
    assert wheel.stat().st_size < 5_000_000
    content = names(wheel)
    assert any(name.startswith("bitshift/_engine.") and name.endswith((".so", ".pyd")) for name in content)
    assert "bitshift/py.typed" in content
    tops = {name.split("/")[0] for name in content}
    assert tops == {"bitshift", f"bitshift-{wheel.name.split('-')[1]}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in content)


def test_without_a_compiler_it_installs_and_says_once_that_the_reference_runs(tmp_path: Path) -> None:
    wheel, log = build(tmp_path, **NO_COMPILER)
    assert not any("_engine." in name and not name.endswith(".pyi") for name in names(wheel))
    assert "reference" in log, "the build must say what the missing compiler means"

    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = f"""
import sys
sys.path = [{str(site)!r}] + [p for p in sys.path if 'bitshift' not in p]
sys.meta_path = [f for f in sys.meta_path if 'editable' not in type(f).__module__ + type(f).__name__.lower()]
import numpy as np, bitshift
assert bitshift.__file__.startswith({str(site)!r}), bitshift.__file__
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node, Value
from bitshift.core.modelfile import save
values = {{n: Value(n, (4,), FixedPoint(8, 0)) for n in "xy"}}
graph = Graph(("x",), ("y",), values, (Node("clamp", ("x",), "y", {{"lo": 0, "hi": None}}),), {{}})
save(graph, {str(tmp_path / "net.safetensors")!r})
for _ in range(2):
    model = bitshift.load({str(tmp_path / "net.safetensors")!r})
print(model.backend, model.run_int(np.array([[-3, 0, 5, 127]], np.int8)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "reference" in done.stdout
    assert "[[  0   0   5 127]]" in done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "engine" in done.stderr
    assert "reference" in done.stderr
