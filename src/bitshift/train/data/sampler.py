"""Which rows a step trains on: a pure function of (seed, epoch, step, rank), so nothing has to be stored to resume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


def step_generator(seed: int, *place: int) -> torch.Generator:
    """CPU generator for one place of a run; different places give independent streams.

    A place starts with the number of its use, which fixes its length (zeros at the end do not count): 0, epoch: row
    order; 1, epoch, step: augmentation; 2, rank: global generators; 3: rows for norm statistics; 4, row: their
    augmentation; 5, epoch, step, row: windows cut while decoding; 6, epoch, step: mixing; 7, part: augmentation of the
    calibration.
    """
    # SeedSequence spreads near-equal numbers; torch's own manual_seed does not promise that
    state = np.random.SeedSequence([seed, *place]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


@dataclass(frozen=True, kw_only=True)
class EpochSampler:
    """A seeded permutation per epoch, cut into joint batches, each cut into equal parts per rank.

    Rows behind the last full batch are left out of their epoch (a short batch would weigh more and give a
    batch norm poor statistics); the next epoch permutes anew.

    Raises:
        ValueError: no full batch, or a batch that the ranks cannot share equally.
    """

    count: int
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("the training data have no rows")
        if not 1 <= self.batch_size <= self.count:
            raise ValueError(f"batch_size {self.batch_size} must be 1..{self.count}, the number of training rows")
        if self.batch_size % self.world:
            raise ValueError(
                f"batch_size {self.batch_size} is the joint batch and cannot be shared by {self.world} processes; "
                f"use a multiple of {self.world}"
            )

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.count // self.batch_size

    def permutation(self, epoch: int) -> np.ndarray:
        """The epoch's order of all rows, int64 (count,)."""
        return torch.randperm(self.count, generator=step_generator(self.seed, 0, epoch)).numpy()

    def rows(self, permutation: np.ndarray, step: int) -> np.ndarray:
        """This rank's rows of the joint batch ``step``."""
        return permutation[step * self.batch_size : (step + 1) * self.batch_size][self.part]

    @property
    def part(self) -> slice:
        """This rank's part of a joint batch."""
        share = self.batch_size // self.world
        return slice(self.rank * share, (self.rank + 1) * share)


__all__ = ["EpochSampler", "step_generator"]
