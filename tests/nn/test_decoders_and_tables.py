"""Transposed convolutions, three axes and embeddings: torch's numbers, folded norms, ties, refusals, and a run."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bitshift as bs
from bitshift.nn import ShiftConv3d, ShiftConvTranspose2d, ShiftEmbedding, ShiftLinear
from bitshift.nn.activations import calibrate
from bitshift.nn.method import get_method
from bitshift.nn.weights import TRANSPOSED, inputs_first, method_weight, output_channels, outputs_first

PRETRAINED = bs.ShiftConfig(method="nearest", format="pot4x2", init="pretrained")
LAYERS = [
    (lambda: nn.ConvTranspose1d(6, 4, 3, 3, 1, output_padding=1, dilation=2), (6, 7)),
    (lambda: nn.ConvTranspose2d(6, 4, 4, 2, 1, groups=2), (6, 5, 4)),
    (lambda: nn.ConvTranspose2d(4, 4, (1, 3), (2, 1), groups=4, bias=False), (4, 3, 4)),
    (lambda: nn.ConvTranspose3d(4, 6, 3, 2, 1, 1, groups=2), (4, 2, 3, 3)),
    (lambda: nn.Conv3d(4, 6, (3, 2, 3), (2, 1, 1), padding=1, groups=2), (4, 5, 4, 3)),
    (lambda: nn.Conv3d(2, 3, 3, padding="same"), (2, 4, 3, 5)),
]


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_a_layer_computes_what_torchs_does_with_its_weight(make, shape) -> None:
    torch.manual_seed(0)
    module, x = make(), torch.randn(3, *shape)
    layer, report = bs.convert(module, PRETRAINED, sample=x)
    assert report.converted[0].became == f"Shift{type(module).__name__}"
    weight = layer.method.weight().detach()
    assert layer.method.shape == tuple(method_weight(module).shape)
    assert layer.method.shape[0] == output_channels(module)
    with torch.no_grad():
        module.weight.copy_(inputs_first(weight, module.groups) if isinstance(module, TRANSPOSED) else weight)
        want = module(x)
        assert torch.allclose(layer.train()(x), want, atol=1e-5)
        assert torch.allclose(layer.eval()(x), want, atol=1e-5)
        assert torch.allclose(layer(x[0]), want[0], atol=1e-5)


def test_turning_a_transposed_weight_twice_gives_it_back() -> None:
    weight = torch.arange(6 * 2 * 3.0).view(6, 2, 3)
    for groups in (1, 2, 3, 6):
        turned = outputs_first(weight, groups)
        assert turned.shape == (2 * groups, 6 // groups, 3)
        assert torch.equal(inputs_first(turned, groups), weight)


def test_a_norm_behind_a_transposed_convolution_folds_along_its_output_channels() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.ConvTranspose2d(6, 4, 4, 2, 1, groups=2, bias=False), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.01, 3.0, -0.5, 40.0]))
        net[1].bias.copy_(torch.tensor([1.0, -2.0, 0.0, 0.5]))
        net[1].running_mean.copy_(torch.randn(4))
        net[1].running_var.copy_(torch.rand(4) + 0.1)
    x = torch.randn(8, 6, 5, 5)
    for multiplier in (False, True):
        config = bs.ShiftConfig(method="uniform", bits=8, activations=8, init="pretrained", multiplier=multiplier)
        model, _ = bs.convert(net, config, sample=x)
        calibrate(model, [x], norms=False, gains=False)
        layer = model.get_submodule("0")
        assert isinstance(layer, ShiftConvTranspose2d)
        with torch.no_grad():
            error = (model.eval()(x) - net(x)).square().mean((0, 2, 3)).sqrt() / net(x).std((0, 2, 3))
        assert float(error.max()) < 0.1, error


class Language(nn.Module):
    """Tokens in, scores of tokens out, by one table."""

    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        self.emb = nn.Embedding(40, 16, padding_idx=padding)
        self.body = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16))
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(self.emb(ids))))


def language(activations: int | None) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(2)
    ids = torch.randint(0, 40, (6, 5))
    config = bs.ShiftConfig(method="nearest", format="pot4x2", activations=activations, init="pretrained")
    model, _ = bs.convert(Language(), config, sample=ids)
    if activations:
        calibrate(model, [ids])
    return model, ids


@pytest.mark.parametrize("activations", [None, 8])
def test_a_tied_table_and_head_share_one_method_and_one_constant(activations, tmp_path) -> None:
    model, ids = language(activations)
    emb, head = model.get_submodule("emb"), model.get_submodule("head")
    assert isinstance(emb, ShiftEmbedding)
    assert isinstance(head, ShiftLinear)
    assert emb.method is head.method
    model.train()(ids).square().sum().backward()
    assert all(p.grad is not None for p in emb.method.parameters())
    frozen = bs.freeze(model.eval(), ids)
    graph = bs.export(frozen, tmp_path / "lm.safetensors")
    first, last = graph.nodes[0], graph.nodes[-1]
    assert (first.op, last.op) == ("embedding", "linear")
    assert first.consts["codes"] == last.consts["codes"]
    with torch.no_grad():
        want = frozen(ids).double().numpy()
    for backend in ("reference", "auto"):
        run = bs.load(tmp_path / "lm.safetensors", backend=backend).run
        for given in (ids.numpy(), ids.numpy().astype(np.int32), ids.numpy().astype(np.uint8)):
            np.testing.assert_allclose(run(given), want, rtol=0, atol=0 if activations else 1e-5)


@pytest.mark.parametrize("activations", [None, 8])
def test_evaluation_refuses_the_ids_that_training_refuses(activations) -> None:
    model, ids = language(activations)
    nets = model, model, bs.freeze(model.eval(), ids)
    for wrong in (40, -1):
        bad = ids.clone()
        bad[2, 3] = wrong
        for net, mode in zip(nets, (True, False, False), strict=True):
            with pytest.raises(IndexError), torch.no_grad():
                net.train(mode)(bad)


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_an_id_out_of_range_is_an_error_that_names_it(backend, tmp_path) -> None:
    model, ids = language(8)
    bs.export(bs.freeze(model.eval(), ids), tmp_path / "lm.safetensors")
    loaded = bs.load(tmp_path / "lm.safetensors", backend=backend)
    bad = ids.numpy().copy()
    for wrong in (40, -1, 2**31 - 1):
        bad[2, 3] = wrong
        with pytest.raises(ValueError, match=rf"'ids' holds the id {wrong} at sample 2, .*rows 0 to 39"):
            loaded.run(bad)
    bad[2, 3] = 2**40
    with pytest.raises(ValueError, match=r"1099511627776; s32\.0 goes from"):
        loaded.run(bad)


def test_a_tie_is_kept_or_refused_as_a_whole() -> None:
    config = bs.ShiftConfig(method="s3", rules=(bs.Rule(pattern="head", keep="float"),))
    model, report = bs.convert(Language(), config)
    assert model.emb.weight is model.head.weight
    assert "tied to 'head', which gets float" in report.row("emb").note
    _, report = bs.convert(Language(), bs.ShiftConfig(method="s3", rules=(bs.Rule(pattern="head", bits=2),)))
    assert "choose one for both" in report.row("emb").note
    assert "choose one for both" in report.row("head").note
    for rule, words in (
        (bs.Rule(pattern="emb", init="random"), ("pot3 (s3, random)", "pot3 (s3, pretrained)")),
        (bs.Rule(pattern="emb", options={"alpha": 1e-4}), ("pot3 (s3, pretrained, alpha=0.0001)", "pot3 (s3, ")),
    ):
        _, report = bs.convert(Language(), bs.ShiftConfig(method="s3", init="pretrained", rules=(rule,)))
        assert f"which gets {words[1]}" in report.row("emb").note
        assert f"not {words[0]}: choose one" in report.row("emb").note
        assert f"which gets {words[0]}, not {words[1]}" in report.row("head").note


def test_a_row_of_padding_needs_a_level_zero() -> None:
    _, report = bs.convert(Language(padding=3), bs.ShiftConfig(method="denseshift", bits=3))
    note = report.row("emb").note
    assert "pot3d has no level 0" in note
    for named in note.partition("has (")[2].partition(")")[0].split(", "):
        config = bs.ShiftConfig(method=named, bits=3, keep_first=False, keep_last=False)
        assert bs.convert(Language(padding=3), config)[1].row("emb").became, named
    model, _ = bs.convert(Language(padding=3), bs.ShiftConfig(method="s3", bits=3))
    ids = torch.tensor([[1, 3]])
    for mode in (True, False):
        rows = model.train(mode).emb(ids)
        assert not rows[0, 1].any()
        assert rows[0, 0].any()
    with pytest.raises(ValueError, match="has no level 0"):
        ShiftEmbedding(get_method("denseshift").random((4, 2), "pot3d"), padding_idx=0)


@pytest.mark.parametrize("activations", [None, 8])
def test_the_report_says_that_a_row_of_padding_was_filled(activations) -> None:
    config = bs.ShiftConfig(method="s3", bits=3, init="pretrained", activations=activations)
    ids = torch.randint(0, 40, (6, 5))
    filled, plain = Language(), Language()
    filled.emb.padding_idx = 3
    for net, said in ((filled, True), (plain, False)):
        note = bs.convert(net, config, sample=ids)[1].row("emb").note
        assert ("row 3 (padding_idx) was not zero and is now" in note) is said


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Embedding(4, 3, max_norm=1.0), "max_norm=1.0"),
        (nn.Embedding(4, 3, sparse=True), "sparse=True"),
        (nn.Embedding(4, 3, scale_grad_by_freq=True), "scale_grad_by_freq=True"),
    ],
)
def test_options_of_an_embedding_without_a_shift_form_are_named(module, reason) -> None:
    _, report = bs.convert(nn.Sequential(module, nn.Linear(3, 2)), bs.ShiftConfig())
    assert reason in report.row("0").note


def test_a_float_embedding_beside_integer_layers_keeps_its_ids() -> None:
    ids = torch.randint(0, 9, (4, 3))
    net = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    model, _ = bs.convert(net, bs.ShiftConfig(activations=8, keep_first="float", init="pretrained"), sample=ids)
    calibrate(model, [ids])
    frozen = bs.freeze(model.eval(), ids)
    assert frozen(ids).shape == (4, 3, 2)


def test_wrong_windows_and_sizes_are_refused() -> None:
    method = get_method("nearest").random((4, 2, 3, 3), "pot3d")
    for wrong, message in (
        ({"output_padding": 1}, "less than stride 1 or dilation 1"),
        ({"stride": 0}, "stride=0"),
        ({"padding": -1}, "padding=-1"),
        ({"groups": 3}, "groups=3"),
        ({"padding_mode": "reflect"}, "padding_mode"),
    ):
        with pytest.raises(ValueError, match=message):
            ShiftConvTranspose2d(copy.deepcopy(method), **wrong)
    with pytest.raises(ValueError, match="weight with 5 axes"):
        ShiftConv3d(copy.deepcopy(method))
    layer = ShiftConvTranspose2d(method, stride=2)
    x = torch.randn(1, 2, 4, 4)
    assert layer(x, output_size=[9, 9]).shape == (1, 4, 9, 9)
    with pytest.raises(ValueError, match="give the constructor output_padding"):
        layer(x, output_size=[10, 10])


def test_an_uneven_enlargement_is_refused_by_name() -> None:
    net = nn.Sequential(nn.Upsample(size=(7, 7)), nn.ReLU()).eval()
    with pytest.raises(ValueError, match=r"enlarges \[4, 4\] to \[7, 7\]; the graph has whole factors"):
        bs.export(net, "unused.safetensors", sample=torch.randn(2, 3, 4, 4))
