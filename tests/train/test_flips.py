"""Flip records of a run: at the ends of epochs, and in finer steps."""

from __future__ import annotations

import pytest
import torch

from bitshift.nn.config import ShiftConfig
from bitshift.nn.convert import convert
from bitshift.train.loop import TrainingStopped, fit
from bitshift.train.step import Stepper
from train.tiny_run import lines, tiny_config, tiny_data, tiny_net


def network() -> torch.nn.Module:
    return convert(tiny_net(), ShiftConfig(), generator=torch.Generator().manual_seed(1))[0]


def run(folder, **changes):
    return fit(network(), tiny_config(**changes), tiny_data(), tiny_data(seed=1), run_dir=folder)


def test_finer_records_stand_every_so_many_steps_and_tell_what_the_step_moved(tmp_path):
    run(tmp_path, flips_every=3, epochs=2)  # 8 steps an epoch
    fine, epochs = lines(tmp_path, "flip_steps"), lines(tmp_path, "flips")
    assert [line["label"] for line in fine] == [3, 6, 9, 12, 15]
    assert [line["label"] for line in epochs] == [1, 2]
    for line in (*fine, *epochs):
        assert line["mean"]["update"] > 0
        assert 0 <= line["mean"]["steps"][0] <= line["mean"]["steps"][1] <= line["mean"]["steps"][2]
        assert 0 <= line["mean"]["sign_rate"] <= line["mean"]["value_rate"] <= 1


def test_without_the_field_only_epochs_are_recorded(tmp_path):
    run(tmp_path, epochs=1)
    assert lines(tmp_path, "flip_steps") == []
    assert len(lines(tmp_path, "flips")) == 1


def test_records_change_no_weight(tmp_path):
    results = [run(tmp_path / str(every), flips_every=every, epochs=1) for every in (0, 1)]
    assert results[0].valid.loss == results[1].valid.loss


def test_a_resumed_run_writes_the_same_records(tmp_path, monkeypatch):
    run(tmp_path / "whole", flips_every=3, checkpoint_every_steps=5)
    update = Stepper._update

    def stop_at_twelve(self):
        stop_at_twelve.steps += 1
        if stop_at_twelve.steps == 12:
            raise TrainingStopped(143)
        update(self)

    stop_at_twelve.steps = 0
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "_update", stop_at_twelve)
        with pytest.raises(TrainingStopped):
            run(tmp_path / "parts", flips_every=3, checkpoint_every_steps=5)
    run(tmp_path / "parts", flips_every=3, checkpoint_every_steps=5)
    for kind in ("flips", "flip_steps"):
        drop = [{k: v for k, v in line.items() if k != "seconds"} for line in lines(tmp_path / "parts", kind)]
        assert drop == [{k: v for k, v in line.items() if k != "seconds"} for line in lines(tmp_path / "whole", kind)]
