"""The training loop in one process."""

from __future__ import annotations

import json
import logging
import signal
import threading
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bitshift.nn import ShiftConfig, convert
from bitshift.nn.activations import ActQuant
from bitshift.nn.method import METHODS, Method, get_method
from bitshift.train import loop
from bitshift.train.checkpoint import CheckpointError, load_model
from bitshift.train.data import Normalise, Shift
from bitshift.train.lock import RunInUseError, run_lock
from bitshift.train.loop import TrainingDiverged, TrainingStopped, evaluate, fit, use_bf16
from bitshift.train.norms import reestimate_norms
from train.tiny_run import lines, tiny_config, tiny_data, tiny_net

get_method("denseshift")  # fills the registry
TRAIN, VALID = tiny_data(64), tiny_data(40, seed=1)
FIVE = Normalise(mean=(5.0,))


def shift_net(method: str = "denseshift", **changes) -> nn.Module:
    widths = get_method(method).bits
    config = ShiftConfig(
        **({"method": method, "bits": 3 if 3 in widths else widths[-1], "init": "pretrained"} | changes)
    )
    sample = TRAIN.normalise(TRAIN.batch(np.arange(4))[0])
    return convert(tiny_net(), config, sample=sample, generator=torch.Generator().manual_seed(0))[0]


def test_a_run_learns_and_leaves_what_is_promised(tmp_path):
    result = fit(tiny_net(), tiny_config(epochs=6), TRAIN, VALID, run_dir=tmp_path / "a" / "run")
    folder = tmp_path / "a" / "run"
    assert result.accuracy > 0.9
    assert result.steps == 48
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "metrics.jsonl", "checkpoint.safetensors", "checkpoint.json", "model.safetensors",
    }  # fmt: skip
    assert [line["step"] for line in lines(folder, "step")] == list(range(4, 49, 4))
    assert [line["epoch"] for line in lines(folder, "epoch")] == list(range(6))
    assert [line["label"] for line in lines(folder, "flips")] == [1, 2, 3, 4, 5, 6]
    (last,) = lines(folder, "result")
    assert last["valid_accuracy"] == result.accuracy
    np.testing.assert_array_equal(np.array(last["confusion"]), result.valid.confusion)
    config = json.loads((folder / "config.json").read_text())
    assert config["train"]["lr"] == 0.05
    assert config["data"]["normalise"] == {"mean": [128.0], "scale": [1 / 64]}
    again = tiny_net(seed=9)
    load_model(folder / "model.safetensors", again)
    np.testing.assert_array_equal(evaluate(again, VALID).predictions, result.valid.predictions)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path):
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(tiny_net(), tiny_config(seed=seed), TRAIN, VALID, run_dir=tmp_path / name, augment=Shift(pixels=1))
        contents.append((tmp_path / name / "model.safetensors").read_bytes())
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_every_method_hears_its_place_in_the_run_before_each_step(tmp_path, monkeypatch):
    heard = []
    cls = get_method("denseshift")
    monkeypatch.setattr(cls, "set_progress", lambda self, fraction: heard.append((id(self), fraction)))
    model = shift_net("denseshift")
    result = fit(model, tiny_config(epochs=2), TRAIN, VALID, run_dir=tmp_path)
    methods = [m for m in model.modules() if isinstance(m, Method)]
    assert len(methods) > 1
    assert heard == [(id(m), step / result.steps) for step in range(result.steps) for m in methods]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_trains_and_its_codes_move(tmp_path, method):
    # DeepShift-PS has to move a latent by half a unit before anything changes
    rate = {"optimizer": "radam", "lr": 0.1, "epochs": 12} if method == "deepshift_ps" else {"lr": 0.02, "epochs": 4}
    model = shift_net(method)
    result = fit(model, tiny_config(**rate), TRAIN, VALID, run_dir=tmp_path)
    assert result.accuracy > 0.6
    flips = lines(tmp_path, "flips")
    assert {layer["name"].split(".")[0] for layer in flips[0]["layers"]} >= {"0", "5"}
    assert sum(line["mean"]["value_rate"] for line in flips) > 0


@pytest.mark.parametrize("multiplier", [False, True])
def test_an_integer_network_is_calibrated_before_the_first_step(tmp_path, monkeypatch, multiplier):
    model = shift_net(activations=8, multiplier=multiplier)
    seen = []
    step = loop._Run._step

    def first(self, images, labels):
        seen.append(all(bool(m.initialised) for m in self.model.modules() if isinstance(m, ActQuant)))
        step(self, images, labels)

    monkeypatch.setattr(loop._Run, "_step", first)
    assert any(isinstance(m, ActQuant) for m in model.modules())
    result = fit(model, tiny_config(epochs=6, lr=0.02, clip_norm=5.0), TRAIN, VALID, run_dir=tmp_path)
    assert seen[0]
    assert result.accuracy > 0.6


def test_calibration_batches_are_even(tmp_path, monkeypatch):
    sizes = []
    calibrate = loop.calibrate
    monkeypatch.setattr(loop, "calibrate", lambda model, xs: (sizes.extend(map(len, xs)), calibrate(model, xs)))
    config = tiny_config(epochs=1, eval_batch_size=25, calibration_rows=52)  # 25, 25 and 2 if cut plainly
    fit(shift_net(activations=8), config, TRAIN, VALID, run_dir=tmp_path)
    assert sizes == [18, 17, 17]


def test_penalty_is_in_the_gradient_but_not_in_the_logged_loss(tmp_path, monkeypatch):
    calls = {"penalty": 0, "after": 0}

    def penalty(self):
        calls["penalty"] += 1
        return 1e6 * sum((p * 0).sum() + p.mean() * 0 for p in self.parameters()) + 1e6

    monkeypatch.setattr(get_method("denseshift"), "penalty", penalty)
    monkeypatch.setattr(get_method("denseshift"), "after_step", lambda self: calls.update(after=calls["after"] + 1))
    fit(shift_net(), tiny_config(epochs=1), TRAIN, VALID, run_dir=tmp_path)
    assert calls == {"penalty": 16, "after": 16}, "two layers, eight steps"
    assert lines(tmp_path, "epoch")[0]["train_loss"] < 100


def test_clipping_bounds_the_gradient(tmp_path, monkeypatch):
    norms = []
    real = torch.optim.SGD.step

    def step(self, *args):
        norms.append(torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"]]).norm().item())
        return real(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    fit(tiny_net(), tiny_config(epochs=1, clip_norm=0.25), TRAIN, VALID, run_dir=tmp_path)
    assert max(norms) == pytest.approx(0.25, rel=1e-4)


def test_a_teacher_changes_the_result_and_is_left_alone(tmp_path):
    teacher = tiny_net(seed=5)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    fit(tiny_net(), tiny_config(), TRAIN, VALID, run_dir=tmp_path / "taught", teacher=teacher)
    fit(tiny_net(), tiny_config(), TRAIN, VALID, run_dir=tmp_path / "alone")
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    assert (tmp_path / "taught" / "model.safetensors").read_bytes() != (
        tmp_path / "alone" / "model.safetensors"
    ).read_bytes()


def test_bfloat16_trains_the_products_but_evaluation_and_latents_stay_float32(tmp_path):
    kinds = {"train": set(), "eval": set()}
    model = shift_net()

    def note(module, _, output):
        kinds["train" if module.training else "eval"].add(output.dtype)

    model[0].register_forward_hook(note)
    result = fit(model, tiny_config(amp="bf16", epochs=4), TRAIN, VALID, run_dir=tmp_path)
    assert kinds == {"train": {torch.bfloat16}, "eval": {torch.float32}}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert result.accuracy > 0.6


def test_automatic_bfloat16_spares_integer_networks():
    cpu = torch.device("cpu")
    assert not use_bf16("auto", cpu, shift_net(activations=8))
    assert use_bf16("bf16", cpu, shift_net(activations=8))
    assert not use_bf16("off", cpu, tiny_net())
    assert use_bf16("auto", cpu, tiny_net()) == (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def test_keeping_the_best_leaves_the_best_epoch(tmp_path):
    model = tiny_net()
    result = fit(model, tiny_config(epochs=5, lr=0.5, schedule="constant", keep="best"), TRAIN, VALID, run_dir=tmp_path)
    reached = [line["valid_accuracy"] for line in lines(tmp_path, "epoch")]
    assert result.accuracy == max(reached) == result.best_accuracy
    assert result.best_epoch == int(np.argmax(reached))
    assert evaluate(model, VALID).accuracy == result.accuracy


# --- resuming


class Stop(Exception):  # noqa: N818
    pass


def interrupted(folder, monkeypatch, *, at: int, config, model=None):
    """A run that stops with an exception in front of step ``at``."""
    step = loop._Run._step

    def failing(self, images, labels):
        if self.step == at:
            raise Stop
        step(self, images, labels)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "_step", failing)
        with pytest.raises(Stop):
            fit(model or tiny_net(), config, TRAIN, VALID, run_dir=folder)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "radam"])
def test_every_optimizer_resumes_to_the_bit(tmp_path, monkeypatch, optimizer):
    config = tiny_config(optimizer=optimizer, lr=0.01, checkpoint_every_steps=3)
    fit(shift_net(), config, TRAIN, VALID, run_dir=tmp_path / "whole")
    interrupted(tmp_path / "broken", monkeypatch, at=13, config=config, model=shift_net())
    fit(shift_net(), replace(config, log_every=5), TRAIN, VALID, run_dir=tmp_path / "broken")
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "broken" / "model.safetensors"
    ).read_bytes()


STAGED = [
    {"method": "inq"},
    {"method": "nearest", "options": {"learn": "scale", "wide": ("int6", "pot4x2"), "narrow_at": (0.2, 0.7)}},
    {"method": "nearest", "activations": 8, "options": {"learn": "scale", "wide": "pot4x2", "narrow_at": 0.6}},
]


@pytest.mark.parametrize("changes", STAGED, ids=["inq", "two changes", "integer"])
def test_a_method_with_stages_resumes_to_the_bit_between_them(tmp_path, monkeypatch, changes):
    config = tiny_config(lr=0.02, checkpoint_every_steps=3)
    whole = shift_net(**changes)
    fit(whole, config, TRAIN, VALID, run_dir=tmp_path / "whole")
    interrupted(tmp_path / "broken", monkeypatch, at=13, config=config, model=shift_net(**changes))
    fit(shift_net(**changes), config, TRAIN, VALID, run_dir=tmp_path / "broken")
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "broken" / "model.safetensors"
    ).read_bytes()
    methods = [m for m in whole.modules() if isinstance(m, Method)]
    assert {m.format.name for m in methods} == {"pot3" if changes["method"] == "inq" else "pot3d"}


def test_the_best_epoch_is_one_in_the_set_that_was_asked_for(tmp_path):
    options = {"wide": "pot4x2", "narrow_at": 0.7}
    model = shift_net(method="nearest", bits=1, options=options)
    result = fit(model, tiny_config(lr=0.02, keep="best"), TRAIN, VALID, run_dir=tmp_path)
    assert {m.format.name for m in model.modules() if isinstance(m, Method)} == {"pot1"}
    epochs = lines(tmp_path, "epoch")
    assert max(e["valid_accuracy"] for e in epochs[:-1]) >= epochs[-1]["valid_accuracy"], "the wide set is as good"
    assert (result.best_epoch, result.accuracy) == (2, epochs[-1]["valid_accuracy"])


def test_a_set_that_no_step_would_train_in_is_refused(tmp_path):
    model = shift_net(method="nearest", options={"wide": "pot4x2", "narrow_at": 0.97})
    with pytest.raises(ValueError, match=r"begins at 0\.97 of the run, and the last of its 24 steps at 0\.958"):
        fit(model, tiny_config(), TRAIN, VALID, run_dir=tmp_path)
    assert not (tmp_path / "checkpoint.json").exists()


def test_an_integer_network_resumes_to_the_bit(tmp_path, monkeypatch):
    config = tiny_config(lr=0.02, checkpoint_every_steps=3)
    fit(shift_net(activations=8), config, TRAIN, VALID, run_dir=tmp_path / "whole")
    interrupted(tmp_path / "broken", monkeypatch, at=13, config=config, model=shift_net(activations=8))
    fit(shift_net(activations=8), config, TRAIN, VALID, run_dir=tmp_path / "broken")
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "broken" / "model.safetensors"
    ).read_bytes()


def test_a_directory_that_another_run_trains_into_is_refused_and_left_as_it_is(tmp_path):
    fit(tiny_net(), tiny_config(epochs=1), TRAIN, VALID, run_dir=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with run_lock(tmp_path), pytest.raises(RunInUseError, match="trains into it"):
        fit(tiny_net(), tiny_config(epochs=1), TRAIN, VALID, run_dir=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    fit(tiny_net(), tiny_config(epochs=1), TRAIN, VALID, run_dir=tmp_path)


def test_every_process_stops_when_another_run_has_the_directory(tmp_path):
    world = SimpleNamespace(is_main=False, gather=lambda mine: [torch.ones_like(mine), mine])
    with pytest.raises(RunInUseError, match="process 0 says which"), ExitStack() as stack:
        loop._Run._claim(SimpleNamespace(world=world, folder=tmp_path), stack)


def test_a_finished_run_is_returned_without_training(tmp_path, monkeypatch):
    first = fit(tiny_net(), tiny_config(), TRAIN, VALID, run_dir=tmp_path)
    monkeypatch.setattr(loop._Run, "_step", lambda *_: pytest.fail("it trains"))
    again = fit(tiny_net(seed=4), tiny_config(), TRAIN, VALID, run_dir=tmp_path)
    np.testing.assert_array_equal(first.valid.predictions, again.valid.predictions)
    assert len(lines(tmp_path, "result")) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": tiny_config(lr=0.06)}, "lr: 0.05 then, 0.06 now"),
        ({"train_data": tiny_data(64, seed=7)}, r"\(data\.train: '[^;]*\)"),
        (
            {"train_data": TRAIN.with_normalise(FIVE), "valid_data": VALID.with_normalise(FIVE)},
            r"\(data\.normalise\.mean: \[.*\] then, \[5\.0\] now",
        ),
        ({"about": {"model": "other"}}, r"\(about\.model: missing then, 'other' now\)"),
        ({"about": {"model": None}}, r"\(about\.model: missing then, None now\)"),
        ({"augment": Shift()}, r"\(data\.augment: 'None' then, 'Shift\("),
    ],
)
def test_another_configuration_is_refused_on_resuming(tmp_path, changes, message):
    base = {"config": tiny_config(), "train_data": TRAIN, "valid_data": VALID}
    fit(tiny_net(), **base, run_dir=tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        fit(tiny_net(), **(base | changes), run_dir=tmp_path)
    assert "choose another run directory" in str(error.value)


def test_another_teacher_is_named_on_resuming(tmp_path, caplog):
    for seed, said in ((5, False), (5, False), (6, True)):
        fit(tiny_net(), tiny_config(epochs=1), TRAIN, VALID, run_dir=tmp_path, teacher=tiny_net(seed))
        assert ("another teacher" in caplog.text) == said


def test_another_model_is_refused_on_resuming(tmp_path):
    fit(tiny_net(), tiny_config(), TRAIN, VALID, run_dir=tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another model"):
        fit(shift_net(), tiny_config(), TRAIN, VALID, run_dir=tmp_path)


def test_a_used_directory_is_refused_without_resume(tmp_path):
    fit(tiny_net(), tiny_config(), TRAIN, VALID, run_dir=tmp_path)
    with pytest.raises(ValueError, match="holds a run already"):
        fit(tiny_net(), tiny_config(), TRAIN, VALID, run_dir=tmp_path, resume=False)


def test_sigterm_writes_a_checkpoint_and_the_run_goes_on_from_it(tmp_path, monkeypatch, caplog):
    fit(tiny_net(), tiny_config(), TRAIN, VALID, run_dir=tmp_path / "whole")
    step = loop._Run._step

    def signalled(self, images, labels):
        step(self, images, labels)
        if self.step == 4:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(loop._Run, "_step", signalled)
        with pytest.raises(TrainingStopped) as stopped:
            fit(tiny_net(), tiny_config(), TRAIN, VALID, run_dir=tmp_path / "broken")
    assert stopped.value.code == 143
    assert json.loads((tmp_path / "broken" / "checkpoint.json").read_text())["step"] == 5
    assert "SIGTERM" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is before
    fit(tiny_net(), tiny_config(), TRAIN, VALID, run_dir=tmp_path / "broken")
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "broken" / "model.safetensors"
    ).read_bytes()


def test_training_works_outside_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(fit(tiny_net(), tiny_config(epochs=1), TRAIN, VALID, run_dir=tmp_path))
    )
    thread.start()
    thread.join()
    assert results[0].steps == 8


# --- refusals


def test_a_diverged_loss_stops_the_run_with_advice(tmp_path):
    with pytest.raises(TrainingDiverged, match="lower lr"):
        fit(tiny_net(), tiny_config(lr=1e30, schedule="constant"), TRAIN, VALID, run_dir=tmp_path)


@pytest.mark.parametrize("method", ["nearest", "denseshift", "deepshift_ps"])
def test_a_diverged_run_says_so_also_where_flips_are_recorded(tmp_path, method):
    config = tiny_config(lr=1e30, schedule="constant", flips_every=1)
    with pytest.raises(TrainingDiverged, match="lower lr"):
        fit(shift_net(method=method), config, TRAIN, VALID, run_dir=tmp_path)


def test_different_normalisation_of_the_splits_is_refused(tmp_path):
    other = VALID.with_normalise(Normalise(mean=(0.0,), scale=(1.0,)))
    with pytest.raises(ValueError, match="with_normalise"):
        fit(tiny_net(), tiny_config(), TRAIN, other, run_dir=tmp_path)


def test_other_channels_of_the_validation_rows_are_refused_before_training(tmp_path):
    coloured = replace(VALID, images=VALID.images.repeat(3, axis=1))
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) a sample and validation data \(3, 4, 4\)"):
        fit(tiny_net(), tiny_config(), TRAIN, coloured, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"batch_size 65 must be 1\.\.64"):
        fit(tiny_net(), tiny_config(batch_size=65), TRAIN, VALID, run_dir=tmp_path)


# --- evaluation


def test_evaluation_counts_and_leaves_modes_alone():
    model = tiny_net().train()
    model[1].eval()
    result = evaluate(model, VALID, batch_size=7)
    assert result.confusion.sum() == 40
    np.testing.assert_array_equal(result.confusion.sum(1), np.bincount(VALID.labels, minlength=4))
    assert result.accuracy == np.trace(result.confusion) / 40
    assert model.training
    assert not model[1].training
    np.testing.assert_array_equal(evaluate(model, VALID, batch_size=40).predictions, result.predictions)


def test_evaluation_refuses_a_model_of_another_width():
    with pytest.raises(ValueError, match=r"\(40, 4\) is needed"):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), VALID)
    with pytest.raises(ValueError, match="empty"):
        evaluate(tiny_net(), VALID.subset(slice(0, 0)))


def test_reestimated_norms_hold_the_plain_average_of_the_rows():
    model = tiny_net()
    with torch.no_grad():
        model[0].weight.mul_(3.0)
    weights = {k: v.clone() for k, v in model.named_parameters()}
    reestimate_norms(model, TRAIN, rows=64, batch_size=64)
    outputs = model[0](TRAIN.normalise(TRAIN.batch(np.arange(64))[0])).transpose(0, 1).flatten(1).double()
    np.testing.assert_allclose(model[1].running_mean.numpy(), outputs.mean(1).detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model[1].running_var.numpy(), outputs.var(1).detach().numpy(), rtol=1e-4)
    assert model.training
    assert model[1].momentum == 0.1
    assert all(torch.equal(weights[k], v) for k, v in model.named_parameters())


@pytest.mark.parametrize("measure", [evaluate, reestimate_norms])
def test_modes_and_momenta_come_back_from_a_forward_that_fails(measure):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(3, 4))  # the data have 16 values a row
    model[0].eval()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        measure(model, VALID)
    assert [m.training for m in model.modules()] == [True, False, True, True]
    assert model[0].momentum == 0.1


def test_methods_are_found_by_the_loop():
    assert sum(isinstance(m, Method) for m in shift_net().modules()) == 2


def test_norms_are_reestimated_on_augmented_rows_when_asked():
    plain, moved = tiny_net(), tiny_net()
    reestimate_norms(plain, TRAIN, rows=64)
    reestimate_norms(moved, TRAIN, rows=64, augment=Shift(pixels=2))
    assert not torch.equal(plain[1].running_mean, moved[1].running_mean)


def test_a_diverged_state_does_not_replace_a_good_checkpoint(tmp_path, monkeypatch):
    step = loop._Run._step

    def spoiled(self, images, labels):
        if self.step == 5:
            with torch.no_grad():
                self.model[0].weight.fill_(float("nan"))
        step(self, images, labels)

    monkeypatch.setattr(loop._Run, "_step", spoiled)
    with pytest.raises(TrainingDiverged, match="before step 6"):
        fit(tiny_net(), tiny_config(log_every=100, checkpoint_every_steps=2), TRAIN, VALID, run_dir=tmp_path)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["step"] == 4


@pytest.mark.parametrize("step", [4, 8])
def test_weights_that_the_last_step_before_a_checkpoint_broke_do_not_replace_the_good_ones(tmp_path, step):
    net, steps = tiny_net(), iter(range(1, 100))
    net[0].weight.register_hook(lambda grad: grad * float("inf") if next(steps) == step else grad)
    with pytest.raises(TrainingDiverged, match=f"step {step} left weights that are not finite"):
        fit(net, tiny_config(checkpoint_every_steps=2), TRAIN, VALID, run_dir=tmp_path)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["step"] == step - 2
