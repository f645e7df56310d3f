"""A run that is killed at any moment and resumed ends where the undisturbed run ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bitshift.train.checkpoint import load_checkpoint

WORKER = Path(__file__).with_name("kill_worker.py")


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_s")} for line in lines]


def kill_and_compare(folder: Path, *, seed: int, kills: int) -> None:
    done = subprocess.run(
        [sys.executable, str(WORKER), str(folder), str(seed), str(kills)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    fell = json.loads(done.stdout)
    assert len(fell) == kills, f"the run finished before all kills had fallen: {fell}"
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    assert (undisturbed / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes(), fell
    one, two = load_checkpoint(undisturbed), load_checkpoint(killed)
    assert one is not None
    assert two is not None
    assert one.tensors.keys() == two.tensors.keys()
    different = [
        name for name in one.tensors if one.tensors[name].numpy().tobytes() != two.tensors[name].numpy().tobytes()
    ]
    assert not different, f"{different} after kills at {fell}"
    assert metrics(undisturbed) == metrics(killed)
    assert not list(killed.glob(".*.tmp")), "a finished run leaves no partial file"


def test_two_kills_change_no_bit_of_the_result(tmp_path):
    kill_and_compare(tmp_path, seed=1, kills=2)


@pytest.mark.slow
def test_twenty_random_kills_change_no_bit_of_the_result(tmp_path):
    kill_and_compare(tmp_path, seed=2, kills=20)
