"""Augmentation of photos: torchvision's law of crops, colours by hand, mixtures exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from bitshift.train.data import (
    Chain,
    ColourJitter,
    Erase,
    Flip,
    Lighting,
    Mixing,
    PadCropFlip,
    RandomResizedCrop,
    step_generator,
)


def images(count: int = 6, height: int = 20, width: int = 28) -> torch.Tensor:
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (count, 5, 7, 3)).astype(np.uint8)
    smooth = [np.asarray(Image.fromarray(r).resize((width, height), Image.Resampling.BICUBIC)) for r in rough]
    return torch.from_numpy(np.stack(smooth).transpose(0, 3, 1, 2).copy())


# --- random crops


def reference_box(height: int, width: int, scale, ratio, rng) -> tuple[int, int, int, int]:
    """The published law (torchvision's RandomResizedCrop), written a second time, one draw after another."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    raise AssertionError("does not come to it here")


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333)])
def test_random_boxes_follow_the_law_of_the_papers(height, width):
    crop, count = RandomResizedCrop(), 4000
    boxes = crop.boxes(crop.draw(count, step_generator(0, 1)), height, width).numpy()
    top, left, tall, wide = boxes.T
    assert min(top.min(), left.min()) >= 0
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()
    rng = np.random.default_rng(1)
    expected = np.array([reference_box(height, width, crop.scale, crop.ratio, rng) for _ in range(count)])
    for got, wanted in zip((tall * wide, wide / tall, top, left), (
        expected[:, 2] * expected[:, 3], expected[:, 3] / expected[:, 2], expected[:, 0], expected[:, 1]
    ), strict=True):  # fmt: skip
        grid = np.quantile(wanted, np.linspace(0.02, 0.98, 25))
        distance = np.abs((got[:, None] <= grid).mean(0) - (wanted[:, None] <= grid).mean(0)).max()
        assert distance < 1.95 * math.sqrt(2 / count), "Kolmogorov-Smirnov at 0.1 %"


def test_one_box_is_that_of_the_batch():
    for crop in (RandomResizedCrop(), RandomResizedCrop(scale=(0.7, 1.0), ratio=(0.2, 5.0))):
        drawn = crop.draw(500, step_generator(3))
        for height, width in ((375, 500), (90, 31)):
            one_by_one = [crop.box(row, height, width) for row in drawn.tolist()]
            assert crop.boxes(drawn, height, width).tolist() == [list(box) for box in one_by_one]


def test_a_picture_too_narrow_for_any_try_gives_its_centre():
    crop = RandomResizedCrop(scale=(0.9, 1.0))
    boxes = crop.boxes(crop.draw(50, step_generator(0)), 400, 30)
    assert boxes.tolist() == [[180, 0, 40, 30]] * 50
    assert crop.boxes(crop.draw(1, step_generator(0)), 30, 400).tolist() == [[0, 180, 30, 40]]


def test_batched_crops_are_those_of_pil():
    x, crop = images(40), RandomResizedCrop()
    drawn = crop.draw(40, step_generator(2))
    got = crop.apply(x, drawn)
    assert got.dtype == torch.uint8
    for i, (top, left, tall, wide) in enumerate(crop.boxes(drawn, 20, 28).tolist()):
        picture = Image.fromarray(x[i].permute(1, 2, 0).numpy()).crop((left, top, left + wide, top + tall))
        wanted = np.asarray(picture.resize((28, 20), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert np.abs(got[i].numpy().astype(int) - wanted).max() <= 1, "PIL rounds between its two passes"


def test_the_whole_picture_stays_as_it_is():
    x = images()
    crop = RandomResizedCrop(scale=(1.0, 1.0), ratio=(28 / 20, 28 / 20))
    assert torch.equal(crop(x, step_generator(0)), x)


@pytest.mark.parametrize("wrong", [{"scale": (0.0, 1.0)}, {"scale": (0.5, 1.1)}, {"ratio": (2.0, 1.0)}])
def test_ranges_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="RandomResizedCrop"):
        RandomResizedCrop(**wrong)


# --- colours


def jitter_by_hand(image: np.ndarray, factors, order) -> np.ndarray:
    x = image.astype(np.float64)
    for kind in order:
        grey = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
        target = (0.0, grey.mean(), grey)[kind]
        x = np.clip(factors[kind] * x + (1 - factors[kind]) * target, 0, 255)
    return x


def test_colour_jitter_is_brightness_contrast_and_saturation_in_the_drawn_order():
    x, jitter = images(30), ColourJitter()
    drawn = jitter.draw(30, step_generator(1))
    got = jitter.apply(x, drawn).numpy()
    for i, row in enumerate(drawn.numpy()):
        wanted = jitter_by_hand(x[i].numpy(), row[:3], row[3:].astype(int))
        assert np.abs(got[i] - wanted).max() <= 0.51
    orders = {tuple(row) for row in drawn[:, 3:].tolist()}
    assert len(orders) == 6, "every order occurs"
    assert 0.6 <= drawn[:, :3].min() < 0.7 < 1.3 < drawn[:, :3].max() <= 1.4


def test_lighting_adds_the_main_colours():
    x = torch.full((2, 3, 2, 2), 100, dtype=torch.uint8)
    got = Lighting().apply(x, torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]], dtype=torch.float64))
    assert torch.equal(got[0], x[0])
    added = 255 * 0.5 * 0.2175 * np.array([-0.5675, -0.5808, -0.5836])
    np.testing.assert_array_equal(got[1, :, 0, 0].numpy(), np.round(100 + added).astype(np.uint8))
    drawn = Lighting(std=0.1).draw(4000, step_generator(0))
    assert abs(float(drawn.std()) - 0.1) < 0.005


def test_colours_need_three_channels():
    for augment in (ColourJitter(), Lighting()):
        with pytest.raises(ValueError, match="3 channels, these have 1"):
            augment(torch.zeros((2, 1, 4, 4), dtype=torch.uint8), step_generator(0))


def test_erase_paints_one_box_on_a_share_of_the_images():
    x = torch.zeros((600, 3, 20, 28), dtype=torch.uint8)
    got = Erase(probability=0.25, fill=9)(x, step_generator(0)).numpy()[:, 0] == 9
    painted = got.any((1, 2))
    assert 0.19 < painted.mean() < 0.31
    for image in got[painted]:
        rows, cols = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        assert image[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].all(), "a whole box"
        assert 0.01 < image.mean() < 0.36


def test_the_ratio_of_erased_boxes_is_height_over_width():
    x = torch.zeros((50, 1, 64, 64), dtype=torch.uint8)
    got = Erase(probability=1, scale=(0.05, 0.1), ratio=(2.0, 3.0))(x, step_generator(0)).numpy()[:, 0] == 128
    ratios = got.any(2).sum(1) / got.any(1).sum(1)
    assert ((ratios > 1.7) & (ratios < 3.5)).all()


def test_flip_mirrors_half():
    x = images(400, 4, 4)
    got = Flip()(x, step_generator(0))
    mirrored = (got == x.flip(3)).all(3).all(2).all(1)
    kept = (got == x).all(3).all(2).all(1)
    assert (mirrored | kept).all()
    assert 0.4 < mirrored.float().mean() < 0.6


def test_a_chain_gives_each_part_its_own_numbers():
    x = images(8)
    chain = Chain((PadCropFlip(pad=2), RandomResizedCrop(), ColourJitter()))
    drawn = chain.draw(8, step_generator(4))
    assert drawn.shape == (8, chain.width) == (8, 31)
    wanted = x
    for part, numbers in zip(chain.parts, drawn.split([3, 22, 6], dim=1), strict=True):
        wanted = part.apply(wanted, numbers.long() if isinstance(part, PadCropFlip) else numbers)
    assert torch.equal(chain.apply(x, drawn), wanted)
    assert torch.equal(chain.apply(x[2:6], drawn[2:6]), wanted[2:6])


# --- mixtures


def mixed(
    mixing: Mixing, count: int = 64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    x, labels = images(count).float(), torch.arange(count) % 5
    drawn = mixing.draw(count, step_generator(0, 6, 1))
    return x, labels, drawn, *mixing.apply(x, labels, drawn, 5)


def test_mixup_mixes_images_and_labels_in_the_same_proportion():
    x, labels, drawn, got, targets = mixed(Mixing(mixup=0.4))
    for i, share in enumerate(drawn[:, 0].float()):
        partner = i ^ 1
        wanted = share * x[i] + (1 - share) * x[partner]
        torch.testing.assert_close(got[i], wanted, rtol=0, atol=1e-4)
        expected = torch.zeros(5)
        expected[labels[i]] += share
        expected[labels[partner]] += 1 - share
        torch.testing.assert_close(targets[i], expected)
    torch.testing.assert_close(targets.sum(1), torch.ones(64))
    assert targets.dtype == torch.float32


def test_cutmix_pastes_a_box_and_counts_its_pixels():
    x, labels, drawn, got, targets = mixed(Mixing(cutmix=1.0))
    assert drawn[:, 1].all()
    for i in range(64):
        own = (got[i] == x[i]).all(0)
        other = (got[i] == x[i ^ 1]).all(0)
        assert (own | other).all()
        assert abs(float((~own).double().mean()) - float(targets[i, labels[i ^ 1]])) < 0.02
    torch.testing.assert_close(targets.sum(1), torch.ones(64))


def test_shares_follow_the_beta_law_and_both_kinds_occur():
    drawn = Mixing(mixup=0.2, cutmix=1.0, cut_share=0.25).draw(8000, step_generator(0))
    cut = drawn[:, 1].bool()
    assert abs(float(cut.float().mean()) - 0.25) < 0.02
    for alpha, shares in ((0.2, drawn[~cut, 0]), (1.0, drawn[cut, 0])):
        assert abs(float(shares.mean()) - 0.5) < 0.02
        assert abs(float(shares.var()) - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_even_parts_of_a_batch_mix_as_the_whole():
    mixing = Mixing(mixup=0.4, cutmix=1.0)
    x, labels, drawn, got, targets = mixed(mixing)
    for part in (slice(0, 16), slice(16, 64)):
        some, hot = mixing.apply(x[part], labels[part], drawn[part], 5)
        assert torch.equal(some, got[part])
        assert torch.equal(hot, targets[part])


@pytest.mark.parametrize("wrong", [{}, {"mixup": -1.0, "cutmix": 2.0}, {"mixup": 1.0, "cut_share": 2.0}])
def test_mixing_without_a_law_is_refused(wrong):
    with pytest.raises(ValueError, match="Mixing"):
        Mixing(**wrong)


def test_mixing_odd_or_integer_batches_is_refused():
    mixing = Mixing(mixup=1.0)
    with pytest.raises(ValueError, match="even number"):
        mixing.apply(torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64), torch.ones(3, 4), 2)
    with pytest.raises(ValueError, match="needs float images"):
        mixing.apply(images(2), torch.zeros(2, dtype=torch.int64), torch.ones(2, 4), 2)
    with pytest.raises(ValueError, match=r"needs images \(N, C, H, W\), not \(2, 8\)"):
        mixing.apply(torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64), torch.ones(2, 4), 2)
