"""Models of torchvision, timm, transformers, torchao and brevitas, each only where it is installed."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from bitshift.lower import lower
from bitshift.nn import ShiftConfig, convert, freeze
from bitshift.nn.activations import calibrate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
EIGHT = {"method": "uniform", "bits": 8, "init": "pretrained"}


def library(name: str) -> ModuleType:
    """A library, or a skip that says why it cannot be had."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, AttributeError) as error:  # it may not fit this torch
        pytest.skip(f"{name} cannot be imported: {str(error).partition(chr(10))[0]}")


def as_integers(model: nn.Module, x: torch.Tensor) -> list[str]:
    """Convert, calibrate, freeze and lower; returns what stayed in float."""
    net, report = convert(model.eval(), ShiftConfig(**EIGHT, activations=8), sample=x)
    calibrate(net, [x])
    frozen = freeze(net.eval(), x)
    with torch.no_grad():
        assert torch.equal(frozen(x), net(x))
    if not report.stayed:
        lower(frozen)  # proves the graph equal to the model on the sample
    return sorted({r.was for r in report.stayed})


@pytest.mark.parametrize(
    ("name", "floats"),
    [
        ("resnet18", []), ("mobilenet_v2", []), ("shufflenet_v2_x0_5", []), ("squeezenet1_1", []),
        ("mobilenet_v3_small", ["mul"]), ("efficientnet_b0", ["mul"]),
    ],
)  # fmt: skip
def test_torchvision(name, floats):
    models = library("torchvision.models")
    torch.manual_seed(0)
    assert as_integers(getattr(models, name)(num_classes=10), torch.randn(2, 3, 64, 64)) == floats


@pytest.mark.parametrize(("name", "floats"), [("resnet18", []), ("mobilenetv2_100", [])])
def test_timm(name, floats):
    timm = library("timm")
    torch.manual_seed(0)
    assert as_integers(timm.create_model(name, num_classes=10), torch.randn(2, 3, 64, 64)) == floats


def test_timms_transformers_take_shift_weights():
    timm = library("timm")
    torch.manual_seed(0)
    model, x = timm.create_model("vit_tiny_patch16_224", num_classes=10).eval(), torch.randn(1, 3, 224, 224)
    net, report = convert(model, ShiftConfig(**EIGHT), sample=x)
    assert len(report.converted) == 50
    close(net, model, x)


def close(net: nn.Module, model: nn.Module, x: torch.Tensor) -> None:
    """The converted net computes about the same, and its frozen form exactly the same."""

    def logits(y: Any) -> torch.Tensor:
        return getattr(y, "logits", y)

    with torch.no_grad():
        want, got = logits(model(x)), logits(net.eval()(x))
        assert (got - want).abs().max() < 0.25 * want.abs().max()
        assert torch.equal(logits(freeze(net, x)(x)), got)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_transformers(kind):
    library("transformers")
    from transformers import (  # pyright: ignore[reportMissingImports]
        BertConfig,
        BertForSequenceClassification,
        GPT2Config,
        GPT2LMHeadModel,
    )

    torch.manual_seed(0)
    if kind == "bert":
        small = BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=50
        )
        model, linear = BertForSequenceClassification(small).eval(), 2 * 6 + 2
    else:
        small = GPT2Config(
            n_embd=32, n_layer=2, n_head=4, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=0
        )
        model, linear = GPT2LMHeadModel(small).eval(), 2 * 4 + 1
    x = torch.randint(0, 50, (2, 7))
    net, report = convert(model, ShiftConfig(**EIGHT), sample=x)
    assert sum(r.became == "ShiftLinear" for r in report.converted) == linear
    assert {r.was for r in report.stayed} == {"LayerNorm"}
    close(net, model, x)


@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_torchao(config):
    quantization = library("torchao.quantization")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)).eval()
    quantization.quantize_(model, getattr(quantization, config)())
    x = torch.randn(4, 64)
    net, report = convert(model, ShiftConfig(**EIGHT), sample=x)
    assert all("dequantised from torchao" in r.note for r in report.converted)
    close(net, model, x)
    assert as_integers(model, x) == []


def test_brevitas():
    qnn = library("brevitas.nn")
    quant = library("brevitas.quant")
    torch.manual_seed(0)
    fixed = quant.Int8WeightPerTensorFixedPoint
    model = nn.Sequential(
        qnn.QuantIdentity(act_quant=quant.Int8ActPerTensorFixedPoint), qnn.QuantConv2d(3, 8, 3, weight_quant=fixed),
        qnn.QuantReLU(act_quant=quant.Uint8ActPerTensorFixedPoint), nn.Flatten(),
        qnn.QuantLinear(288, 5, bias=True, weight_quant=fixed),
    )  # fmt: skip
    x = torch.randn(4, 3, 8, 8)
    model.train()(x)
    net, report = convert(model.eval(), ShiftConfig(**EIGHT, activations=8, multiplier=True), sample=x)
    assert [r.note for r in report.rows if r.was == "grid of a value"] == ["taken over", "taken over"]
    assert sum("of brevitas" in r.note for r in report.converted) == 2
    with torch.no_grad():  # every grid is known: nothing to calibrate
        want = model(x)
        assert (freeze(net.eval(), x)(x) - want).abs().max() < 0.25 * want.abs().max()
