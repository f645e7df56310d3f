"""Changes of colour, and erasing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitshift.train.data.augment import Augment
from bitshift.train.data.crops import random_boxes, to_dtype

_GREY = (0.299, 0.587, 0.114)
_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


def _need_three(images: Tensor, name: str) -> None:
    if images.shape[1] != 3:
        raise ValueError(f"{name} changes colours: images need 3 channels, these have {images.shape[1]}")


@dataclass(frozen=True, kw_only=True)
class ColourJitter(Augment):
    """Brightness, contrast and saturation times a random factor in ``1 - x .. 1 + x``, in random order.

    The law is torchvision's ColorJitter without hue, but that only the result is rounded, not each step.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4

    width = 6

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"ColourJitter: {name} {value} must be 0..1")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        drawn = torch.rand((count, 6), generator=generator, dtype=torch.float64)
        reach = torch.tensor([self.brightness, self.contrast, self.saturation], dtype=torch.float64)
        return torch.cat([1 + reach * (2 * drawn[:, :3] - 1), drawn[:, 3:].argsort(1).to(torch.float64)], dim=1)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        _need_three(images, "ColourJitter")
        pixels = images.to(torch.float32)
        weights = torch.tensor(_GREY, device=images.device).view(1, 3, 1, 1)
        zero = torch.zeros((), device=images.device)
        for turn in range(3):
            which = parameters[:, 3 + turn].long()
            factor = parameters[:, :3].gather(1, which[:, None])[:, 0].to(torch.float32)[:, None, None, None]
            kind = which[:, None, None, None]
            grey = (pixels * weights).sum(1, keepdim=True)
            target = torch.where(kind == 2, grey, torch.where(kind == 1, grey.mean((2, 3), keepdim=True), zero))
            pixels = (factor * pixels + (1 - factor) * target).clamp(0, 255)
        return to_dtype(pixels, images.dtype)


@dataclass(frozen=True, kw_only=True)
class Lighting(Augment):
    """Add multiples of the main directions of ImageNet's colours, drawn with deviation ``std`` (Krizhevsky, 2012)."""

    std: float = 0.1

    width = 3

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return self.std * torch.randn((count, 3), generator=generator, dtype=torch.float64)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        _need_three(images, "Lighting")
        vectors = torch.tensor(_EIGENVECTORS, device=images.device)
        values = torch.tensor(_EIGENVALUES, device=images.device)
        added = 255 * (parameters.to(torch.float32) * values) @ vectors.T
        return to_dtype(images.to(torch.float32) + added[:, :, None, None], images.dtype)


@dataclass(frozen=True, kw_only=True)
class Erase(Augment):
    """Paint a random box of a share of the images in one colour (Zhong et al., 2017; the law is torchvision's,
    but that a box may be as wide or as high as the picture).

    Args:
        probability: of an image to be painted on.
        scale, ratio: area as a share of the picture's, height / width.
        fill: the colour, 0..255; 128 is 0 after the default normalisation.
    """

    probability: float = 0.25
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    fill: int = 128

    width = 23

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand((count, self.width), generator=generator, dtype=torch.float64)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        height, width = images.shape[2:]
        lying = 1 / self.ratio[1], 1 / self.ratio[0]  # width / height
        boxes, fits = random_boxes(parameters[:, 1:], height, width, self.scale, lying)
        top, left, tall, wide = (side[:, None] for side in boxes.T)
        rows, cols = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        inside = ((rows >= top) & (rows < top + tall))[:, :, None] & ((cols >= left) & (cols < left + wide))[:, None]
        painted = inside & (fits & (parameters[:, 0] < self.probability))[:, None, None]
        return images.masked_fill(painted[:, None], self.fill)


__all__ = ["ColourJitter", "Erase", "Lighting"]
