"""Random windows of pictures: where they lie (torchvision's law), and cutting them out of a whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bitshift.train.data.augment import Augment

_TRIES = 10


def random_boxes(
    drawn: Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) int64 of (top, left, height, width), and whether a try of ten fitted (N,).

    Each try draws an area as a share of the picture's and a ratio width / height, uniform in its logarithm; the first
    that fits is placed at random (torchvision's RandomResizedCrop and RandomErasing). ``drawn`` (N, 22) is uniform in
    0..1: ten shares, ten ratios, top, left.
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * drawn[:, :_TRIES])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * drawn[:, _TRIES : 2 * _TRIES])
    wide, tall = torch.round(torch.sqrt(area * aspect)), torch.round(torch.sqrt(area / aspect))
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    wide, tall = wide.gather(1, first)[:, 0], tall.gather(1, first)[:, 0]
    top, left = (
        _place(u, room) for u, room in zip(drawn[:, 2 * _TRIES :].T, (height - tall, width - wide), strict=True)
    )
    return torch.stack([top, left, tall, wide], dim=1).long(), fits.any(1)


def _place(uniform: Tensor, room: Tensor) -> Tensor:
    """A whole number in 0..room."""
    return torch.minimum(torch.floor(uniform * (room + 1)), room)


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(Augment):
    """A random window, scaled to the whole picture (Szegedy et al., 2015; the law is torchvision's).

    On decoded batches the window is scaled with a bilinear filter as wide as the pixels it joins, as PIL does. Where
    images are decoded while training, :func:`crops_at_decoding` moves the crop to the decoder, which has all pixels.

    Args:
        scale: least and largest area of the window, as a share of the picture's.
        ratio: least and largest width / height.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    width = 2 * _TRIES + 2

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"RandomResizedCrop: scale {self.scale} must be rising shares above 0, at most 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"RandomResizedCrop: ratio {self.ratio} must be rising numbers above 0")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand((count, self.width), generator=generator, dtype=torch.float64)

    def boxes(self, drawn: Tensor, height: int, width: int) -> Tensor:
        """Windows (N, 4) int64 of (top, left, height, width) for pictures of one size.

        Where none of ten tries fits: the largest centred window of an allowed ratio.
        """
        boxes, fits = random_boxes(drawn, height, width, self.scale, self.ratio)
        centred = torch.tensor(self._centred(height, width), device=boxes.device)
        return torch.where(fits[:, None], boxes, centred)

    def box(self, drawn: Sequence[float], height: int, width: int) -> tuple[int, int, int, int]:
        """One window, as :meth:`boxes` gives it, without the cost of twenty tensors: for decoders."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for share, turn in zip(drawn[:_TRIES], drawn[_TRIES : 2 * _TRIES], strict=True):
            area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * share)
            aspect = math.exp(low + (high - low) * turn)
            wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < wide <= width and 0 < tall <= height:
                top, left = (
                    min(int(u * (room + 1)), room)
                    for u, room in zip(drawn[2 * _TRIES :], (height - tall, width - wide), strict=True)
                )
                return top, left, tall, wide
        return self._centred(height, width)

    def _centred(self, height: int, width: int) -> tuple[int, int, int, int]:
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        tall, wide = min(height, round(width / ratio)), min(width, round(height * ratio))
        return (height - tall) // 2, (width - wide) // 2, tall, wide

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        height, width = images.shape[2:]
        boxes = self.boxes(parameters, height, width).to(torch.float32)
        rows = _filters(boxes[:, 0], boxes[:, 2], height, height)
        cols = _filters(boxes[:, 1], boxes[:, 3], width, width)
        scaled = rows[:, None] @ images.to(torch.float32) @ cols[:, None].transpose(2, 3)
        return to_dtype(scaled, images.dtype)


def _filters(start: Tensor, length: Tensor, pixels: int, wanted: int) -> Tensor:
    """Weights (N, wanted, pixels) that scale the window [start, start + length) of a line to ``wanted`` pixels."""
    step = (length / wanted)[:, None, None]
    reach = step.clamp(min=1.0)
    places = torch.arange(wanted, device=start.device, dtype=torch.float32)[None, :, None] + 0.5
    sources = torch.arange(pixels, device=start.device, dtype=torch.float32)[None, None, :] + 0.5
    first, last = start[:, None, None], (start + length)[:, None, None]
    weights = (1 - (sources - first - places * step).abs() / reach).clamp(min=0.0)
    weights = weights * ((sources > first) & (sources < last))
    return weights / weights.sum(2, keepdim=True)


def to_dtype(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Float pixels back to ``dtype``: uint8 is rounded and kept in 0..255."""
    return images.round().clamp(0, 255).to(dtype) if dtype == torch.uint8 else images.to(dtype)


__all__ = ["RandomResizedCrop", "random_boxes", "to_dtype"]
