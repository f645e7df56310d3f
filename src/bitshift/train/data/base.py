"""What training and evaluation need of a data set, whether it lies in memory or is decoded while the network trains."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, runtime_checkable

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
        if images.dtype == torch.float32:
            return (images - mean).mul_(scale)
        return images.to(torch.float32).sub_(mean).mul_(scale)  # in place: memory is what this costs

    def as_dict(self) -> dict[str, list[float]]:
        """For JSON: ``{"mean": [...], "scale": [...]}``."""
        return {"mean": list(self.mean), "scale": list(self.scale)}

    @staticmethod
    def from_dict(recorded: Mapping[str, Sequence[float]]) -> Normalise:
        """What :meth:`as_dict` wrote."""
        return Normalise(mean=tuple(recorded["mean"]), scale=tuple(recorded["scale"]))

    @staticmethod
    def from_mean_std(mean: Sequence[float], std: Sequence[float]) -> Normalise:
        """From statistics of pixels in 0..1, as papers give them."""
        return Normalise(mean=tuple(255.0 * m for m in mean), scale=tuple(1 / (255.0 * s) for s in std))


UNCHANGED = Normalise(mean=(0.0,), scale=(1.0,))
"""What float features in files come with: they are the network's input as they are."""
IMAGENET_NORMALISE = Normalise.from_mean_std((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What torchvision's and timm's ImageNet networks were trained with, and the published CIFAR-10 ResNet-20/32/44/56."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One batch to come: which rows, and which place of the run they are for.

    Args:
        rows: int64 (N,).
        place: (seed, epoch, step) for training rows. What is random in reading a row is a function of place and
            row alone, so processes, worker counts and a resumed run see the same images.
            Empty: nothing is random, as evaluation and calibration want it.
    """

    rows: np.ndarray
    place: tuple[int, ...] = field(default=())


@runtime_checkable
class TrainData(Protocol):
    """A labelled data set that :func:`bitshift.train.loop.fit` and ``evaluate`` take."""

    @property
    def labels(self) -> np.ndarray:
        """int64 (N,), each in ``0..len(class_names) - 1``."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        ...

    @property
    def normalise(self) -> Normalise:
        """How images become the network's input."""
        ...

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one image, (C, H, W)."""
        ...

    @property
    def is_pixels(self) -> bool:
        """Whether images are uint8 pixels 0..255; else they are float32 features."""
        ...

    def __len__(self) -> int: ...

    def batch(self, index: np.ndarray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Raw images and labels of the rows ``index``, at once, nothing random."""
        ...

    def batches(
        self, requests: Iterable[Request], device: torch.device | str = "cpu"
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Raw images and labels of each request, in order.

        ``requests`` may be long and lazy; it is read ahead of the batch that is returned, so it must not depend on
        what training does meanwhile. Close the generator when you stop early (``contextlib.closing``): that ends
        its workers.
        """
        ...

    def subset(self, index: np.ndarray | slice) -> Self:
        """The rows of ``index``, in its order."""
        ...

    def with_normalise(self, normalise: Normalise) -> Self:
        """The same data under another normalisation."""
        ...

    def with_class_names(self, class_names: tuple[str, ...]) -> Self:
        """The same data with another list of class names."""
        ...

    def fingerprint(self) -> str:
        """Short identity of the data; a resumed run compares it."""
        ...


def check_labels(labels: np.ndarray, rows: int, class_names: tuple[str, ...]) -> None:
    """Refuse labels that are no int64 (rows,) of ``0..len(class_names) - 1``."""
    if labels.dtype != np.int64 or labels.shape != (rows,):
        raise DataError(f"labels are {labels.dtype} {labels.shape}; int64 ({rows},) is needed")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise DataError(
            f"labels run from {labels.min()} to {labels.max()}; allowed are 0..{len(class_names) - 1}, as class_names "
            f"has {len(class_names)}"
        )


def check_normalise(normalise: Normalise, channels: int) -> None:
    """Refuse a normalisation of another number of channels."""
    for name, values in (("mean", normalise.mean), ("scale", normalise.scale)):
        if len(values) not in (1, channels):
            counts = "1" if channels == 1 else f"1 or {channels}"
            what = f"{channels} channel{'s' * (channels != 1)}"
            raise DataError(f"normalise.{name} has {len(values)} entries for {what}; give {counts}")


__all__ = [
    "IMAGENET_NORMALISE",
    "UNCHANGED",
    "DataError",
    "Normalise",
    "Request",
    "TrainData",
    "check_labels",
    "check_normalise",
]
