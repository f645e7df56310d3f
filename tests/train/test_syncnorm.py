"""Two and four processes train the curve of one: norms, quantisers and calibration see the joint batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from bitshift.nn.norms import AffineNorm, ShiftNorm
from bitshift.train.checkpoint import load_checkpoint, load_tensors
from bitshift.train.syncnorm import joint_norms
from train.tiny_run import lines

WORKER = Path(__file__).with_name("norm_worker.py")
NORMS = ["batch", "plain", "average", "untracked", "vector", "affine", "shift", "mean_only"]
NETS = ["float", "denseshift", "integer", "multiplier", "folded"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("norms")
    done = subprocess.run([sys.executable, str(WORKER), str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_over_several_processes_is_the_norm_over_their_joint_batch(runs, norm, world):
    one = np.load(runs / "norm-1-0.npz")
    parts = [np.load(runs / f"norm-{world}-{rank}.npz") for rank in range(world)]
    names = [name for name in one.files if name.startswith(norm + "/")]
    assert len(names) >= 2
    for name in names:
        shared = not name.endswith(("/output", "/input"))
        got = parts[0][name] if shared else np.concatenate([part[name] for part in parts])
        assert not shared or all(np.array_equal(part[name], got) for part in parts)
        # float64 but for shift norms, where a channel of mean 30 and deviation 0.1 loses log2(300) of float32's 24 bits
        bound = 1e-12 if one[name].dtype == np.float64 else 300 * 2.0**-24 * 2
        assert np.abs(got - one[name]).max() <= bound * max(1.0, np.abs(one[name]).max()), name


def curve(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder, "step")]


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("net", NETS)
def test_the_loss_curve_is_that_of_one_process(runs, net, world):
    one, many = curve(runs / f"{net}-1"), curve(runs / f"{net}-{world}")
    assert len(one) == 8
    assert max(one) > 1.002 * min(one), "the loss moves"
    # another order of the float sums: 2**-24 a term, over a sum of 32 rows x 36 places at most; measured 1e-7. One code
    # or one rounded activation that flips would show as 1e-4 or more
    np.testing.assert_allclose(many, one, rtol=1e-5)


@pytest.mark.parametrize("net", NETS)
def test_the_trained_state_is_that_of_one_process(runs, net):
    one, _ = load_tensors(runs / f"{net}-1" / "model.safetensors")
    four, _ = load_tensors(runs / f"{net}-4" / "model.safetensors")
    for name, tensor in one.items():
        np.testing.assert_allclose(four[name].numpy(), tensor.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_without_joint_norms_the_curve_is_another(runs):
    one, own = curve(runs / "float-1"), curve(runs / "float-2-sync_norm")
    assert np.abs(np.array(own) / one - 1).max() > 1e-3


def test_where_one_process_cannot_compile_none_does(runs):
    assert curve(runs / "denseshift-2-compile") == curve(runs / "denseshift-2")


def test_classes_and_names_are_as_before_behind_the_block():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), AffineNorm(2), ShiftNorm(2))
    kinds, names = [type(m) for m in model], list(model.state_dict())
    with joint_norms(model):
        assert not any(type(m) in kinds for m in model)
        assert all(isinstance(m, kind) for m, kind in zip(model, kinds, strict=True))
        assert list(model.state_dict()) == names
    assert [type(m) for m in model] == kinds


def test_a_norm_of_another_class_is_named(caplog):
    class Own(nn.BatchNorm2d):
        pass

    with joint_norms(nn.Sequential(Own(2))):
        assert "'0' (Own)" in caplog.text


# --- a process that dies, and the number of processes afterwards


@pytest.fixture(scope="module")
def deaths(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("deaths")
    worker = WORKER.with_name("death_worker.py")
    done = subprocess.run([sys.executable, str(worker), str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "goes on with 4 processes instead of 2" in done.stderr
    return folder


def test_who_loses_a_peer_ends_at_once(deaths):
    assert float((deaths / "seconds").read_text()) < 45, "of 60 it would wait for a peer that hangs"


def test_who_waits_for_a_peer_that_hangs_gives_up(deaths):
    assert 2.5 < float((deaths / "patience").read_text()) < 15


def test_the_same_number_of_processes_goes_on_to_the_bit(deaths):
    first, second = load_checkpoint(deaths / "whole"), load_checkpoint(deaths / "again-2")
    assert first is not None
    assert second is not None
    for name, tensor in first.tensors.items():
        assert tensor.numpy().tobytes() == second.tensors[name].numpy().tobytes(), name
    volatile = {"seconds": 0, "images_per_s": 0}
    for kind in ("step", "epoch", "flips", "result"):
        one, two = ([line | volatile for line in lines(deaths / run, kind)] for run in ("whole", "again-2"))
        assert one == two


@pytest.mark.parametrize("world", [1, 4])
def test_another_number_of_processes_goes_on_up_to_rounding(deaths, world):
    whole, again = curve(deaths / "whole"), curve(deaths / f"again-{world}")
    assert [line["step"] for line in lines(deaths / f"again-{world}", "step")] == list(range(1, 17))
    assert again[:9] == whole[:9], "written by two processes"
    np.testing.assert_allclose(again, whole, rtol=1e-5)
