"""Flip rates and freezing, counted by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from bitshift.nn.methods import DeepShiftQ, DenseShift, Nearest
from bitshift.nn.metrics import FlipTracker, change_rate


def ternary(values: list[float]) -> Nearest:
    return Nearest(torch.tensor([values]), "pot2", scale=torch.ones(1))


def set_latent(method: Nearest, values: list[float]) -> None:
    with torch.no_grad():
        method.latent.copy_(torch.tensor([values]))


def test_the_first_record_has_no_rates() -> None:
    record = FlipTracker(ternary([1.0, 0.0, -1.0, 1.0])).record()
    (layer,) = record.layers
    assert (layer.value_rate, layer.sign_rate, layer.never_flipped, layer.freezing_rate) == (None, None, 1.0, None)
    assert layer.count == 4
    assert record.label == 0


def test_value_sign_and_never_flipped_are_shares_and_zero_is_a_sign() -> None:
    method = Nearest(torch.tensor([[1.0, 2.0, -1.0, 4.0]]), "pot3", scale=torch.ones(1))
    tracker = FlipTracker(method)
    tracker.record()
    set_latent(method, [2.0, 0.0, 1.0, 4.0])  # value; value and sign (to zero); value and sign; nothing
    second = tracker.record().layers[0]
    assert (second.value_rate, second.sign_rate, second.never_flipped) == (0.75, 0.5, 0.5)
    assert second.freezing_rate == 0.25
    set_latent(method, [2.0, 2.0, 1.0, -4.0])  # the second weight is back: it stays counted as flipped
    third = tracker.record(label=7)
    assert third.label == 7
    assert (third.layers[0].value_rate, third.layers[0].sign_rate, third.layers[0].never_flipped) == (0.5, 0.5, 0.25)


def test_a_reversal_is_a_sign_change_without_zero_and_zeros_are_counted() -> None:
    method = Nearest(torch.tensor([[1.0, 2.0, -1.0, 4.0]]), "pot3", scale=torch.ones(1))
    tracker = FlipTracker(method)
    assert tracker.record().layers[0].reversal_rate is None
    set_latent(method, [2.0, 0.0, 1.0, 4.0])
    second = tracker.record().layers[0]
    assert (second.sign_rate, second.reversal_rate, second.zeros) == (0.5, 0.25, 0.25)


def test_steps_are_quantiles_of_the_distance_over_what_one_step_moved() -> None:
    method = ternary([0.4, -0.7, 1.0, 0.9])  # thresholds at +-0.5
    tracker = FlipTracker(method)
    assert (tracker.record().layers[0].update, tracker.record().layers[0].steps) == (None, None)
    tracker.before_step()
    set_latent(method, [0.41, -0.71, 1.01, 0.89])
    layer = tracker.record().layers[0]
    assert layer.update == pytest.approx(0.01, rel=1e-4)
    assert layer.steps == pytest.approx((12.6, 30.0, 47.4), rel=1e-3)  # of distances 0.09 0.21 0.39 0.51
    assert tracker.record().layers[0].update is None  # the step is told once
    tracker.before_step()
    assert tracker.record().layers[0].steps is None  # nothing moved


def test_the_mean_weighs_layers_by_their_weights() -> None:
    model = nn.ModuleDict({"a": ternary([1.0]), "b": ternary([1.0, 1.0, 1.0])})
    tracker = FlipTracker(model)
    assert tracker.names == ("a", "b")
    tracker.record()
    set_latent(model["a"], [-1.0])
    mean = tracker.record().mean
    assert (mean.count, mean.value_rate, mean.sign_rate, mean.never_flipped) == (4, 0.25, 0.25, 0.75)


def test_distance_is_the_mean_threshold_distance_over_the_deviation_of_the_latents() -> None:
    method = ternary([0.4, -0.7, 1.0, 0.9])  # thresholds at +-0.5
    layer = FlipTracker(method).record().layers[0]
    latents = torch.tensor([0.4, -0.7, 1.0, 0.9])
    expected = torch.tensor([0.1, 0.2, 0.5, 0.4]).mean() / latents.std(correction=0)
    assert layer.distance == pytest.approx(expected.item(), rel=1e-5)
    assert FlipTracker(ternary([1.0, 1.0])).record().layers[0].distance is None


def test_low_variance_start_has_the_same_distance_as_a_wide_one() -> None:
    distances = []
    for std in (1e-3, 1.0):
        method = DenseShift.random((64, 64), "pot3d", std=std, generator=torch.Generator().manual_seed(1))
        distances.append(FlipTracker(method).record().mean.distance)
    assert distances[0] == pytest.approx(distances[1], rel=1e-4)


def test_float_weights_are_followed_by_sign_only() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0], [0.5, 0.0]]))
    assert FlipTracker(model).names == ()
    tracker = FlipTracker(model, floats=True)
    assert tracker.names == ("0.weight",)
    tracker.record()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0, 1.0], [0.5, 0.1]]))
    layer = tracker.record().layers[0]
    assert (layer.value_rate, layer.sign_rate, layer.never_flipped) == (None, 0.5, 0.5)
    assert layer.reversal_rate == 0.25


def test_the_latents_of_a_method_are_not_float_weights() -> None:
    model = nn.ModuleDict({"shift": ternary([1.0, -1.0]), "free": nn.Linear(3, 2)})
    assert FlipTracker(model, floats=True).names == ("shift", "free.weight")


def test_shared_weights_are_counted_once() -> None:
    method = ternary([1.0, -1.0])
    assert FlipTracker(nn.ModuleList([method, method])).names == ("0",)


def test_a_resumed_tracker_continues_exactly() -> None:
    method = ternary([1.0, 0.0, -1.0, 1.0])
    whole = FlipTracker(method)
    whole.record()
    set_latent(method, [-1.0, 0.0, -1.0, 1.0])
    whole.record()
    resumed = FlipTracker(method)
    resumed.load_state_dict(whole.state_dict())
    set_latent(method, [1.0, 1.0, -1.0, 1.0])
    assert resumed.record() == whole.record()


def test_codes_of_two_formats_are_not_compared() -> None:
    method = Nearest(torch.randn(4, 16), "pot3d", wide="pot4x2", narrow_at=0.5, scale=torch.ones(4))
    tracker = FlipTracker(method)
    rates = []
    for fraction in (0.0, 0.1, 0.6, 0.7):
        method.set_progress(fraction)
        rates.append(tracker.record().mean.value_rate)
        again = FlipTracker(method)
        again.load_state_dict(tracker.state_dict())
        tracker = again
    assert rates == [None, 0.0, None, 0.0]


def test_a_state_of_another_model_is_refused() -> None:
    tracker = FlipTracker(ternary([1.0, 0.0]))
    tracker.record()
    with pytest.raises(ValueError, match="does not fit this model"):
        FlipTracker(ternary([1.0])).load_state_dict(tracker.state_dict())
    with pytest.raises(ValueError, match="no 'records' entry"):
        FlipTracker(ternary([1.0])).load_state_dict({})


def test_stochastic_rounding_alone_is_no_flip() -> None:
    method = DeepShiftQ.random((32, 32), "pot5d", stochastic=True, generator=torch.Generator().manual_seed(3))
    tracker = FlipTracker(method)
    tracker.record()
    before = method.codes()
    method.after_step()
    assert not torch.equal(method.codes(), before)
    assert tracker.record().mean.value_rate == 0.0
    assert method.training


def test_recording_changes_nothing_in_the_model() -> None:
    method = DenseShift.random((4, 4), "pot3d", generator=torch.Generator().manual_seed(2))
    before = {k: v.clone() for k, v in method.state_dict().items()}
    FlipTracker(method).record()
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


def test_a_record_is_plain_json() -> None:
    tracker = FlipTracker(ternary([1.0, 0.0]))
    tracker.record()
    line = json.loads(json.dumps({"kind": "flips", **tracker.record().as_dict()}))
    assert (line["mean"]["value_rate"], line["mean"]["freezing_rate"]) == (0.0, 1.0)
    assert line["layers"][0]["name"] == ""


def test_change_rate_needs_one_shape() -> None:
    assert change_rate(torch.tensor([1, 2]), torch.tensor([1, 3])) == 0.5
    with pytest.raises(ValueError, match="differ"):
        change_rate(torch.zeros(2), torch.zeros(3))
