"""Training aids: accumulation, averages of weights, norm statistics at evaluation, half precision, compilation."""

from __future__ import annotations

import copy
import json
import logging
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitshift.nn import ShiftConfig, convert
from bitshift.nn.activations import calibrate
from bitshift.nn.layers import ShiftLayer
from bitshift.nn.method import Method
from bitshift.nn.methods import Nearest
from bitshift.nn.norms import ShiftNorm
from bitshift.train import compiled
from bitshift.train.checkpoint import load_checkpoint, load_tensors, random_state, under
from bitshift.train.distill import task_loss
from bitshift.train.distributed import World
from bitshift.train.ema import StateAverage, averaged
from bitshift.train.exchange import GradientMean
from bitshift.train.loop import evaluate, fit
from bitshift.train.norms import reestimate_norms
from bitshift.train.step import Stepper
from train.tiny_run import lines, tiny_config, tiny_data, tiny_net

TRAIN, VALID = tiny_data(64), tiny_data(40, seed=1)


def plain_net(seed: int = 0) -> nn.Module:
    """Without norms and dropout: a batch is the sum of its rows."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 4))


def integer_net(*, multiplier: bool = False, dropout: bool = True) -> nn.Module:
    config = ShiftConfig(method="denseshift", bits=3, activations=8, multiplier=multiplier)
    sample = TRAIN.normalise(TRAIN.batch(np.arange(4))[0])
    net = tiny_net()
    if not dropout:
        net[4] = nn.Identity()
    return convert(net, config, sample=sample, generator=torch.Generator().manual_seed(0))[0]


# --- accumulation


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("quantised", [False, True])
def test_micro_batches_train_what_the_whole_batch_trains(tmp_path, clip, quantised):
    def net() -> nn.Module:
        if not quantised:
            return plain_net()
        sample = TRAIN.normalise(TRAIN.batch(np.arange(4))[0])
        config = ShiftConfig(method="nearest", format="pot4x2", activations=8, init="pretrained")
        return convert(plain_net(), config, sample=sample)[0]

    curves = []
    for parts in (1, 4):
        config = tiny_config(epochs=1, accumulate=parts, log_every=1, clip_norm=clip, lr=0.02)
        fit(net(), config, TRAIN, VALID, run_dir=tmp_path / str(parts), teacher=plain_net(3))
        curves.append([line["loss"] for line in lines(tmp_path / str(parts), "step")])
    # eight steps; a gradient is a sum of at most 8 rows x 16 places in another order, 128 * 2**-24 relative; a flipped
    # rounding of one activation moves the loss of a quantised net by less than its step's share of the batch
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4 if quantised else 1e-5)
    assert curves[0][0] != curves[0][-1]


def test_penalties_and_projections_come_once_a_step_however_many_parts(tmp_path, monkeypatch):
    from bitshift.nn.method import get_method

    calls = {"penalty": 0, "after": 0, "progress": 0}
    kind = get_method("denseshift")

    def penalty(self):
        calls["penalty"] += 1
        return next(self.parameters()).new_zeros(())

    monkeypatch.setattr(kind, "penalty", penalty)
    monkeypatch.setattr(kind, "after_step", lambda self: calls.update(after=calls["after"] + 1))
    monkeypatch.setattr(kind, "set_progress", lambda self, _: calls.update(progress=calls["progress"] + 1))
    model = convert(plain_net(), ShiftConfig(method="denseshift", bits=3))[0]
    fit(model, tiny_config(epochs=1, accumulate=4), TRAIN, VALID, run_dir=tmp_path)
    assert calls == {"penalty": 16, "after": 16, "progress": 16}, "two layers, eight steps"


# --- averages


def test_the_average_follows_its_formula_and_copies_what_cannot_be_averaged():
    model = tiny_net()
    average = StateAverage(model, 0.9)
    expected = {name: t.detach().double().clone() for name, t in averaged(model).items()}
    assert {"1.running_mean", "1.running_var", "0.weight"} <= expected.keys()
    for step in range(20):
        with torch.no_grad():
            for tensor in averaged(model).values():
                tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(step)))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, tensor in averaged(model).items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.detach().double()
    model[1].num_batches_tracked.fill_(7)
    average.put()
    for name, tensor in averaged(model).items():
        np.testing.assert_allclose(tensor.detach().numpy(), expected[name].numpy(), rtol=1e-5, atol=1e-6)
    assert model[1].num_batches_tracked.item() == 7


def test_the_average_is_what_is_evaluated_kept_and_left_while_training_goes_on_without_it(tmp_path):
    fit(tiny_net(), tiny_config(), TRAIN, VALID, run_dir=tmp_path / "plain")
    model = tiny_net()
    result = fit(model, tiny_config(ema_decay=0.95), TRAIN, VALID, run_dir=tmp_path / "ema")
    plain, ema = load_checkpoint(tmp_path / "plain"), load_checkpoint(tmp_path / "ema")
    assert plain is not None
    assert ema is not None
    for name, tensor in under("model", plain.tensors).items():
        assert torch.equal(tensor, under("model", ema.tensors)[name]), "the average must not disturb the training"
    kept, _ = load_tensors(tmp_path / "ema" / "model.safetensors")
    for name, tensor in under("ema", ema.tensors).items():
        assert torch.equal(kept[name], tensor)
        assert torch.equal(model.state_dict()[name], tensor)
    assert not torch.equal(kept["0.weight"], ema.tensors["model.0.weight"])
    assert evaluate(model, VALID).loss == pytest.approx(result.valid.loss, rel=1e-6)


def test_an_average_of_a_shift_network_is_a_shift_network(tmp_path):
    model = integer_net()
    result = fit(model, tiny_config(ema_decay=0.9, lr=0.02, epochs=6), TRAIN, VALID, run_dir=tmp_path)
    codes = model.get_submodule("0").method.codes()
    assert int(codes.max()) < 8
    assert result.accuracy > 0.6


@pytest.mark.parametrize("latents", ["float32", "bfloat16"])
@pytest.mark.parametrize(("learn", "scale"), [("none", "pot"), ("scale", "pot"), ("scale", "free")])
def test_the_average_goes_through_a_change_of_bits_as_the_network_does(learn, scale, latents):
    options = {"wide": "int6", "narrow_at": 0.3, "learn": learn, "scale": scale}
    config = ShiftConfig(method="nearest", bits=3, activations=8, init="pretrained", options=options, latents=latents)
    images = TRAIN.normalise(TRAIN.batch(np.arange(32))[0])
    model, _ = convert(tiny_net(), config, sample=images[:4])
    calibrate(model, [images])
    stepper = Stepper(model, tiny_config(ema_decay=0.99), World(), teacher=None, total=10, per_epoch=5, half=None)
    before = model.get_submodule("0").method.latent.detach().clone()
    stepper.prepare(2, images)
    assert torch.equal(model.get_submodule("0").method.latent, before)
    stepper.prepare(3, images)
    assert not torch.equal(model.get_submodule("0").method.latent, before), "the folded layer gets its gain back"
    assert stepper.average is not None
    held, live = stepper.average.state_dict(), averaged(model)
    assert any("learned" in name for name in held) == (learn == "scale")
    # the network has stood still so far, so its average is the network; in bfloat16 that rounds factor and product
    rounding = {"rtol": 2.0**-7, "atol": 0} if latents == "bfloat16" else {"rtol": 1e-6, "atol": 1e-7}
    for name in held:
        torch.testing.assert_close(held[name], live[name].detach().float(), **rounding)


def test_the_average_of_another_network_finds_scales_of_its_own():
    options = {"wide": "int6", "narrow_at": 0.3, "learn": "scale", "scale": "free"}
    model = nn.Sequential(Nearest.from_float(torch.randn(4, 9), "pot3d", **options))
    average = StateAverage(model, 0.99)
    name = next(n for n in average.state_dict() if "latent" in n)
    average.state_dict()[name].mul_(4)
    assert model[0].set_progress(0.5)
    average.follow([model[0]], {model[0]: torch.tensor([1.0, 2.0, 1.0, 1.0])})
    ratio = average.state_dict()["0.learned.value"] / model[0].learned.value
    torch.testing.assert_close(ratio.detach(), torch.tensor([4.0, 8.0, 4.0, 4.0]))


# --- norm statistics


def test_statistics_are_set_anew_for_evaluation_only(tmp_path):
    fit(tiny_net(), tiny_config(), TRAIN, VALID, run_dir=tmp_path / "plain")
    model = tiny_net()
    config = tiny_config(reestimate_rows=48, ema_decay=0.9)
    fit(model, config, TRAIN, VALID, run_dir=tmp_path / "anew")
    plain, anew = load_checkpoint(tmp_path / "plain"), load_checkpoint(tmp_path / "anew")
    assert plain is not None
    assert anew is not None
    assert torch.equal(plain.tensors["model.1.running_var"], anew.tensors["model.1.running_var"])
    expected = tiny_net()
    expected.load_state_dict(under("model", anew.tensors) | under("ema", anew.tensors))
    reestimate_norms(expected, TRAIN, rows=48, batch_size=config.eval_batch_size, seed=config.seed)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("multiplier", [False, True])
def test_integer_networks_get_their_means_and_keep_their_powers_of_two(tmp_path, multiplier):
    model = integer_net(multiplier=multiplier)
    fit(model, tiny_config(lr=0.02), TRAIN, VALID, run_dir=tmp_path)
    norm = model.get_submodule("0").norm
    variance = norm.running_var.clone()
    with torch.no_grad():
        norm.running_mean.add_(100.0)
    spoiled = evaluate(model, VALID).loss
    modes = [m.training for m in model.modules()]
    reestimate_norms(model, TRAIN, rows=64, batch_size=64)
    assert [m.training for m in model.modules()] == modes
    assert norm.running_mean.abs().max() < 50
    assert evaluate(model, VALID).loss < spoiled
    assert torch.equal(norm.running_var, variance) == isinstance(norm, ShiftNorm)
    assert "_update" not in vars(norm)


# --- loss


def test_soft_labels_are_the_mixture_of_their_classes_losses():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    a, b = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 1, 0, 2, 3])
    share = torch.linspace(0, 1, 5)[:, None]
    soft = share * F.one_hot(a, 4) + (1 - share) * F.one_hot(b, 4)
    each = [F.cross_entropy(logits, y, reduction="none", label_smoothing=0.1) for y in (a, b)]
    expected = (share[:, 0] * each[0] + (1 - share[:, 0]) * each[1]).mean()
    assert task_loss(logits, soft, label_smoothing=0.1).item() == pytest.approx(expected.item(), rel=1e-6)


# --- half precision


def test_float16_scales_its_loss_and_resumes_its_scale(tmp_path):
    config = tiny_config(amp="fp16", lr=0.02)
    result = fit(tiny_net(), config, TRAIN, VALID, run_dir=tmp_path)
    state = json.loads((tmp_path / "checkpoint.json").read_text())["scaler"]
    assert state["scale"] >= 1024
    assert result.accuracy > 0.6
    fit(tiny_net(), config, TRAIN, VALID, run_dir=tmp_path)


# --- gradients of several processes, as far as one process can show


def test_buckets_hold_every_parameter_once_in_an_order_of_their_own():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 3))
    model[0].bias.requires_grad_(False)
    mean = GradientMean(model.parameters(), 2, bucket_bytes=150)
    names = {id(p): name for name, p in model.named_parameters()}
    assert [[names[id(p)] for p in b.params] for b in mean._buckets] == [["1.bias", "1.weight"], ["0.weight"]]
    mean.close()
    assert not model[0].weight._post_accumulate_grad_hooks


# --- compilation


def test_a_network_that_cannot_be_compiled_trains_as_it_is(tmp_path, monkeypatch, caplog):
    def refuse(model, **_):
        def run(x):
            torch.rand(3)
            model(x)
            raise RuntimeError("no C++ compiler\nsecond line")

        return run

    fit(tiny_net(), tiny_config(epochs=1), TRAIN, VALID, run_dir=tmp_path / "plain")
    monkeypatch.setattr(compiled.torch, "compile", refuse)
    with caplog.at_level(logging.WARNING):
        fit(tiny_net(), tiny_config(epochs=1, compile=True), TRAIN, VALID, run_dir=tmp_path / "tried")
    assert "goes on without it (RuntimeError: no C++ compiler)" in caplog.text
    assert "second line" not in caplog.text
    assert (tmp_path / "plain" / "model.safetensors").read_bytes() == (
        tmp_path / "tried" / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.parametrize("kind", ["float", "shift", "integer"])
def test_a_compiled_network_trains_the_same_up_to_rounding_and_resumes_to_the_bit(tmp_path, kind, caplog):
    def net() -> nn.Module:
        if kind == "integer":
            return integer_net(dropout=False)
        model = tiny_net()
        model[4] = nn.Identity()  # compiled dropout draws other numbers
        return model if kind == "float" else convert(model, ShiftConfig(method="denseshift", bits=3))[0]

    def run(name, **changes):
        config = tiny_config(epochs=2, lr=0.02, log_every=1, checkpoint_every_steps=3, **changes)
        with caplog.at_level(logging.WARNING):
            fit(net(), config, TRAIN, VALID, run_dir=tmp_path / name)
        return [line["loss"] for line in lines(tmp_path / name, "step")]

    plain, fused, again = run("plain"), run("fused", compile=True), run("again", compile=True)
    assert "goes on without it" not in caplog.text
    np.testing.assert_allclose(plain[:8], fused[:8], rtol=1e-4)
    assert fused == again


@pytest.mark.parametrize(
    ("method", "bits"), [("denseshift", 3), ("s3", 3), ("deepshift_q", 5), ("deepshift_ps", 5), ("uniform", 3)]
)
def test_a_compiled_pass_finds_its_weights_made_and_trains_alike(monkeypatch, method, bits):
    images, labels = TRAIN.batch(np.arange(32))
    images = TRAIN.normalise(images)

    def gradients(*, ahead: bool) -> list[torch.Tensor | None]:
        config = ShiftConfig(method=method, bits=bits)
        model = convert(tiny_net(), config, generator=torch.Generator().manual_seed(0))[0].train()
        layers = [m for m in model.modules() if isinstance(m, ShiftLayer)]
        given: list[bool] = []

        def opaque(model, **_):
            def run(x):
                given.extend(layer.ahead is not None for layer in layers)
                return model(x)

            return run

        monkeypatch.setattr(compiled.torch, "compile", opaque)
        forward = compiled.compiled_forward(model, images, half=None, world=World()) if ahead else model
        torch.manual_seed(1)  # of dropout
        loss = task_loss(forward(images), labels)
        for m in model.modules():
            if isinstance(m, Method):
                loss = loss + m.penalty()
        loss.backward()
        assert given == [True] * (2 * len(layers) if ahead else 0)  # of the trial too
        assert all(layer.ahead is None for layer in layers)
        copy.deepcopy(model)  # nothing with a graph stays on it
        return [p.grad for p in model.parameters()]

    pairs = list(zip(gradients(ahead=False), gradients(ahead=True), strict=True))
    assert pairs
    assert all(torch.equal(a, b) if a is not None else b is None for a, b in pairs)


def test_a_compiled_pass_that_fails_leaves_the_weights_to_the_layers(monkeypatch):
    model = convert(tiny_net(), ShiftConfig(method="denseshift", bits=3))[0].train()
    images = TRAIN.normalise(TRAIN.batch(np.arange(8))[0])
    monkeypatch.setattr(compiled.torch, "compile", lambda model, **_: model)
    forward = compiled.compiled_forward(model, images, half=None, world=World())
    with pytest.raises(RuntimeError, match="channels"):
        forward(images.repeat(1, 3, 1, 1))
    assert all(m.ahead is None for m in model.modules() if isinstance(m, ShiftLayer))


def test_the_trial_of_a_compiled_pass_leaves_no_trace(monkeypatch):
    model = tiny_net().train()
    monkeypatch.setattr(compiled.torch, "compile", lambda model, **_: model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.register_forward_hook(lambda *_: (random.random(), np.random.rand(), torch.rand(1))[2] * 0)  # noqa: NPY002
    state = random_state(torch.device("cpu"))
    images = TRAIN.normalise(TRAIN.batch(np.arange(8))[0])
    compiled.compiled_forward(model, images, half=None, world=World())
    after = random_state(torch.device("cpu"))
    assert all(torch.equal(after[name], kept) for name, kept in state.items())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


# --- old runs


def test_a_run_of_an_older_version_goes_on(tmp_path, monkeypatch):
    config = tiny_config(epochs=2)
    fit(tiny_net(), config, TRAIN, VALID, run_dir=tmp_path)
    from bitshift.train import checkpoint as ckpt

    found = ckpt.load_checkpoint(tmp_path)
    assert found is not None
    new = ("accumulate", "compile", "ema_decay", "reestimate_rows", "sync_norm", "mixup", "cutmix", "teacher_cache")
    train = {k: v for k, v in found.state["train"].items() if k not in new}
    state = {k: v for k, v in found.state.items() if k not in ("version", "scaler")} | {"train": train}
    tensors = {**found.tensors, "sums": found.tensors["sums"][0].clone()}
    ckpt.save_checkpoint(tmp_path, ckpt.Checkpoint(tensors=tensors, state=state))
    assert fit(tiny_net(), config, TRAIN, VALID, run_dir=tmp_path).steps == 16
    with pytest.raises(ValueError, match=r"ema_decay: 0.0 then, 0.9 now"):
        fit(tiny_net(), replace(config, ema_decay=0.9), TRAIN, VALID, run_dir=tmp_path)


# --- mixing


def test_mixtures_do_not_depend_on_the_cut_into_micro_batches(tmp_path):
    curves = {}
    for parts, mixup in ((1, 0.4), (4, 0.4), (1, 0.0)):
        folder = tmp_path / f"{parts}-{mixup}"
        config = tiny_config(epochs=1, accumulate=parts, log_every=1, mixup=mixup, cutmix=mixup, lr=0.02)
        fit(plain_net(), config, TRAIN, VALID, run_dir=folder, teacher=plain_net(2))
        curves[parts, mixup] = [line["loss"] for line in lines(folder, "step")]
    np.testing.assert_allclose(curves[1, 0.4], curves[4, 0.4], rtol=1e-5)
    assert abs(curves[1, 0.4][0] - curves[1, 0.0][0]) > 1e-3


def test_pairs_that_would_be_torn_are_refused(tmp_path):
    with pytest.raises(ValueError, match="pairs of rows"):
        fit(tiny_net(), tiny_config(mixup=0.4, accumulate=8), TRAIN, VALID, run_dir=tmp_path)


def test_bfloat16_training_leaves_an_integer_networks_evaluation_exact(tmp_path):
    from bitshift.nn.freeze import freeze

    model = integer_net()
    result = fit(model, tiny_config(amp="bf16", lr=0.02, epochs=6), TRAIN, VALID, run_dir=tmp_path)
    images = VALID.normalise(VALID.batch(np.arange(len(VALID)))[0])
    with torch.no_grad():
        simulated, frozen = model.eval()(images), freeze(model, images)(images)
    assert torch.equal(simulated.double(), frozen.double())
    np.testing.assert_array_equal(simulated.argmax(1).numpy(), result.valid.predictions)
    assert result.accuracy > 0.6
