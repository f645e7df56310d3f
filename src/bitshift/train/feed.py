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
from bitshift.train.data.mix import Mixing
from bitshift.train.data.sampler import EpochSampler, step_generator


def drawn_inputs(
    data: TrainData, rows: int, batch_size: int, seed: int, augment: Augment | None, device: torch.device
) -> Generator[Tensor, None, None]:
    """Network inputs of ``rows`` rows drawn by ``seed``, augmented if asked, in even batches; close it when done."""
    order = torch.randperm(len(data), generator=step_generator(seed, 3))[:rows].numpy().astype(np.int64)
    parts = np.array_split(order, -(-len(order) // batch_size))  # even: every batch weighs the same
    start = 0
    requests = [Request(rows=part, place=(seed, 0, n)) for n, part in enumerate(parts)]  # streamed data crop by it
    with closing(data.batches(requests, device)) as batches:
        for images, _ in batches:
            changed = images if augment is None else augment(images, step_generator(seed, 4, start))
            start += len(images)
            yield data.normalise(changed)


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

    def calibration(self, count: int, at_most: int) -> list[Tensor]:
        """Network inputs of ``count`` rows, augmented as those of the training are, in even parts of ``at_most``.

        Without the augmentation the statistics would be others than the pretrained norms have measured: the black
        borders of shifted crops alone move the deviations of a CIFAR network by 15 per cent.
        """
        rows = self.sampler.permutation(0)[:count]
        found = []
        parts = np.array_split(rows, -(-len(rows) // at_most))
        requests = [Request(rows=part, place=(self.config.seed, 0, n)) for n, part in enumerate(parts)]
        with closing(self.data.batches(requests, self.device)) as batches:
            for part, (images, _) in enumerate(batches):
                if self.augment is not None:
                    images = self.augment(images, step_generator(self.config.seed, 7, part))
                found.append(self._input(images))
        return found

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
        images = self._input(images)
        if self._mixing is None:
            return images, labels
        parameters = self._mixing.draw(self.config.batch_size, step_generator(self.config.seed, 6, epoch, batch))
        parameters = parameters[self.sampler.part].to(images.device)
        return self._mixing.apply(images, labels, parameters, len(self.data.class_names))

    @property
    def _mixing(self) -> Mixing | None:
        mixup, cutmix = self.config.mixup, self.config.cutmix
        return Mixing(mixup=mixup, cutmix=cutmix) if mixup or cutmix else None

    def _input(self, images: Tensor) -> Tensor:
        images = self.data.normalise(images)
        if self.config.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images


__all__ = ["Feed", "drawn_inputs"]
