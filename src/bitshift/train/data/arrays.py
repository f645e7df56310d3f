"""A labelled data set in memory: the one shape in which every reader delivers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor


class DataError(ValueError):
    """A data set that cannot be read; the message names the file, what was found and what to do."""


@dataclass(frozen=True, kw_only=True)
class Normalise:
    """``(pixel - mean) * scale`` per channel; one entry stands for every channel.

    The default ``(pixel - 128) / 64`` is exact in fixed point (8 bits, 6 of them fraction), so an integer
    network needs no multiplication in front of its first layer.
    """

    mean: tuple[float, ...] = (128.0,)
    scale: tuple[float, ...] = (1 / 64,)

    def __post_init__(self) -> None:
        if not self.mean or not self.scale:
            raise ValueError("Normalise: mean and scale need at least one entry each")
        if not all(np.isfinite(self.mean)) or not all(np.isfinite(s) and s != 0 for s in self.scale):
            raise ValueError(f"Normalise: mean {self.mean} and scale {self.scale} must be finite, scale not 0")

    def __call__(self, images: Tensor) -> Tensor:
        """Float32 images (N, C, ...) on the device of ``images``."""
        shape = (1, -1) + (1,) * (images.dim() - 2)
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images.device).view(shape)
        scale = torch.tensor(self.scale, dtype=torch.float32, device=images.device).view(shape)
        return (images.to(torch.float32) - mean) * scale

    @staticmethod
    def from_mean_std(mean: Sequence[float], std: Sequence[float]) -> Normalise:
        """From statistics of pixels in 0..1, as papers give them."""
        return Normalise(mean=tuple(255.0 * m for m in mean), scale=tuple(1 / (255.0 * s) for s in std))


CIFAR10_NORMALISE = Normalise.from_mean_std((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What the published ResNet-20/32/44/56 checkpoints were trained with (ImageNet's statistics)."""


@dataclass(frozen=True, kw_only=True)
class ArrayData:
    """Images and labels in memory.

    Args:
        images: uint8 (N, C, H, W), or float32 (N, C, ...) for features that are no pixels.
        labels: int64 (N,), each in ``0..len(class_names) - 1``.
        class_names: one name per class.
        normalise: how images become the network's input; part of the data so that training, evaluation and
            export cannot disagree about it.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    normalise: Normalise = field(default_factory=Normalise)

    def __post_init__(self) -> None:
        if self.images.dtype not in (np.uint8, np.float32):
            raise DataError(f"images have dtype {self.images.dtype}; uint8 pixels or float32 features are allowed")
        if self.images.ndim < 2 or (self.images.dtype == np.uint8 and self.images.ndim != 4):
            raise DataError(f"images have shape {self.images.shape}; (N, C, H, W) is needed, C before H and W")
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"labels are {self.labels.dtype} {self.labels.shape}; int64 ({len(self.images)},) is needed"
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise DataError(
                f"labels run from {self.labels.min()} to {self.labels.max()}, but there are "
                f"{len(self.class_names)} class names; labels must be 0..{len(self.class_names) - 1}"
            )
        channels = self.images.shape[1]
        for name, values in (("mean", self.normalise.mean), ("scale", self.normalise.scale)):
            if len(values) not in (1, channels):
                raise DataError(
                    f"normalise.{name} has {len(values)} entries for {channels} channels; give 1 or {channels}"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: np.ndarray | slice) -> ArrayData:
        """The rows of ``index``, in its order."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def with_normalise(self, normalise: Normalise) -> ArrayData:
        """The same data under another normalisation."""
        return replace(self, normalise=normalise)

    def batch(self, index: np.ndarray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Raw images and labels of ``index`` on ``device`` (not normalised, so that augmentation sees pixels)."""
        images, labels = torch.from_numpy(self.images[index]), torch.from_numpy(self.labels[index])
        return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def fingerprint(self) -> str:
        """Short identity of the data (shape, labels, a sample of the images); a resumed run compares it."""
        crc = zlib.crc32(np.ascontiguousarray(self.labels).tobytes())
        step = max(1, len(self) // 64)
        crc = zlib.crc32(np.ascontiguousarray(self.images[::step]).tobytes(), crc)
        return f"{'x'.join(map(str, self.images.shape))}-{self.images.dtype}-{crc:08x}"


def stratified_split(labels: np.ndarray, first: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split ``range(N)`` in two, ``first`` rows in the first part, each class in the same proportion (to a row).

    Raises:
        ValueError: ``first`` is not in 0..N.
    """
    if not 0 <= first <= len(labels):
        raise ValueError(f"first = {first} is not in 0..{len(labels)}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    # rank of a row inside its class, as a fraction: sorting by it interleaves the classes evenly
    position = np.empty(len(labels))
    for c in np.unique(labels):
        rows = order[labels[order] == c]
        position[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    ranked = order[np.argsort(position[order], kind="stable")]
    return np.sort(ranked[:first]), np.sort(ranked[first:])


__all__ = ["CIFAR10_NORMALISE", "ArrayData", "DataError", "Normalise", "stratified_split"]
