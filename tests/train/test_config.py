"""The training configuration, schedules, optimisers and losses."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitshift.nn import ShiftConfig, convert
from bitshift.nn.method import METHODS, Method, get_method
from bitshift.train.config import SHOWN_ONLY, TrainConfig
from bitshift.train.distill import task_loss
from bitshift.train.optim import build_optimizer, param_groups, set_lr
from bitshift.train.schedule import lr_factor, scaled

get_method("denseshift")  # fills the registry


def config(**changes) -> TrainConfig:
    return TrainConfig(**({"epochs": 10, "batch_size": 4, "lr": 0.1} | changes))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("epochs", 0), ("batch_size", 0), ("lr", 0.0), ("lr", float("inf")), ("optimizer", "adam")),
        *(("schedule", "cosin"), ("momentum", 1.0), ("weight_decay", -1.0), ("warmup_epochs", 10), ("gamma", 0.0)),
        *(("clip_norm", 0.0), ("amp", "tf32"), ("distill_weight", 1.5), ("distill_temperature", 0.0), ("seed", -1)),
        *(("label_smoothing", 1.0), ("keep", "first"), ("log_every", 0), ("checkpoint_every_steps", -1)),
        *(("device", "tpu"), ("progress", "loud"), ("eval_every", 0), ("cycles", 0), ("milestones", (3.0, 2.0))),
        *(("accumulate", 3), ("accumulate", 0), ("mixup", -1.0), ("cutmix", -0.1), ("ema_decay", 1.0)),
        *(("reestimate_rows", -1), ("peer_timeout", 0.0), ("compile", "off"), ("sync_norm", "no"), ("nesterov", 0)),
        *(("decay_all", "off"), ("channels_last", None), ("tensorboard", "no")),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_what_is_allowed(field, value):
    with pytest.raises(ValueError, match=rf"TrainConfig\.{field} = .*allowed is"):
        config(**{field: value})


def test_nesterov_needs_momentum():
    with pytest.raises(ValueError, match="nesterov"):
        config(nesterov=True, momentum=0.0)


def test_a_config_survives_json():
    made = config(clip_norm=2.0, schedule="onecycle", milestones=(2, 4.5))
    assert made.numeric_differences(json.loads(json.dumps(made.as_dict()))) == []
    assert TrainConfig(**json.loads(json.dumps(made.as_dict()))) == made


def test_differences_name_numeric_fields_only():
    then = config().as_dict()
    assert config(log_every=7, progress="off").numeric_differences(then) == []
    assert config(lr=0.2).numeric_differences(then) == ["lr: 0.1 then, 0.2 now"]
    assert config(eval_batch_size=7).numeric_differences(then) == []
    averaged = config(reestimate_rows=50)
    assert config(reestimate_rows=50, eval_batch_size=7).numeric_differences(averaged.as_dict()) == [
        "eval_batch_size: 250 then, 7 now"
    ]
    assert {f.name for f in dataclasses.fields(TrainConfig)} > SHOWN_ONLY


def factors(made: TrainConfig, per_epoch: int = 10) -> list[float]:
    return [lr_factor(made, step, per_epoch) for step in range(made.epochs * per_epoch)]


def test_cosine_falls_from_one_towards_zero():
    got = factors(config())
    np.testing.assert_allclose(got, [0.5 * (1 + math.cos(math.pi * s / 100)) for s in range(100)], rtol=1e-12)


def test_warmup_rises_linearly_and_never_starts_at_zero():
    got = factors(config(warmup_epochs=1.5))
    np.testing.assert_allclose(got[:15], np.arange(1, 16) / 16)
    assert got[15] == 1.0
    assert got == sorted(got[:16]) + sorted(got[16:], reverse=True)


def test_step_multiplies_by_gamma_at_epoch_borders():
    got = factors(config(schedule="step", step_size=4, gamma=0.5))
    assert [got[0], got[39], got[40], got[79], got[80]] == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_step_drops_at_milestones_also_inside_an_epoch():
    got = factors(config(schedule="step", milestones=(2, 4.5), gamma=0.1))
    assert [round(got[s], 3) for s in (19, 20, 44, 45, 99)] == [1.0, 0.1, 0.1, 0.01, 0.01]


def test_cycles_start_the_schedule_anew():
    got = factors(config(schedule="step", step_size=2, gamma=0.5, cycles=2))
    assert got[:50] == got[50:]
    assert [got[s] for s in (19, 20, 40, 49)] == [1.0, 0.5, 0.25, 0.25]
    cosine = factors(config(cycles=2))
    assert cosine[50] == cosine[0] == 1.0
    assert cosine[49] < 0.01


@pytest.mark.parametrize(
    "made",
    [
        config(epochs=90, schedule="step", step_size=30), config(epochs=10, schedule="step", step_size=30),
        config(epochs=200, schedule="step", milestones=(80, 120, 160, 180)),
        config(epochs=60, schedule="step", step_size=15, gamma=0.2, cycles=2), config(epochs=20, warmup_epochs=5),
    ],
)  # fmt: skip
@pytest.mark.parametrize("epochs", [1, 10, 400])
def test_a_scaled_run_has_the_same_rates_at_the_same_share(made, epochs):
    other = scaled(made, epochs)
    assert other.epochs == epochs
    for tenth in (0.05, 0.2, 0.3, 0.35, 0.45, 0.62, 0.7, 0.85, 0.95):  # of a run; not at a drop
        steps = 1000 * made.epochs, 1000 * epochs
        want, got = (lr_factor(c, int(tenth * n), 1000) for c, n in zip((made, other), steps, strict=True))
        assert got == pytest.approx(want, rel=0.02)
    assert scaled(made, made.epochs) is made


def test_onecycle_peaks_at_thirty_percent():
    got = factors(config(schedule="onecycle"))
    assert int(np.argmax(got)) == 30
    assert got[30] == 1.0
    assert got[0] == pytest.approx(0.04)
    assert 0 < got[-1] < 0.002


def test_constant_stays():
    assert set(factors(config(schedule="constant"))) == {1.0}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5))


def test_norms_and_biases_do_not_decay():
    model = net()
    groups = param_groups(model, lr=0.1, weight_decay=0.5)
    by_decay = {g["weight_decay"]: {id(p) for p in g["params"]} for g in groups}
    assert by_decay[0.5] == {id(model[0].weight), id(model[4].weight)}
    assert by_decay[0.0] == {id(p) for p in model.parameters() if p.dim() < 2}


def test_latents_have_a_decay_of_their_own():
    model = convert(net(), ShiftConfig(method="denseshift", bits=3, keep_last="float"))[0]
    latents = {id(p) for m in model.modules() if isinstance(m, Method) for p in m.parameters()}
    for given, found in ((None, 0.5), (0.25, 0.25), (0.0, 0.0)):
        config = TrainConfig(epochs=1, batch_size=1, lr=0.1, optimizer="radam", weight_decay=0.5, latent_decay=given)
        groups = build_optimizer(model, config).param_groups
        assert {g["weight_decay"] for g in groups for p in g["params"] if id(p) in latents} == {found}
        others = {g["weight_decay"] for g in groups for p in g["params"] if p.dim() > 1 and id(p) not in latents}
        assert others == {0.5}


def test_latents_forget_by_their_decay():
    model = convert(net(), ShiftConfig(method="denseshift", bits=3))[0]
    config = TrainConfig(epochs=1, batch_size=1, lr=0.1, optimizer="radam", weight_decay=0.0, latent_decay=0.5)
    optimizer = build_optimizer(model, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    latents = {id(p) for m in model.modules() if isinstance(m, Method) for p in m.parameters()}
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if id(p) in latents else 1.0))


def test_everything_decays_where_the_papers_code_does_so():
    groups = param_groups(net(), lr=0.1, weight_decay=0.5, decay_all=True)
    assert {g["weight_decay"] for g in groups} == {0.5}


@pytest.mark.parametrize("method", ["nearest", "uniform", "apot", "denseshift"])
def test_no_scale_decays_even_where_everything_else_does(method):
    options = {"nearest": {"learn": "scale"}}.get(method, {})
    model = convert(net(), ShiftConfig(method=method, bits=3, activations=8, options=options))[0]
    groups = param_groups(model, lr=0.1, weight_decay=0.5, decay_all=True)
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    named = dict(model.named_parameters())
    assert sorted(decays) == sorted(id(p) for p in named.values())
    scales = {n for n in named if n.endswith(("log2_step", "log2_gain", "learned.value", ".step", "alpha"))}
    assert {n for n, p in named.items() if decays[id(p)] == 0.0} == scales
    assert any(n.endswith("log2_gain") for n in scales)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_parameter_is_in_one_group_and_latents_follow_their_method(method):
    widths = get_method(method).bits
    model = convert(net(), ShiftConfig(method=method, bits=3 if 3 in widths else widths[-1]))[0]
    groups = param_groups(model, lr=0.1, weight_decay=0.5)
    listed = [id(p) for g in groups for p in g["params"]]
    assert sorted(listed) == sorted({id(p) for p in model.parameters()})
    for module in model.modules():
        if isinstance(module, Method):
            own = [(g["lr"], g["weight_decay"]) for g in module.param_groups(lr=0.1, weight_decay=0.5)]
            assert all(
                (g["lr"], g["weight_decay"]) in own
                for g in groups
                if id(g["params"][0]) in {id(p) for p in module.parameters()}
            )


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        param_groups(nn.ReLU(), lr=0.1, weight_decay=0.0)


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("radam", torch.optim.RAdam)]
)
def test_each_optimizer_descends(name, kind):
    model = net()
    optimizer = build_optimizer(model, config(optimizer=name, lr=0.01))
    assert type(optimizer) is kind
    x, y = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 5
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_radam_decay_is_decoupled():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    optimizer = build_optimizer(model, config(optimizer="radam", lr=0.1, weight_decay=0.5))
    model.weight.grad = torch.zeros(1, 1)
    optimizer.step()
    assert model.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5))


def test_set_lr_scales_every_group_from_its_peak():
    model = net()
    optimizer = build_optimizer(model, config())
    optimizer.param_groups[1]["initial_lr"] = 0.3
    for _ in range(2):  # twice: the peak is not lost
        assert set_lr(optimizer, 0.5) == pytest.approx(0.05)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05, 0.15])


def test_the_distillation_loss_is_the_weighted_sum_of_its_definition():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    got = task_loss(student, labels, teacher_logits=teacher, weight=0.7, temperature=3.0)
    p, q = (teacher.double() / 3).softmax(1).numpy(), (student.double() / 3).softmax(1).numpy()
    kl = (p * (np.log(p) - np.log(q))).sum(1).mean() * 9
    ce = -np.log(student.double().softmax(1).numpy()[np.arange(6), labels.numpy()]).mean()
    assert got.item() == pytest.approx(0.3 * ce + 0.7 * kl, rel=1e-5)


def test_without_a_teacher_the_loss_is_cross_entropy_whatever_the_weight():
    logits, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, 1])
    assert task_loss(logits, labels, weight=0.9).item() == F.cross_entropy(logits, labels).item()
    assert task_loss(logits.bfloat16(), labels).dtype == torch.float32
