"""What a step trains on: rows by the sampler, read ahead by the data set, augmented and normalised."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitshift.train.config import TrainConfig
from bitshift.train.data.augment import Augment
from bitshift.train.data.base import Request, TrainData
from bitshift.train.data.sampler import EpochSampler, step_generator


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The batches of one process; each is a function of (seed, epoch, step, rank) alone."""

    data: TrainData
    sampler: EpochSampler
    config: TrainConfig
    augment: Augment | None
    device: torch.device

    def batches(self, start: int, total: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Network inputs and labels of the steps ``start`` up to ``total``; close it to end the data set's workers."""
        with closing(self.data.batches(self._requests(start, total), self.device)) as found:
            for step, (images, labels) in zip(range(start, total), found, strict=True):
                yield self._augmented(images, labels, *divmod(step, self.sampler.steps))

    def plain(self, rows: np.ndarray) -> Tensor:
        """Network inputs of ``rows``, nothing random."""
        return self._input(self.data.batch(rows, self.device)[0])

    def _requests(self, start: int, total: int) -> Iterator[Request]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(start, total):
            if step // self.sampler.steps != epoch:
                epoch = step // self.sampler.steps
                order = self.sampler.permutation(epoch)
            batch = step % self.sampler.steps
            yield Request(rows=self.sampler.rows(order, batch), place=(self.config.seed, epoch, batch))

    def _augmented(self, images: Tensor, labels: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        if self.augment is not None:
            # numbers for the joint batch, whoever trains on which part of it
            generator = step_generator(self.config.seed, 1, epoch, batch)
            parameters = self.augment.draw(self.config.batch_size, generator)[self.sampler.part]
            images = self.augment.apply(images, parameters.to(images.device))
        return self._input(images), labels

    def _input(self, images: Tensor) -> Tensor:
        images = self.data.normalise(images)
        if self.config.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images


__all__ = ["Feed"]
