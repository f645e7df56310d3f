"""The whole library in a few seconds: convert, train, freeze, export, run. The first test to run after a change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bitshift as bs
from bitshift.backends import BACKENDS, get_backend
from bitshift.nn.method import Method
from bitshift.train.optim import param_groups


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def task(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures of 12 x 12 pixels with a bright bar across, down, or none."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.2 * torch.randn(count, 1, 12, 12, generator=generator)
    labels = torch.arange(count) % 3
    for image, label, at in zip(images, labels, torch.randint(0, 12, (count,), generator=generator), strict=True):
        if label == 0:
            image[0, at] += 1
        elif label == 1:
            image[0, :, at] += 1
    return images, labels


def train(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> float:
    """Accuracy on the training batch, in evaluation, after ``steps`` full-batch steps."""
    methods = [module for module in model.modules() if isinstance(module, Method)]
    optimizer = torch.optim.Adam(param_groups(model, lr=0.01, weight_decay=0.0), lr=0.01)
    model.train()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(images), labels) + sum(method.penalty() for method in methods)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for method in methods:
            method.after_step()
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).double().mean())


@pytest.mark.parametrize(("method", "multiplier"), [("denseshift", False), ("deepshift_ps", False), ("s3", True)])
def test_every_stage_gives_the_same_integers(method: str, multiplier: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images, labels = task(48, seed=1)
    config = bs.ShiftConfig(method=method, activations=8, multiplier=multiplier, init="pretrained")
    model, _ = bs.convert(network(), config, sample=images)
    train(model, images, labels, steps=3)
    frozen = bs.freeze(model, sample=images)
    path = tmp_path / "net.safetensors"
    bs.export(frozen, path, labels=["across", "down", "none"])

    unseen, _ = task(30, seed=2)
    with torch.no_grad():
        simulated = model(unseen).numpy()
        assert np.array_equal(frozen(unseen).numpy(), simulated)
    integers = bs.load(path, backend="reference").run_int(unseen.numpy())
    for name in (b for b in BACKENDS if get_backend(b).available() is None):
        deployed = bs.load(path, backend=name)
        assert np.array_equal(deployed.run(unseen.numpy()), simulated), name
        assert np.array_equal(deployed.run_int(unseen.numpy()), integers), name
        assert deployed.labels == ("across", "down", "none")


def test_it_learns() -> None:
    torch.manual_seed(0)
    images, labels = task(96, seed=1)
    model, _ = bs.convert(network(), bs.ShiftConfig(activations=8, init="pretrained"), sample=images)
    before = train(model, images, labels, steps=1)
    after = train(model, images, labels, steps=60)
    assert after > max(before, 0.8)


def test_a_file_runs_in_a_process_that_cannot_import_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images, _ = task(8, seed=1)
    model, _ = bs.convert(network(), bs.ShiftConfig(activations=8), sample=images)
    train(model, images, torch.arange(8) % 3, steps=1)
    frozen = bs.freeze(model, sample=images)
    bs.export(frozen, tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", images.numpy())
    code = f"""
import sys; sys.modules['torch'] = None
import numpy as np, bitshift
folder = {str(tmp_path)!r}
np.save(folder + '/y.npy', bitshift.load(folder + '/net.safetensors').run(np.load(folder + '/x.npy')))
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    with torch.no_grad():
        assert np.array_equal(np.load(tmp_path / "y.npy"), frozen(images).numpy())
