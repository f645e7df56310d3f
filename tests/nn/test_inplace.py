"""Writes in place, and other lines of a user's forward that a graph follows by names."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from bitshift.nn import ConvertError, Rule, ShiftConfig, convert, freeze
from bitshift.nn.activations import calibrate

KEEP_C1 = Rule(pattern="c1", keep="float")  # where a quotient jumps, rounding must not decide
X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c1, self.c2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.f, self.act, self.relu = nn.Conv2d(8, 4, 1), nn.SiLU(inplace=True), nn.ReLU(inplace=True)


class AddStatement(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.c1(x)
        z = self.c2(y)
        z.add_(y)
        return self.f(F.relu(z))


class TwoNames(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.c1(x)
        z = y
        z += self.c2(y)
        return self.f(F.relu(y))


class BeforeTheBranch(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.c1(x)
        return self.f(y + self.c2(self.act(y)))


class Statement(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.c1(x)
        self.act(y)
        self.relu(y)
        return self.f(y)


class Counting(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.c1(x)
        side = y.shape[2]
        area = side
        area *= side
        return self.f(F.relu(y)).reshape(-1, 4, side, area // side)


def near(model: nn.Module, x: Tensor = X, **changes) -> float:
    """Relative distance of the int8 network, frozen and proved equal to its simulation, from ``model``."""
    config = ShiftConfig(
        **{"activations": 8, "init": "pretrained", "method": "uniform", "format": "int8", "multiplier": True} | changes
    )
    model.eval()
    with torch.no_grad():
        want = copy.deepcopy(model)(x.clone())
    converted = calibrate(convert(model, config, sample=x)[0], [x]).eval()
    frozen = freeze(converted, x)
    frozen = getattr(frozen, "model", frozen)
    with torch.no_grad():
        return float((frozen(x.clone()) - want).norm() / want.norm())


class Power(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.c1(x)
        z = y
        z **= 2
        return self.f(y)


class Rest(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.c1(x) + 8
        z = y
        z //= 4.0
        z %= 16.0
        return self.f(y)


@pytest.mark.parametrize("kind", [AddStatement, TwoNames, BeforeTheBranch, Statement, Counting, Power])
def test_who_reads_a_value_behind_a_write_reads_the_new_one(kind):
    assert near(kind()) < 0.08


def test_a_remainder_is_written_under_every_name():
    model = Rest().eval()
    with torch.no_grad():
        want = copy.deepcopy(model)(X)
        config = ShiftConfig(method="uniform", format="int8", activations=None, init="pretrained", rules=(KEEP_C1,))
        got = convert(model, config, sample=X)[0].eval()(X)
    assert float((got - want).norm() / want.norm()) < 0.08


def test_a_write_through_a_view_is_refused_by_name():
    class Through(Base):
        def forward(self, x: Tensor) -> Tensor:
            y = self.c1(x)
            y.flatten(1).add_(1.0)
            return self.f(y)

    with pytest.raises(ConvertError, match="'add_' writes into memory that 'c1' shares, which is read later"):
        convert(Through(), ShiftConfig(activations=8), sample=X)


def test_parts_that_do_not_overlap_may_be_written():
    class Parts(Base):
        def forward(self, x: Tensor) -> Tensor:
            a, b = self.c1(x).chunk(2, 1)
            a.relu_()
            return self.f(torch.cat([a, b], 1))

    assert near(Parts()) < 0.08


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.lstm, self.fc = nn.Conv1d(3, 6, 1), nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        found, _ = self.lstm(self.c(x.flatten(2)).transpose(1, 2))
        return self.fc(found)


class Points(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.f(torch.max(self.c1(x).flatten(2), 2, keepdim=True)[0].unsqueeze(3))


@pytest.mark.parametrize("kind", [Recurrent, Points])
def test_one_of_several_results_is_a_value_that_is_rounded(kind):
    assert near(kind()) < 0.08


@pytest.mark.parametrize("activations", [None, 8])
def test_a_subclass_with_a_computed_weight_keeps_its_own_forward(activations):
    class Causal(nn.Conv1d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(F.pad(input, (2, 0)))

    model = nn.Sequential(nn.Conv1d(3, 8, 1), weight_norm(Causal(8, 8, 3)), nn.Conv1d(8, 4, 1))
    x = X.flatten(2)[:, :, :10]
    converted, report = convert(model, ShiftConfig(activations=activations), sample=x)
    assert converted.train()(x).shape == (16, 4, 10)
    assert "subclass" in next(row for row in report.rows if row.path == "1").note


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)


def test_torch_s_fast_path_does_not_go_round_the_layers():
    x = X.flatten(2)[:, :, :8]
    rounding = convert(encoder(), ShiftConfig(method="deepshift_q", bits=5, activations="3.2"))[0].eval()
    with torch.no_grad():
        alone = rounding(x)
    assert torch.allclose(alone, rounding(x).detach(), atol=1e-5)  # the attention has a fast path of its own
    model = convert(encoder(), ShiftConfig(method="deepshift_q", bits=5))[0].eval()
    frozen = freeze(model, x)
    with torch.no_grad():
        assert torch.equal(getattr(frozen, "model", frozen)(x), model(x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.emb, self.fc = nn.Embedding(11, 6), nn.Linear(6, 6)

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(self.fc(self.emb(ids)), self.emb.weight)


def test_a_head_that_reads_the_embedding_s_weight_freezes_in_float_and_is_refused_in_integers():
    ids = torch.arange(11).reshape(1, 11)
    model = convert(Tied(), ShiftConfig(method="nearest", bits=4, init="pretrained"))[0].eval()
    frozen = freeze(model, ids)
    assert torch.equal(getattr(frozen, "model", frozen)(ids), model(ids))
    with pytest.raises(ConvertError, match=r"forward uses 'emb\.weight' itself"):
        convert(Tied(), ShiftConfig(method="nearest", bits=4, activations=8), sample=ids)


@pytest.mark.parametrize("multiplier", [True, False])
@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_a_norm_that_is_held_still_stays_so(multiplier, init):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).train()
    model[:2].requires_grad_(False)
    model[1].eval()
    config = ShiftConfig(activations=8, multiplier=multiplier, init=init, method="nearest", bits=4)
    converted = convert(model, config, sample=X)[0]
    layer = converted.get_submodule("0")
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == []
    assert not layer.norm.training
    assert layer.training
    assert converted.training
    assert any(p.requires_grad for p in converted.get_submodule("3").parameters())


def test_without_a_sample_a_mean_over_one_axis_is_no_pool_and_a_lone_norm_asks_for_one():
    class Strip(Base):
        def forward(self, x: Tensor) -> Tensor:
            y = self.c1(x)
            return self.f(y + F.relu(y.mean(-1, keepdim=True)))

    _, report = convert(Strip(), ShiftConfig(activations=8))
    assert any("mean over axis -1" in row.note and "sample=" in row.note for row in report.rows)
    lone = nn.Sequential(nn.BatchNorm1d(8), nn.Conv1d(8, 4, 3))
    with pytest.raises(ConvertError, match=r"norm '0' has no layer before it.*sample="):
        convert(lone, ShiftConfig(activations=8))
    convert(lone, ShiftConfig(activations=8), sample=torch.randn(4, 8, 12))


def test_calibration_leaves_a_norm_without_statistics_alone():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), nn.Conv2d(8, 4, 1)
    )
    converted = convert(model, ShiftConfig(activations=8, init="pretrained"), sample=X)[0]
    calibrate(converted, [X])
    assert bool(converted(X).isfinite().all())
