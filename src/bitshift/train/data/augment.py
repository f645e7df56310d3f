"""Augmentation of whole batches with torch operations, on any device.

Random numbers are drawn for the joint batch on the CPU and only then cut to a rank's rows: the
images of a step are the same for every device and every number of processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


class Augment(ABC):
    """Random change of images, in two halves: draw numbers, then apply them."""

    width: ClassVar[int]
    """Random numbers an image."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random parameters of ``count`` images, int64 or float64 (count, width), from a CPU generator."""

    @abstractmethod
    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Images (N, C, H, W) changed by ``parameters`` (N, width); same shape, dtype and device."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.apply(images, self.draw(len(images), generator).to(images.device))


def _crop(images: Tensor, pad: int, top: Tensor, left: Tensor, mirrored: Tensor | None) -> Tensor:
    """Window of the input's size out of each zero-padded image, at (top, left), mirrored where asked."""
    n, channels, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad))
    rows = top.long()[:, None] + torch.arange(height, device=images.device)
    cols = torch.arange(width, device=images.device).expand(n, -1)
    if mirrored is not None:
        cols = torch.where(mirrored[:, None], width - 1 - cols, cols)
    cols = left.long()[:, None] + cols
    image = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], cols[:, None, None, :]]


@dataclass(frozen=True, kw_only=True)
class PadCropFlip(Augment):
    """Pad by ``pad`` black pixels, crop back at a random place, mirror half of the images (He et al., 2015)."""

    pad: int = 4
    flip: bool = True

    width = 3

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        place = torch.randint(0, 2 * self.pad + 1, (count, 2), generator=generator)
        mirrored = torch.randint(0, 2, (count, 1), generator=generator)
        return torch.cat([place, mirrored], dim=1)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        mirrored = parameters[:, 2].bool() if self.flip else None
        return _crop(images, self.pad, parameters[:, 0], parameters[:, 1], mirrored)


@dataclass(frozen=True, kw_only=True)
class Shift(Augment):
    """Move each image by up to ``pixels`` in both directions; for digits, which must not be mirrored."""

    pixels: int = 2

    width = 2

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, 2 * self.pixels + 1, (count, 2), generator=generator)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        return _crop(images, self.pixels, parameters[:, 0], parameters[:, 1], None)


@dataclass(frozen=True, kw_only=True)
class Flip(Augment):
    """Mirror a share of the images."""

    probability: float = 0.5

    width = 1

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand((count, 1), generator=generator, dtype=torch.float64)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        mirrored = parameters[:, 0] < self.probability
        # copying whole images is two to three times faster than choosing by torch.where
        chosen = torch.arange(len(images), device=images.device) + len(images) * mirrored
        return torch.cat([images, images.flip(3)]).index_select(0, chosen)


@dataclass(frozen=True)
class Chain(Augment):
    """One change after another."""

    parts: tuple[Augment, ...]

    @property
    def width(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Random numbers an image."""
        return sum(part.width for part in self.parts)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        # float64 holds the whole numbers of the parts exactly
        drawn = [part.draw(count, generator).to(torch.float64) for part in self.parts]
        return torch.cat(drawn, dim=1) if drawn else torch.empty((count, 0), dtype=torch.float64)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        start = 0
        for part in self.parts:
            images = part.apply(images, parameters[:, start : start + part.width])
            start += part.width
        return images


__all__ = ["Augment", "Chain", "Flip", "PadCropFlip", "Shift"]
