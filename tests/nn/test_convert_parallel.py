"""Converted networks under DistributedDataParallel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.slow
def test_processes_keep_equal_parameters_although_their_first_batches_differ(tmp_path: Path) -> None:
    """The scales of the activations come from the first batches of all processes together."""
    worker = Path(__file__).with_name("convert_parallel_worker.py")
    runs = [
        subprocess.Popen(
            [sys.executable, str(worker), str(tmp_path), str(rank)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
    files = sorted(tmp_path.glob("*0.pt"))
    assert len(files) == 4
    for path in files:
        one = torch.load(path, weights_only=True)
        two = torch.load(tmp_path / path.name.replace("0.pt", "1.pt"), weights_only=True)
        for key, value in one.items():
            assert torch.equal(value, two[key]), f"{path.stem}: {key}"
