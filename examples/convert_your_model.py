"""Your own model and training loop: train with power-of-two weights, prove the integers, write one file.

    python examples/convert_your_model.py net.safetensors

Needs the extra ``bitshift[torch]``. Replace ``network`` and ``batches`` by yours.
"""

import sys

import torch
from torch import Tensor, nn

import bitshift as bs
from bitshift.nn.method import Method
from bitshift.train.optim import param_groups

SHAPES = ["across", "down", "nothing"]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, len(SHAPES)),
    )  # fmt: skip


def batch(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures of 12 x 12 pixels with a bright line across, down, or none."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 1, 12, 12, generator=generator) * 0.3
    labels, at = torch.randint(0, 3, (rows,), generator=generator), torch.randint(0, 12, (rows,), generator=generator)
    for image, label, line in zip(images, labels, at, strict=True):
        image[0, line] += 1.0 * (label == 0)
        image[0, :, line] += 1.0 * (label == 1)
    return images, labels


def main(path: str) -> float:
    torch.manual_seed(0)
    sample, _ = batch(64, seed=0)
    config = bs.ShiftConfig(method="denseshift", bits=3, activations=8)  # weights are 1, 2, 4, 8 and their negatives
    model, report = bs.convert(network(), config, sample=sample)
    print(report)

    methods = [m for m in model.modules() if isinstance(m, Method)]
    optimizer = torch.optim.Adam(param_groups(model, lr=0.01, weight_decay=0.0), lr=0.01)
    model.train()
    for step in range(120):
        images, labels = batch(64, seed=step + 1)
        loss = nn.functional.cross_entropy(model(images), labels) + sum(m.penalty() for m in methods)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for m in methods:
            m.after_step()

    model.eval()  # from here on it computes the integers that will be exported
    images, labels = batch(512, seed=10**6)
    frozen = bs.freeze(model, sample=images)
    graph = bs.export(frozen, path, labels=SHAPES)
    print(graph.pretty())

    deployed = bs.load(path)
    scores = deployed.run(images.numpy())
    with torch.no_grad():
        differing = int((torch.from_numpy(scores) != model(images)).sum())
    accuracy = float((scores.argmax(1) == labels.numpy()).mean())
    print(f"{path}: accuracy {accuracy:.1%} by {deployed.backend!r}, {differing} outputs differ from training")
    return accuracy


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "net.safetensors")
