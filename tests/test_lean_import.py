"""The runtime path needs no torch: it is blocked in a fresh process, and everything a device needs still works."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node, Value
from bitshift.core.modelfile import save

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "tyro", "rich", "PIL", "matplotlib"):
            raise ModuleNotFoundError(f"{name} is blocked on the runtime path", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """``code`` in a new interpreter where importing torch (and whatever only the command line needs) fails."""
    script = BLOCKER + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=120, check=False
    )


def small_model(path: Path) -> Path:
    values = {"x": Value("x", (3,), FixedPoint(8, 4)), "y": Value("y", (2,), FixedPoint(32, 6))}
    node = Node("linear", ("x",), "y", {"format": "pot3d"}, {"codes": "w", "offset": "b"}, "fc")
    codes, offset = np.array([[0, 1, 5], [2, 7, 4]], np.uint8), np.array([3, -2], np.int64)
    save(Graph(("x",), ("y",), values, (node,), {"w": codes, "b": offset}), path)
    return path


def test_the_blocker_blocks() -> None:
    result = run("import torch")
    assert result.returncode == 1
    assert "torch is blocked" in result.stderr


@pytest.mark.parametrize(
    "module",
    ["bitshift", "bitshift.runtime", "bitshift.core.reference", "bitshift.core.modelfile", "bitshift.backends"],
)
def test_a_runtime_module_imports_without_torch(module: str) -> None:
    result = run(f"import {module}, sys; assert 'torch' not in sys.modules")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_a_file_runs_without_torch(tmp_path: Path, backend: str) -> None:
    code = """
    import sys
    import numpy as np
    import bitshift
    model = bitshift.load(sys.argv[1], backend=sys.argv[2])
    x = np.array([[1, -2, 3], [127, -128, 0]], np.int8)
    y = model.run_int(x)
    assert y.dtype == np.int32, y.dtype
    assert y.tolist() == [[1 - 4 - 6 + 3, 4 + 16 - 3 - 2], [127 - 256 + 3, 508 + 1024 - 2]], y
    assert np.array_equal(model.run(x), y * 2.0**-6), model.run(x)
    assert "torch" not in sys.modules
    """
    result = run(code, str(small_model(tmp_path / "net.safetensors")), backend)
    assert result.returncode == 0, result.stderr


def test_asking_for_training_without_torch_says_what_to_install() -> None:
    result = run("import bitshift; bitshift.freeze")
    assert result.returncode == 1
    assert "pip install 'bitshift[torch]'" in result.stderr
