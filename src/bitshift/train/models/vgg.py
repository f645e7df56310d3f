"""VGG-11/13/16/19, with and without batch norm (Simonyan and Zisserman, 2014), with torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

STAGES: dict[int, tuple[tuple[int, int], ...]] = {
    11: ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512)),
    13: ((2, 64), (2, 128), (2, 256), (2, 512), (2, 512)),
    16: ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)),
    19: ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)),
}
"""Layers with weights -> (number of 3x3 convolutions, their channels) of each stage; a 2x2 max-pool ends a stage."""


class VGG(nn.Module):
    """Stages of 3x3 convolutions, then three linear layers; input (N, in_channels, H, W) from 32 pixels on.

    ``features.N`` and ``classifier.N`` count as in torchvision, so published weights load for ``hidden=4096``. Inputs
    of 224 pixels reach the classifier as they are; of other sizes the average pool in front makes 7x7.
    """

    def __init__(
        self, stages: Sequence[tuple[int, int]], *, num_classes: int = 1000, in_channels: int = 3, norm: bool = False,
        hidden: int = 4096, dropout: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = []
        for depth, channels in stages:
            for _ in range(depth):
                layers.append(nn.Conv2d(in_channels, channels, 3, padding=1))
                layers += [nn.BatchNorm2d(channels), nn.ReLU()] if norm else [nn.ReLU()]
                in_channels = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(in_channels * 49, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


__all__ = ["STAGES", "VGG"]
