"""A trained backbone in a network with a new head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitshift.nn.config import Rule, ShiftConfig
from bitshift.nn.convert import ConvertError, convert
from bitshift.nn.layers import ShiftConv2d, ShiftLinear
from bitshift.nn.methods import DenseShift
from bitshift.nn.transfer import TransferError, discrete_weights, load_backbone

CONFIG = ShiftConfig(method="denseshift", bits=3)
X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def net(classes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Flatten(),
        nn.Linear(32, classes),
    )  # fmt: skip


def converted(model: nn.Module, config: ShiftConfig = CONFIG, **more: object) -> nn.Module:
    return convert(model, config, sample=X, generator=torch.Generator().manual_seed(1), **more)[0]  # type: ignore[arg-type]


def test_the_backbone_keeps_its_latents_and_the_new_head_its_own() -> None:
    trained, model = converted(net(10)), converted(net(3, seed=5))
    head = model[6].method.stack.detach().clone()
    done = load_backbone(model, trained.state_dict(), new=("6",))
    assert torch.equal(model[0].method.stack, trained[0].method.stack)
    assert torch.equal(model[3].weight, trained[3].weight)
    assert torch.equal(model[6].method.stack, head)
    assert "0.method.stack" in done.taken
    assert done.new == ("6.bias", "6.method.stack", "6.method.scale_exp")
    assert str(done).endswith("new: 6; not used: 6")


def test_a_new_head_on_a_converted_network_is_converted_alone() -> None:
    trained = converted(net(10))
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    trained[6] = nn.Linear(32, 3)
    model, report = convert(trained, CONFIG, sample=X)
    assert isinstance(model[6], ShiftLinear)
    assert float(model[6].method.stack.detach().std()) == pytest.approx(1e-3, rel=0.3)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if not k.startswith("6."))
    assert report.row("0").note == "is a shift layer already"
    assert [row.path for row in report.converted] == ["6"]


def test_keep_first_is_the_network_s_first_layer_not_the_head_s() -> None:
    trained = converted(net(10))
    trained[6] = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3))
    config = ShiftConfig(method="denseshift", bits=3, keep_first="float", keep_last="float")
    for sample in (X, None):
        model, _ = convert(trained, config, sample=sample)
        assert isinstance(model[6][0], ShiftLinear)
        assert isinstance(model[6][2], nn.Linear)


def test_new_names_the_layers_to_convert_and_the_others_stay() -> None:
    model, report = convert(net(10), CONFIG, sample=X, new=("3", "6"))
    assert isinstance(model[0], nn.Conv2d)
    assert isinstance(model[3], ShiftConv2d)
    assert report.row("0").note == "not among the layers called new"
    with pytest.raises(ConvertError, match="new 'head' matches no layer"):
        convert(net(10), CONFIG, sample=X, new=("head",))


def test_a_new_head_joins_an_integer_network() -> None:
    config = ShiftConfig(method="denseshift", bits=3, activations=8)
    trained, _ = convert(net(10), config, sample=X)
    trained.train()(X)  # the first batch sets the scales of the activations
    trained.set_submodule("6", nn.Linear(32, 3))
    model, report = convert(trained, config, sample=X)
    head = model.get_submodule("6")
    assert isinstance(head, ShiftLinear)
    assert head.is_integer
    assert torch.equal(model.get_submodule("0").weight, trained.get_submodule("0").weight)
    assert [row.path for row in report.converted] == ["6"]
    model.train()(X)
    assert model.eval()(X).shape == (4, 3)


def test_a_rule_starts_the_head_at_random_and_the_rest_from_its_weights() -> None:
    start = ShiftConfig(method="denseshift", bits=3, init="pretrained", options={"eps": 0.01})
    rules = (Rule(pattern="6", init="random", options={"std": 0.5}),)
    config = ShiftConfig(method="denseshift", bits=3, init="pretrained", options={"eps": 0.01}, rules=rules)
    plain, model = converted(net(10), start), converted(net(10), config)
    assert torch.equal(plain[0].weight, model[0].weight)
    assert not torch.equal(plain[6].weight, model[6].weight)
    assert float(model[6].method.stack.detach().std()) == pytest.approx(0.5, rel=0.2)
    report = convert(net(10), config, sample=X)[1]
    assert report.row("6").note.startswith("random start by rule '6'; scale 2^")
    assert report.row("0").note == ""


def test_a_rule_with_a_wrong_option_or_start_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'std'"):
        convert(net(10), ShiftConfig(rules=(Rule(pattern="6", options={"stdd": 1.0}),)), sample=X)
    with pytest.raises(ValueError, match="allowed are 'random', 'pretrained'"):
        Rule(pattern="6", init="he")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leaves nothing for"):
        Rule(pattern="6", keep="float", init="random")


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_discrete_weights_come_back_exactly_with_fresh_latents(bits: int) -> None:
    trained = converted(net(10), ShiftConfig(method="denseshift", bits=bits, init="pretrained"))
    model = net(10, seed=9)
    load_backbone(model, discrete_weights(trained), new=())
    again = converted(
        model, ShiftConfig(method="denseshift", bits=bits, init="pretrained", options={"start": "sign_consistent"})
    )
    for layer in (0, 3, 6):
        assert torch.equal(again[layer].weight, trained[layer].weight)
    assert float(again[0].method.stack.detach().std()) == pytest.approx(1e-3, rel=0.2)
    assert isinstance(again[0].method, DenseShift)
    assert torch.equal(again.eval()(X), trained.eval()(X))


def test_discrete_weights_of_decoders_and_tables_are_in_torch_s_layout() -> None:
    def decoder() -> nn.Sequential:
        table = nn.Embedding(9, 6, padding_idx=2)
        with torch.no_grad():
            table.weight[2] = 1.0
        return nn.Sequential(table, nn.Flatten(1), nn.Unflatten(1, (6, 8)), nn.ConvTranspose1d(6, 6, 3, groups=2))

    ids = torch.randint(0, 9, (4, 8), generator=torch.Generator().manual_seed(0))
    config = ShiftConfig(method="s3", init="pretrained", keep_first=False, keep_last=False)
    trained, plain = convert(decoder(), config, sample=ids)[0].eval(), decoder()
    plain.load_state_dict(discrete_weights(trained))
    torch.testing.assert_close(plain(ids), trained(ids))


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.method = nn.Linear(6, 6), nn.Linear(6, 4)
        self.b = self.a

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.method(torch.relu(self.b(torch.relu(self.a(x)))))


@pytest.mark.parametrize(
    ("make", "activations"),
    [
        (Twice, None), (Twice, "16.16"), (lambda: nn.Linear(6, 4), None), (lambda: nn.Linear(6, 4), "16.16"),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU()), 8),
    ],
)  # fmt: skip
def test_discrete_weights_are_a_state_of_the_float_network(make, activations) -> None:
    config = ShiftConfig(method="denseshift", bits=3, init="pretrained", activations=activations)
    trained, plain = convert(make(), config, sample=torch.randn(4, 6))[0].eval(), make()
    plain.load_state_dict(discrete_weights(trained))
    layer, twin = (next(m for m in net.modules() if hasattr(m, "weight")) for net in (trained, plain))
    assert torch.equal(layer.weight, twin.weight)


def test_a_backbone_that_does_not_fit_is_refused_with_the_next_step() -> None:
    shift, plain = converted(net(10)), net(10)
    with pytest.raises(TransferError, match=r"the backbone has no 0.method.stack.*load them before convert"):
        load_backbone(shift, plain.state_dict(), new=("6",))
    with pytest.raises(TransferError, match=r"has no 0.weight.*convert\(\) the model in the same way"):
        load_backbone(plain, shift.state_dict(), new=("6",))
    with pytest.raises(TransferError, match=r"6.weight is \(10, 32\) there and \(3, 32\) here.*\(new=\['6'\]\)"):
        load_backbone(net(3), plain.state_dict(), new=())
    with pytest.raises(TransferError, match="'head' matches no module"):
        load_backbone(net(3), plain.state_dict(), new=("head",))


def test_an_older_backbone_without_paces_is_taken_and_said(caplog: pytest.LogCaptureFixture) -> None:
    config = ShiftConfig(method="nearest", bits=4, activations=8, init="pretrained")
    trained, model = converted(net(10), config), converted(net(10, seed=5), config)
    old = {k: v for k, v in trained.state_dict().items() if "gradient_factor" not in k}
    load_backbone(model, old, new=())
    assert "older version" in caplog.text
    caplog.clear()
    load_backbone(model, trained.state_dict(), new=())
    assert caplog.text == ""
    assert torch.equal(model.get_submodule("0").gradient_factor, trained.get_submodule("0").gradient_factor)


def test_discrete_weights_need_a_shift_network_with_outer_norms() -> None:
    with pytest.raises(TransferError, match="no shift layer"):
        discrete_weights(net(10))
    integer, _ = convert(net(10), ShiftConfig(method="denseshift", bits=3, activations=8), sample=X)
    with pytest.raises(TransferError, match="layer '0' holds a norm"):
        discrete_weights(integer)
