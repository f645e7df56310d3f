"""Weights of published .tflite files in networks with norms."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tflite_weights
from torch import nn

from bitshift.train.models import build


def file_of(model: nn.Module, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """What a file of ``model`` holds: a weight and a bias for each layer, in order."""
    rng = np.random.default_rng(seed)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    shapes = [tuple(layer.weight.shape) for layer in layers]
    return [
        (rng.normal(0, 0.2, shape).astype(np.float32), rng.normal(0, 0.2, shape[0]).astype(np.float32))
        for shape in shapes
    ]


@pytest.fixture
def ds_cnn(monkeypatch):
    """A DS-CNN with the layers of a made-up file, and these layers."""
    model = build("ds_cnn", num_classes=12, in_channels=1).eval()
    layers = file_of(model)
    monkeypatch.setattr(tflite_weights, "read_layers", lambda _: layers)
    tflite_weights.load_folded(model, Path("net.tflite"))
    return model, layers


def folded(layers: list[tuple[np.ndarray, np.ndarray]], x: torch.Tensor) -> torch.Tensor:
    """The network of the file, without norms, in Keras' order of layers and with its 'same' padding."""
    weights = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in layers]
    (first, offset), *middle, (last, bias) = weights
    x = torch.relu(nn.functional.conv2d(nn.functional.pad(x, (1, 1, 4, 5)), first, offset, stride=2))
    for index, (weight, offset) in enumerate(middle):
        deep = index % 2 == 0
        x = torch.relu(nn.functional.conv2d(x, weight, offset, padding=int(deep), groups=64 if deep else 1))
    return x.mean((2, 3)) @ last.T + bias


def test_a_network_with_norms_computes_what_the_file_without_them_does(ds_cnn):
    model, layers = ds_cnn
    x = torch.randn(3, 1, 49, 10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(x), folded(layers, x), rtol=1e-4, atol=1e-4)


def test_measured_norms_hold_the_statistics_of_their_inputs_and_change_nothing(ds_cnn):
    model, layers = ds_cnn
    batches = [torch.randn(n, 1, 49, 10, generator=torch.Generator().manual_seed(n)) for n in (4, 7)]
    tflite_weights.measure_norms(model, batches)
    x = torch.cat(batches)
    with torch.no_grad():
        torch.testing.assert_close(model(x), folded(layers, x), rtol=1e-4, atol=1e-4)
        seen = model.conv1(model.pad(x))
    torch.testing.assert_close(model.bn1.running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.bn1.running_var, seen.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)
    deviations = [m.weight.min() for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(deviations) == 9
    assert min(deviations) > 0


def test_a_file_of_another_network_is_refused_by_its_layer(monkeypatch):
    model = build("resnet8", num_classes=10, in_channels=3)
    layers = file_of(model)
    monkeypatch.setattr(tflite_weights, "read_layers", lambda _: layers[:-1])
    with pytest.raises(ValueError, match=r"net.tflite has 9 layers, ResNet8 has 10"):
        tflite_weights.load_folded(model, Path("net.tflite"))
    swapped = [*layers[:4], layers[5], layers[4], *layers[6:]]
    monkeypatch.setattr(tflite_weights, "read_layers", lambda _: swapped)
    with pytest.raises(ValueError, match=r"do not fit stack2.conv2, which has \(32, 32, 3, 3\)"):
        tflite_weights.load_folded(model, Path("net.tflite"))


def tensor(kind: int, *, scales: tuple[float, ...] = (), zero: int = 0) -> SimpleNamespace:
    """A tensor as the package ``tflite`` gives it."""
    quantization = SimpleNamespace(
        ScaleLength=lambda: len(scales), Scale=lambda i: scales[i], ZeroPoint=lambda i: (zero,)[i]
    )
    return SimpleNamespace(
        Name=lambda: b"conv/W", ShapeAsNumpy=lambda: np.array([2, 2]), Type=lambda: kind, Buffer=lambda: 0,
        Quantization=lambda: quantization,
    )  # fmt: skip


def model_with(values: np.ndarray) -> SimpleNamespace:
    data = np.frombuffer(values.tobytes(), dtype=np.uint8)
    return SimpleNamespace(Buffers=lambda _: SimpleNamespace(DataAsNumpy=lambda: data))


def test_weights_stored_as_int8_with_a_scale_are_floats():
    levels = np.array([-127, 0, 5, 127], dtype=np.int8)
    got = tflite_weights._constant(Path("n.tflite"), model_with(levels), tensor(9, scales=(0.5,), zero=1))
    np.testing.assert_array_equal(got, np.array([[-64, -0.5], [2, 63]], dtype=np.float32))
    floats = np.array([1.5, -2, 0, 3], dtype=np.float32)
    plain = tflite_weights._constant(Path("n.tflite"), model_with(floats), tensor(0))
    np.testing.assert_array_equal(plain, floats.reshape(2, 2))


@pytest.mark.parametrize(("kind", "scales"), [(9, (0.5, 0.25)), (2, ())])
def test_weights_of_other_types_are_refused_by_name(kind, scales):
    values = np.zeros(4, dtype=np.int8 if kind == 9 else np.int32)
    with pytest.raises(ValueError, match=r"n.tflite: tensor 'conv/W' holds neither"):
        tflite_weights._constant(Path("n.tflite"), model_with(values), tensor(kind, scales=scales))


@pytest.mark.parametrize(("file", "name", "classes"), [("kws", "ds_cnn", 12), ("resnet8", "resnet8", 10)])
def test_the_published_files_fit(file, name, classes):
    pytest.importorskip("tflite", reason="the package tflite is not installed (extra bench)")
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / f"mlperf_tiny_{file}_float.tflite"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    model = build(name, num_classes=classes, in_channels=1 if name == "ds_cnn" else 3)
    tflite_weights.load_folded(model, path)
    assert all(p.isfinite().all() and p.any() for p in model.conv1.parameters())
