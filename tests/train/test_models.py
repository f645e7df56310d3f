"""Reference models: shapes, parameter names, and the figures that identify them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from bitshift.train.models import MODELS, build, published_state, strip_module_prefix
from bitshift.train.models.googlenet import GoogLeNet
from bitshift.train.models.resnet_cifar import PadShortcut

# Trainable parameters with 10 classes and 3 channels (nets of digits and speech: 1). MLPerf Tiny adds 480 running
# statistics to resnet8: 78,666, and to ds_cnn 1,152, and two classes: 24,908. kuangliu/pytorch-cifar counts 11,173,962
# and 2,296,922.
SMALL = {
    "mlp": 669_706, "lenet": 431_080, "lenet_bn": 431_650, "lenet5": 61_706, "lenet5_bn": 61_932, "ds_cnn": 23_626,
    "resnet8": 78_186, "resnet20": 269_722, "resnet32": 464_154, "resnet44": 658_586, "resnet56": 853_018,
    "resnet20_b": 272_474, "resnet56_b": 855_770,
    "resnet18_cifar": 11_000_138, "resnet18_cifar_b": 11_173_962, "mobilenet_v2_cifar": 2_296_922,
}  # fmt: skip

# Parameters with 1000 classes, and the fingerprint of torchvision 0.28's state dict (marvis/pytorch-mobilenet's for
# mobilenet_v1): test_torchvision_has_the_same_names makes it anew where torchvision is installed.
FINGERPRINTS = {
    "alexnet": (61_100_840, "dd9c4dec53aa"),
    "densenet121": (7_978_856, "ab49849b3ca2"),
    "densenet161": (28_681_000, "5022fc3e1f53"),
    "densenet169": (14_149_480, "e99928dbb773"),
    "densenet201": (20_013_928, "b4693170ccb5"),
    "googlenet": (6_624_904, "104f4367b66a"),
    "mobilenet_v1": (4_231_976, "2c25d7608115"),
    "mobilenet_v2": (3_504_872, "8e46697c9016"),
    "resnet101": (44_549_160, "e0e4b4ababa6"),
    "resnet152": (60_192_808, "db106f558aed"),
    "resnet18": (11_689_512, "1dcde4b21afa"),
    "resnet34": (21_797_672, "c9e0bf87b439"),
    "resnet50": (25_557_032, "ce6ad2593ee1"),
    "vgg11": (132_863_336, "2dc8d3b001c6"),
    "vgg11_bn": (132_868_840, "e4187ae2ee9f"),
    "vgg13": (133_047_848, "5765e5290b94"),
    "vgg13_bn": (133_053_736, "ce959ade57cb"),
    "vgg16": (138_357_544, "8d869fc271c1"),
    "vgg16_bn": (138_365_992, "82d2ee0373b7"),
    "vgg19": (143_667_240, "4b3852b2713f"),
    "vgg19_bn": (143_678_248, "9981c403fff1"),
}


def fingerprint(model: torch.nn.Module) -> str:
    """A hash of the sorted names and shapes of the state dict."""
    lines = sorted(f"{name}:{tuple(tensor.shape)}" for name, tensor in model.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def make(name: str, classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(name, num_classes=classes, in_channels=channels(name)).eval()


def channels(name: str) -> int:
    return 1 if MODELS[name].input_size in ((28, 28), (49, 10)) else 3


@pytest.mark.parametrize("name", MODELS)
def test_output_is_one_logit_a_class(name):
    height, width = MODELS[name].input_size
    with torch.device("meta"), torch.no_grad():  # shapes alone: VGG-19 has 140 M weights
        model = make(name)
        assert model(torch.zeros(2, channels(name), height, width)).shape == (2, 10)
        if height == 224:
            assert model(torch.zeros(2, 3, 96, 64)).shape == (2, 10)


@pytest.mark.parametrize("name", SMALL)
def test_the_number_of_parameters_is_the_published_one(name):
    with torch.device("meta"):
        assert sum(p.numel() for p in make(name).parameters()) == SMALL[name]


@pytest.mark.parametrize("name", sorted(MODELS.keys() - SMALL.keys()))
def test_names_and_shapes_are_those_of_published_checkpoints(name):
    with torch.device("meta"):
        model = make(name, 1000)
    assert (sum(p.numel() for p in model.parameters()), fingerprint(model)) == FINGERPRINTS[name]


@pytest.fixture(scope="module")
def torchvision():
    """The models of torchvision; its import fails beside some builds of torch, which is no fault of ours."""
    try:
        import torchvision.models  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {str(error).splitlines()[0]}")
    return torchvision.models


def theirs(torchvision, name: str, **options) -> torch.nn.Module:
    if name == "googlenet":
        options = {"aux_logits": False, "init_weights": True, **options}
    return getattr(torchvision, name)(**options)


@pytest.mark.parametrize("name", sorted(FINGERPRINTS.keys() - {"mobilenet_v1"}))
def test_torchvision_has_the_same_names(torchvision, name):
    with torch.device("meta"):
        assert fingerprint(theirs(torchvision, name)) == FINGERPRINTS[name][1]


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "googlenet", "mobilenet_v2", "densenet121", "densenet161",
             pytest.param("alexnet", marks=pytest.mark.slow), pytest.param("vgg16_bn", marks=pytest.mark.slow)],
)  # fmt: skip
def test_torchvision_computes_the_same_and_starts_alike(torchvision, name):
    torch.manual_seed(3)
    other, ours = theirs(torchvision, name), make(name, 1000)
    for (key, a), b in zip(other.named_parameters(), ours.parameters(), strict=True):
        if a.dim() > 1 and a.numel() >= 4096:  # one draw each: the deviations of as many numbers lie near each other
            assert abs(float(a.detach().std() / b.detach().std()) - 1) < 0.08, key
        assert (a == 0).all() == (b == 0).all(), key
    for tensor in other.state_dict().values():  # statistics of a trained net, so that a norm is no identity
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)
    ours.load_state_dict(other.state_dict())
    x = torch.randn(2, 3, 80, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), other.eval()(x))


def test_torchvisions_googlenet_with_heads_loads_with_and_without_them(torchvision):
    torch.manual_seed(3)
    other = theirs(torchvision, "googlenet", aux_logits=True, transform_input=True).train()
    full = GoogLeNet(aux_logits=True, transform_input=True)
    full.load_state_dict(published_state(full, other.state_dict()))
    x = torch.randn(2, 3, 96, 96)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        want = other(x)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        main, second, first = full.train()(x)
        full.load_state_dict(other.state_dict())  # training moved the statistics of both alike
    for got, expected in ((first, want.aux_logits1), (second, want.aux_logits2), (main, want.logits)):
        assert got.shape == expected.shape
    with torch.no_grad():
        torch.testing.assert_close(full.eval()(x), other.eval()(x))
    plain = GoogLeNet(transform_input=True).eval()
    plain.load_state_dict(published_state(plain, other.state_dict()))
    with torch.no_grad():
        torch.testing.assert_close(plain(x), other(x))


def test_googlenet_gives_its_auxiliary_logits_in_training_only():
    with torch.device("meta"):
        model = GoogLeNet(num_classes=7, aux_logits=True)
        x = torch.zeros(2, 3, 64, 64)
        assert [tuple(y.shape) for y in model.train()(x)] == [(2, 7)] * 3
        assert model.eval()(x).shape == (2, 7)
        state = model.state_dict()
        bare = GoogLeNet(num_classes=7)
    assert any(name.startswith("aux1.") for name in state)
    assert published_state(bare, state).keys() == bare.state_dict().keys()
    assert published_state(model, state).keys() == state.keys()
    with pytest.raises(ValueError, match="in_channels is 1"):
        GoogLeNet(transform_input=True, in_channels=1)


def test_apots_names_are_understood():
    with torch.device("meta"):
        model = make("resnet20_b")
    names = model.state_dict().keys()
    theirs = {"module." + n.replace("shortcut", "downsample").replace("linear", "fc"): None for n in names}
    assert "module.layer2.0.downsample.0.weight" in theirs
    assert published_state(model, theirs).keys() == names


def test_densenets_old_names_are_understood():
    name = "features.denseblock1.denselayer3.norm1.running_mean"
    with torch.device("meta"):
        model = make("densenet121")
    old = {n.replace("norm1", "norm.1").replace("conv2", "conv.2"): t for n, t in model.state_dict().items()}
    assert name not in old
    assert published_state(model, {f"module.{n}": t for n, t in old.items()}).keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["conv1.weight", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_var", "fc.bias"]),
        ("resnet50", ["layer1.0.downsample.0.weight", "layer4.2.conv3.weight", "layer4.2.bn3.num_batches_tracked"]),
        ("resnet20", ["conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "linear.bias"]),
        ("resnet18_cifar", ["layer4.1.bn2.weight", "linear.weight"]),
        ("mobilenet_v1", ["model.0.0.weight", "model.13.4.running_var", "fc.weight"]),
    ],
)  # fmt: skip
def test_parameters_have_the_names_of_published_checkpoints(name, expected):
    names = make(name).state_dict().keys()
    assert set(expected) <= names
    assert not any("shortcut" in n or "pool" in n for n in names)


def test_shortcuts_of_the_wide_cifar_net_are_convolutions_in_option_b():
    names = make("resnet18_cifar_b").state_dict().keys()
    assert {"layer2.0.shortcut.0.weight", "layer4.0.shortcut.1.running_mean"} <= names
    assert not any("layer1" in n and "shortcut" in n for n in names)


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


@pytest.mark.parametrize(("name", "hint"), [("resnet2", "did you mean"), ("vg", "Known models: mlp")])
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
