"""Augmentation and the order of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitshift.train.data import AUGMENTS, EpochSampler, PadCropFlip, Shift, step_generator, stratified_split


def images(count: int = 5, channels: int = 2, size: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(1, 256, (count, channels, size, size)).astype(np.uint8))


def by_hand(image: np.ndarray, pad: int, top: int, left: int, mirrored: bool) -> np.ndarray:
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    window = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    return window[:, :, ::-1] if mirrored else window


def test_pad_crop_flip_equals_numpy():
    x, augment = images(count=64), PadCropFlip(pad=2)
    parameters = augment.draw(64, step_generator(0, 1))
    got = augment.apply(x, parameters).numpy()
    for i, (top, left, mirrored) in enumerate(parameters.tolist()):
        np.testing.assert_array_equal(got[i], by_hand(x[i].numpy(), 2, top, left, bool(mirrored)))
    assert {0, 4} <= set(parameters[:, 0].tolist()), "both ends are drawn"
    assert got.dtype == np.uint8


def test_without_flip_nothing_is_mirrored():
    x = images(count=1)
    assert torch.equal(PadCropFlip(pad=0, flip=False)(x, step_generator(0)), x)


def test_shift_moves_and_fills_with_black():
    x = images(count=1)
    got = Shift(pixels=1).apply(x, torch.tensor([[0, 2]]))[0].numpy()
    np.testing.assert_array_equal(got[:, 1:, :-1], x[0].numpy()[:, :-1, 1:])
    assert not got[:, 0].any()
    assert not got[:, :, -1].any()


@pytest.mark.parametrize("name", AUGMENTS)
def test_a_part_of_the_joint_batch_gets_what_the_whole_batch_gets(name):
    x, augment = images(count=8, channels=3), AUGMENTS[name]
    parameters = augment.draw(8, step_generator(3, 1))
    whole = augment.apply(x, parameters)
    assert torch.equal(augment.apply(x[4:], parameters[4:]), whole[4:])
    assert torch.equal(augment(x, step_generator(3, 1)), whole)


def test_an_epoch_holds_every_row_once_and_epochs_differ():
    sampler = EpochSampler(count=20, batch_size=5, seed=1)
    first, second = sampler.permutation(0), sampler.permutation(1)
    rows = np.concatenate([sampler.rows(first, step) for step in range(sampler.steps)])
    np.testing.assert_array_equal(np.sort(rows), np.arange(20))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, EpochSampler(count=20, batch_size=5, seed=1).permutation(0))
    assert not np.array_equal(first, EpochSampler(count=20, batch_size=5, seed=2).permutation(0))


def test_ranks_share_the_joint_batch_in_order():
    one = EpochSampler(count=21, batch_size=6, seed=0)
    order = one.permutation(0)
    parts = [EpochSampler(count=21, batch_size=6, seed=0, rank=r, world=3).rows(order, 2) for r in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), one.rows(order, 2))
    assert one.steps == 3, "the three rows behind the last full batch are left out"


@pytest.mark.parametrize(
    ("batch", "world", "message"), [(0, 1, "must be"), (11, 1, r"1\.\.10"), (5, 2, "multiple of 2")]
)
def test_batches_that_cannot_be_shared_are_refused(batch, world, message):
    with pytest.raises(ValueError, match=message):
        EpochSampler(count=10, batch_size=batch, seed=0, world=world)


def test_generators_of_neighbouring_places_are_independent():
    places = [(0, 0), (0, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1), (2, 0), (2, 1), (3,)]
    draws = {torch.randint(1 << 60, (), generator=step_generator(s, *p)).item() for s in (0, 1) for p in places}
    assert len(draws) == 16


def test_a_stratified_split_keeps_the_proportions():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    first, second = stratified_split(labels, 80, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[first]), [40, 24, 16])
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(100))
    with pytest.raises(ValueError, match=r"0\.\.100"):
        stratified_split(labels, 101, seed=0)
