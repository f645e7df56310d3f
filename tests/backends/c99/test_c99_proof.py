"""The overflow proof against the worst inputs that there are, and accumulators that wrap."""

import numpy as np
import pytest

from bitshift.backends.c99.proof import centre, cut, fits, planes, starts_at, sum_range, weights

RANGES = [(-128, 127), (0, 255), (0, 127), (-8, 7), (-2048, 2047), (-3, 250)]


def wrapped(values, bits=16):
    """What an accumulator of ``bits`` bits reads."""
    half = 1 << (bits - 1)
    return (values + half) % (1 << bits) - half


def worst(row, lo, hi):
    """The inputs that make a row's sum least and greatest."""
    return np.where(row > 0, lo, hi), np.where(row > 0, hi, lo)


@pytest.mark.parametrize(("lo", "hi"), RANGES)
def test_a_row_fits_exactly_when_its_worst_inputs_do(lo, hi):
    rng = np.random.default_rng(0)
    seen = set()
    for count in range(1, 400, 7):
        row = rng.choice([-8, -4, -2, -1, 1, 2, 4, 8], size=count)
        sums = [int(row @ x) for x in worst(row, lo, hi)]
        assert sums == [int(bound[0]) for bound in sum_range(row[None], lo, hi)]
        safe = all(wrapped(s) == s for s in sums)
        assert fits(row[None], lo, hi) == safe
        seen.add(safe)
    assert seen == ({True, False} if hi - lo > 100 else {True})


def test_the_last_weight_that_fits_is_told_from_the_first_that_does_not():
    ones = np.ones((1, 256), dtype=np.int64)
    assert fits(ones[:, :255], -128, 127)
    assert fits(ones, -128, 127), "256 * -128 is -32768, which 16 bits hold"
    assert not fits(-ones, -128, 127), "and 32768 is not"
    assert fits(ones[:, :128], 0, 255)
    assert not fits(np.ones((1, 129), dtype=np.int64), 0, 255)
    assert fits(np.concatenate([ones[:, :128], -ones[:, :128]], axis=1), 0, 255), "signs count"


def test_every_row_of_a_layer_counts():
    rows = np.ones((3, 300), dtype=np.int64)
    rows[:, 200:] = 0
    assert fits(rows, -128, 127)
    rows[2] = 1
    assert not fits(rows, -128, 127)


def test_an_offset_in_the_lane_is_part_of_the_proof():
    row = np.ones((1, 200), dtype=np.int64)
    assert starts_at(row, -128, 127, np.array([7367]))
    assert not starts_at(row, -128, 127, np.array([7368]))
    assert starts_at(row, -128, 127, np.array([-7168]))
    assert not starts_at(row, -128, 127, np.array([-7169]))


@pytest.mark.parametrize(("lo", "hi"), RANGES)
def test_blocks_cover_all_weights_and_hold_their_worst_sums(lo, hi):
    rng = np.random.default_rng(1)
    levels = rng.choice([-8, -4, -2, -1, 1, 2, 4, 8], size=(16, 523))
    for most, unit in ((523, 1), (64, 10), (31, 2), (40, 40)):
        ends = cut(levels, lo, hi, most=most, unit=unit)
        if ends is None:
            assert not fits(levels[:, :unit], lo, hi) or unit > 1
            continue
        assert ends == sorted(set(ends))
        assert ends[-1] == 523
        for start, end in zip([0, *ends], ends, strict=False):
            assert end - start <= max(most, unit)
            assert end == 523 or (end - start) % unit == 0
            for row in levels[:, start:end]:
                for x in worst(row, lo, hi):
                    assert wrapped(int(row @ x)) == int(row @ x)


def test_one_weight_that_is_too_much_has_no_blocks():
    assert cut(np.full((1, 4), 256), -128, 127, most=4) is None or fits(np.full((1, 1), 256), -128, 127)
    assert cut(np.full((1, 4), 512), -128, 127, most=4) is None


def test_planes_are_digits_whose_sum_is_the_level():
    levels = np.arange(-300, 301)
    digits = planes(levels)
    assert np.array_equal(sum(digit << k for k, digit in enumerate(digits)), levels)
    assert np.abs(digits).max() == 1
    assert (np.abs(digits[1:]) + np.abs(digits[:-1])).max() <= 1, "no two neighbours: the fewest terms"
    assert np.array_equal(weights(digits, range(len(digits))), levels)
    assert planes(np.zeros((2, 3), dtype=np.int64)).shape == (0, 2, 3)


def test_lanes_of_a_word_add_and_shift_together():
    rng = np.random.default_rng(2)
    row = rng.choice([-8, -4, -2, -1, 1, 2, 4, 8], size=60)
    for a in worst(row, -128, 127):
        for b in worst(row, -128, 127):
            word = int((((a + 65536 * b) * row) % (1 << 32)).sum() % (1 << 32))
            assert fits(row[None], -128, 127)
            low = wrapped(word)
            assert (low, wrapped((word - low) >> 16)) == (int(a @ row), int(b @ row))


@pytest.mark.parametrize(("lo", "hi"), RANGES)
def test_the_centre_halves_the_reach(lo, hi):
    mid = centre(lo, hi)
    assert max(abs(lo - mid), abs(hi - mid)) == (hi - lo + 1) // 2
