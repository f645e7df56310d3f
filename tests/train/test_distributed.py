"""Two processes train what one process trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitshift.nn.method import METHODS, get_method
from bitshift.train.distributed import World, join_world, pick_device

WORKER = Path(__file__).with_name("ddp_worker.py")
STEPS = 3
get_method("denseshift")  # fills the registry
CASES = ["float", "branch", *sorted(METHODS)]


@pytest.fixture(scope="module")
def states(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    done = subprocess.run([sys.executable, str(WORKER), str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("method", CASES)
def test_replicas_are_equal_to_the_bit_after_every_step(states, method):
    first, second = (np.load(states / f"{method}-2-{rank}.npz") for rank in (0, 1))
    assert first.files == second.files
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("method", CASES)
def test_two_processes_equal_one_with_the_joint_batch(states, method):
    one, two = (np.load(states / f"{method}-{world}-0.npz") for world in (1, 2))
    assert one.files == two.files
    for name in one.files:
        if "/codes/" in name or name.startswith("0/"):
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
            continue
        key = name.split("/", 1)[1]
        # a gradient element is a sum of at most 16 rows x 16 positions; another order of K float32 terms moves it
        # by at most K * 2^-24 of the terms' size, which the largest change of the tensor stands for; momentum adds up
        # the steps, 1 / (1 - 0.9)
        change = max(np.abs(one[f"{s}/{key}"] - one[f"{s - 1}/{key}"]).max() for s in range(1, STEPS + 1))
        bound = 256 * 2.0**-24 * 10 * change + 2.0**-23 * np.abs(one[name]).max()
        error = np.abs(one[name].astype(np.float64) - two[name]).max()
        assert error <= bound, f"{name}: {error} over {bound}"


@pytest.mark.parametrize("method", CASES)
def test_three_steps_move_the_weights(states, method):
    one = np.load(states / f"{method}-1-0.npz")
    assert any(not np.array_equal(one[name], one["0/" + name[2:]]) for name in one.files if name.startswith("3/"))


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="device='cpu'"):
        pick_device("cuda")


def test_collectives_of_one_process_change_nothing():
    import torch

    value = torch.tensor([3.0])
    assert World().sum(value).item() == 3.0
    assert World().gather(value) == [value]
