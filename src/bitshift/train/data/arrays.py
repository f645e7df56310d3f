"""A labelled data set in memory."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from bitshift.train.data.base import DataError, Normalise, Request, check_labels, check_normalise


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
        check_labels(self.labels, len(self.images), self.class_names)
        check_normalise(self.normalise, self.images.shape[1])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one image, (C, H, W), or of one row of features."""
        return tuple(self.images.shape[1:])

    @property
    def is_pixels(self) -> bool:
        """Whether images are uint8 pixels 0..255; else they are float32 features."""
        return self.images.dtype == np.uint8

    def subset(self, index: np.ndarray | slice) -> Self:
        """The rows of ``index``, in its order."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def with_normalise(self, normalise: Normalise) -> Self:
        """The same data under another normalisation."""
        return replace(self, normalise=normalise)

    def with_class_names(self, class_names: tuple[str, ...]) -> Self:
        """The same data with another list of class names."""
        return replace(self, class_names=class_names)

    def batch(self, index: np.ndarray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Raw images and labels of ``index`` on ``device`` (not normalised, so that augmentation sees pixels)."""
        images, labels = torch.from_numpy(self.images[index]), torch.from_numpy(self.labels[index])
        return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def batches(
        self, requests: Iterable[Request], device: torch.device | str = "cpu"
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """``batch`` of each request; arrays hold nothing random, so a place changes nothing."""
        for request in requests:
            yield self.batch(request.rows, device)

    def fingerprint(self) -> str:
        """Short identity of the data (shape, labels, a sample of the images); a resumed run compares it."""
        crc = zlib.crc32(np.ascontiguousarray(self.labels).tobytes())
        step = max(1, len(self) // 64)
        crc = zlib.crc32(np.ascontiguousarray(self.images[::step]).tobytes(), crc)
        return f"{'x'.join(map(str, self.images.shape))}-{self.images.dtype}-{crc:08x}"

    def checksum(self) -> int:
        """Of every image."""
        return zlib.crc32(np.ascontiguousarray(self.images).data)


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


__all__ = ["ArrayData", "stratified_split"]
