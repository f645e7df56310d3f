"""Reference models: shapes, parameter names, and the figures that identify them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bitshift.train.models import MODELS, build, strip_module_prefix
from bitshift.train.models.resnet_cifar import PadShortcut

# trainable, 10 classes, 3 channels (lenet 1); MLPerf Tiny adds 480 running statistics to resnet8: 78,666
WEIGHTS = {
    "lenet": 431_080, "lenet_bn": 431_650, "resnet8": 78_186, "resnet20": 269_722, "resnet32": 464_154,
    "resnet44": 658_586, "resnet56": 853_018, "resnet18": 11_181_642, "resnet34": 21_289_802, "resnet50": 23_528_522,
}  # fmt: skip


def make(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(name, num_classes=10, in_channels=1 if name.startswith("lenet") else 3).eval()


@pytest.mark.parametrize("name", MODELS)
def test_output_is_one_logit_a_class(name):
    height, width = MODELS[name].input_size
    size = (64, 64) if height == 224 else (height, width)
    model = make(name)
    channels = 1 if name.startswith("lenet") else 3
    with torch.no_grad():
        assert model(torch.zeros(2, channels, *size)).shape == (2, 10)


@pytest.mark.parametrize("name", MODELS)
def test_the_number_of_parameters_is_the_published_one(name):
    assert sum(p.numel() for p in make(name).parameters()) == WEIGHTS[name]


def test_torchvision_counts_with_a_thousand_classes():
    # torchvision's documentation: 11,689,512 / 21,797,672 / 25,557,032
    counts = [
        sum(p.numel() for p in build(n, num_classes=1000, in_channels=3).parameters())
        for n in ("resnet18", "resnet34", "resnet50")
    ]
    assert counts == [11_689_512, 21_797_672, 25_557_032]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["conv1.weight", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_var", "fc.bias"]),
        ("resnet50", ["layer1.0.downsample.0.weight", "layer4.2.conv3.weight", "layer4.2.bn3.num_batches_tracked"]),
        ("resnet20", ["conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "linear.bias"]),
    ],
)  # fmt: skip
def test_parameters_have_the_names_of_published_checkpoints(name, expected):
    names = make(name).state_dict().keys()
    assert set(expected) <= names
    assert not any("shortcut" in n or "pool" in n for n in names)


def test_option_a_subsamples_and_pads_channels_evenly():
    x = torch.arange(2 * 2 * 4 * 4, dtype=torch.float32).reshape(2, 2, 4, 4)
    y = PadShortcut(1)(x)
    assert y.shape == (2, 4, 2, 2)
    np.testing.assert_array_equal(y[:, 1:3].numpy(), x.numpy()[:, :, ::2, ::2])
    assert not y[:, 0].any()
    assert not y[:, 3].any()


def test_resnet8_pads_a_strided_convolution_behind_only():
    stack = make("resnet8").stack2
    x = torch.zeros(1, 16, 4, 4)
    x[0, 0, 3, 3] = 1.0  # the last pixel lies in the window of the last output only if nothing is padded in front
    with torch.no_grad():
        y = stack.conv1(stack.pad(x)) - stack.conv1(stack.pad(torch.zeros_like(x)))
    assert y.shape[-2:] == (2, 2)
    np.testing.assert_allclose(
        y[0, :, 1, 1].numpy(), stack.conv1.weight[:, 0, 1, 1].detach().numpy(), rtol=1e-5, atol=1e-7
    )


def test_module_prefixes_are_stripped():
    weight = torch.zeros(1)
    assert strip_module_prefix({"module.conv1.weight": weight, "fc.module.x": weight}).keys() == {
        "conv1.weight",
        "fc.module.x",
    }


@pytest.mark.parametrize(("name", "hint"), [("resnet2", "did you mean"), ("vgg", "Known models: lenet")])
def test_an_unknown_model_is_refused_with_a_hint(name, hint):
    with pytest.raises(ValueError, match=hint):
        build(name, num_classes=10, in_channels=3)
    with pytest.raises(ValueError, match="at least 1"):
        build("lenet", num_classes=0, in_channels=3)


def shared(name: str) -> Path:
    """Published checkpoints lie beside the checkout where experiments are made; nothing a user runs needs them."""
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def test_the_published_resnet20_checkpoint_fits():
    state = torch.load(shared("cifar10_resnet20-12fca82f.th"), map_location="cpu", weights_only=True)["state_dict"]
    model = make("resnet20")
    result = model.load_state_dict(strip_module_prefix(state))
    assert not result.missing_keys
    assert not result.unexpected_keys
