"""Training on mixtures of two images (mixup: Zhang et al., 2018; cutmix: Yun et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mix each image with its neighbour, and their labels in the same proportion.

    Rows 2k and 2k + 1 are partners. The order of rows is random, so partners are; and any split of the joint batch
    into even parts (processes, micro-batches) gives the same mixtures.

    Args:
        mixup: parameter of the Beta law of the share; 0: no mixup.
        cutmix: the same for pasting a box of the partner; 0: no cutmix.
        cut_share: share of the images that are cut when both are on.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    cut_share: float = 0.5

    def __post_init__(self) -> None:
        if self.mixup < 0 or self.cutmix < 0 or not self.mixup + self.cutmix > 0:
            raise ValueError(f"Mixing: mixup {self.mixup} and cutmix {self.cutmix} must be at least 0, one above 0")
        if not 0 <= self.cut_share <= 1:
            raise ValueError(f"Mixing: cut_share {self.cut_share} must be 0..1")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Parameters of ``count`` images, float64 (count, 4): own share, cut or not, the box's centre as two shares."""
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        cut = np.zeros(count, bool)
        if self.cutmix > 0:
            cut = rng.random(count) < (self.cut_share if self.mixup > 0 else 1.0)
        share = np.ones(count)
        for alpha, chosen in ((self.mixup, ~cut), (self.cutmix, cut)):
            if alpha > 0:
                share[chosen] = rng.beta(alpha, alpha, count)[chosen]
        return torch.from_numpy(np.column_stack([share, cut, rng.random((count, 2))]))

    def apply(self, images: Tensor, labels: Tensor, parameters: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Mixed images (N, C, H, W) float, and targets float32 (N, classes) that sum to one.

        Mixing and normalising may change places; integers would round the mixture, so normalise first.

        Raises:
            ValueError: an odd number of images, integer images, or features that are no images.
        """
        if len(images) % 2:
            raise ValueError(
                f"mixing pairs neighbours, and a process got {len(images)} images a (micro-)batch; "
                "choose a batch_size that gives each an even number"
            )
        if not images.is_floating_point():
            raise ValueError(f"mixing needs float images, not {images.dtype}; normalise them first")
        if images.dim() != 4:
            raise ValueError(f"mixing needs images (N, C, H, W), not {tuple(images.shape)}; leave out mixup and cutmix")
        partner = torch.arange(len(images), device=images.device) ^ 1
        share, cut = parameters[:, 0], parameters[:, 1].bool()
        height, width = images.shape[2:]
        pasted, area = _boxes(1 - share, parameters[:, 2], parameters[:, 3], height, width)
        share = torch.where(cut, 1 - area / (height * width), share).to(torch.float32)
        own = torch.where(cut[:, None, None], (~pasted).to(images.dtype), share.to(images.dtype)[:, None, None])[
            :, None
        ]
        mixed = own * images + (1 - own) * images[partner]
        hot = F.one_hot(labels, classes).to(torch.float32)
        return mixed, share[:, None] * hot + (1 - share[:, None]) * hot[partner]


def _boxes(area: Tensor, y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Masks (N, H, W) of boxes of the share ``area`` around a centre, cut at the border, and their true areas (N,)."""
    side = torch.sqrt(area)

    def span(centre: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        middle, half = torch.floor(centre * pixels), torch.floor(torch.floor(pixels * side) / 2)
        return (middle - half).clamp(min=0), (middle + half).clamp(max=pixels)

    top, bottom = span(y, height)
    left, right = span(x, width)
    rows, cols = torch.arange(height, device=area.device), torch.arange(width, device=area.device)
    inside = ((rows >= top[:, None]) & (rows < bottom[:, None]))[:, :, None]
    inside = inside & ((cols >= left[:, None]) & (cols < right[:, None]))[:, None]
    return inside, (bottom - top) * (right - left)


__all__ = ["Mixing"]
