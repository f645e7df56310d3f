"""Torch calls the argument of its layers ``input``; what takes their place must take it by that name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitshift import ShiftConfig, convert, export, freeze
from bitshift.nn import FixedPointQuant


class ByName(nn.Module):
    """``layers`` one behind the other; ``name`` says by which word each gets its value, None: by its place."""

    def __init__(self, layers: list[nn.Module], name: str | None) -> None:
        super().__init__()
        self.layers, self.name = nn.ModuleList(layers), name

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x) if self.name is None else layer(**{self.name: x})
        return x


def image_net() -> list[nn.Module]:
    return [
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.ConvTranspose2d(8, 8, 2, stride=2),
        nn.ReLU6(), nn.AvgPool2d(2), nn.Dropout(0.1), nn.Conv2d(8, 4, 1), nn.Hardtanh(-1, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 5),
    ]  # fmt: skip


def signal_net() -> list[nn.Module]:
    return [nn.Conv1d(3, 8, 3), nn.SiLU(), nn.AvgPool1d(2), nn.Conv1d(8, 4, 3, groups=4), nn.Sigmoid()]


def text_net() -> list[nn.Module]:
    return [nn.Embedding(16, 8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2)]


SAMPLES = {
    "image": (image_net, torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))),
    "signal": (signal_net, torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(2))),
    "text": (text_net, torch.randint(16, (4, 6), generator=torch.Generator().manual_seed(3))),
}


@pytest.mark.parametrize(("kind", "activations"), [("image", None), ("image", 8), ("signal", 8), ("text", "16.16")])
def test_a_network_that_names_the_argument_is_converted_like_one_that_does_not(
    kind: str, activations: int | str | None, tmp_path: Path
) -> None:
    make, sample = SAMPLES[kind]
    config = ShiftConfig(method="nearest", bits=4, init="pretrained", activations=activations)
    outputs, reports, files = [], [], []
    for name in (None, "input"):
        torch.manual_seed(0)
        net, report = convert(ByName(make(), name).eval(), config, sample=sample)
        trained = net.train()(sample).detach()
        frozen = freeze(net, sample)
        outputs.append((trained, net.eval()(sample), frozen(sample)))
        reports.append(str(report))
        export(frozen, tmp_path / f"{name}.safetensors")
        files.append((tmp_path / f"{name}.safetensors").read_bytes())
    for by_place, by_name in zip(*outputs, strict=True):
        assert torch.equal(by_place, by_name)
    assert reports[0] == reports[1]
    assert files[0] == files[1]


def test_quantisers_of_ours_take_it_by_that_name_trained_and_frozen() -> None:
    sample = torch.randn(3, 4, generator=torch.Generator().manual_seed(4))
    net, _ = convert(ByName([FixedPointQuant("8.4"), nn.Linear(4, 4)], "input").eval(), ShiftConfig(), sample=sample)
    assert torch.equal(freeze(net, sample)(sample), net(sample))
