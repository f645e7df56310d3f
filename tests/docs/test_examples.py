"""The examples run as their first lines say, one after the other: train and export with torch, deploy without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NO_TORCH = (
    "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def run(*command: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_network_is_trained_exported_and_deployed_without_torch(tmp_path: Path) -> None:
    said = run(str(EXAMPLES / "convert_your_model.py"), "net.safetensors", cwd=tmp_path)
    accuracy = re.search(r"accuracy ([\d.]+)%.*, 0 outputs differ from training", said)
    assert accuracy is not None, said
    assert float(accuracy[1]) > 80  # a line among three classes; chance is 33 %
    said = run("-c", NO_TORCH, str(EXAMPLES / "deploy.py"), "net.safetensors", cwd=tmp_path)
    assert re.search(r"^integers \[-?\d+, -?\d+, -?\d+\]$", said, re.MULTILINE), said
    assert re.search(r"^class    (across|down|nothing)$", said, re.MULTILINE), said
