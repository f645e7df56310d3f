"""Processes of torchrun that die, stop, or come back in another number."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bitshift.train.checkpoint import load_checkpoint

WORKER = Path(__file__).with_name("elastic_worker.py")
VOLATILE = ("seconds", "images_per_s")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Three classes of made pictures of 8x8: 48 to train on, 15 to test."""
    from PIL import Image

    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 5)):
        for c, name in enumerate(("ant", "bee", "cat")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = rng.integers(0, 90, (8, 8, 3)) + np.eye(3, dtype=int)[c] * 120
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")
    return root


def torchrun(
    folder: Path, photos: Path, kills: dict, *, processes: int, streamed: bool = False, nodes: Sequence[str] = ()
) -> subprocess.Popen:
    """A launcher of ``processes``, the only one unless ``nodes`` has its flags about the others."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "BITSHIFT_CACHE": str(folder / "cache"),
        "STREAMED": "1" if streamed else "",
    }  # fmt: skip
    command = [
        *(sys.executable, "-m", "torch.distributed.run", *(nodes or ["--standalone"])),
        *("--nproc-per-node", str(processes)),
        *("--max-restarts", "3", "--monitor-interval", "0.2", str(WORKER), str(folder), str(photos), json.dumps(kills)),
    ]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def same(folder: Path) -> None:
    """FOLDER/killed equals FOLDER/undisturbed to the bit, and nothing is left half-written."""
    one, two = folder / "undisturbed", folder / "killed"
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    first, second = load_checkpoint(one), load_checkpoint(two)
    assert first is not None
    assert second is not None
    different = [k for k in first.tensors if first.tensors[k].numpy().tobytes() != second.tensors[k].numpy().tobytes()]
    assert not different
    metrics = []
    for run in (one, two):
        found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        metrics.append([{k: v for k, v in line.items() if k not in VOLATILE} for line in found])
        steps = [line["step"] for line in found if line["kind"] == "step"]
        assert steps == list(range(1, 19)), "every step once"
    assert metrics[0] == metrics[1]
    assert not list(two.glob(".*.tmp"))


def kill_and_compare(folder: Path, photos: Path, kills: dict, *, processes: int, streamed: bool = False) -> None:
    with torchrun(folder, photos, kills, processes=processes, streamed=streamed) as job:
        _, errors = job.communicate(timeout=280)
    assert job.returncode == 0, errors[-3000:]
    lives = {int(line.split()[0]) for line in (folder / "lives").read_text().splitlines()}
    assert lives == set(range(len(kills) + 1)), "each kill ended one life of the job"
    same(folder)


@pytest.mark.slow
def test_a_killed_process_leads_to_a_restart_of_all_and_to_the_same_end(tmp_path, photos):
    kill_and_compare(tmp_path, photos, {"0": [1, 9]}, processes=2)


@pytest.mark.slow
def test_four_processes_on_streamed_photos_survive_three_kills(tmp_path, photos):
    kill_and_compare(tmp_path, photos, {"0": [3, 1], "1": [0, 8], "2": [2, 15]}, processes=4, streamed=True)


@pytest.mark.slow
def test_sigterm_to_torchrun_ends_in_a_checkpoint_that_goes_on(tmp_path, photos):
    with torchrun(tmp_path, photos, {"0": [-1, -1]}, processes=2) as job:
        state = tmp_path / "killed" / "checkpoint.json"
        end = time.monotonic() + 120
        while not state.exists() and time.monotonic() < end and job.poll() is None:
            time.sleep(0.01)
        job.send_signal(signal.SIGTERM)
        _, errors = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "SIGTERM: stopped after step" in errors or (tmp_path / "killed" / "model.safetensors").exists()
    assert load_checkpoint(tmp_path / "killed") is not None
    kill_and_compare(tmp_path, photos, {}, processes=2)


@pytest.mark.slow
def test_two_nodes_survive_a_kill_on_either_of_them(tmp_path, photos):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "two"]
    kills = {"0": [0, 4], "1": [1, 11]}
    jobs = [torchrun(tmp_path, photos, kills, processes=1, nodes=nodes) for _ in range(2)]
    errors = [job.communicate(timeout=280)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(text[-3000:] for text in errors)
    lives = [line.split()[0] for line in (tmp_path / "lives").read_text().splitlines()]
    assert len(lives) >= 4, "a kill started both nodes again"
    assert max(lives) >= "1"
    same(tmp_path)
