"""Laws of every format, and of packing for every width and length."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitshift.core.formats import FORMATS, ShiftFormat, get_format
from bitshift.core.packing import pack, packed_size, unpack

ROOT = Path(__file__).resolve().parents[2]
every_format = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)


@every_format
def test_nearest_of_a_level_is_its_code(form: ShiftFormat) -> None:
    codes = np.array([c for c in range(len(form.levels)) if c not in form.reserved], dtype=np.uint8)
    levels = form.decode(codes)
    assert np.array_equal(form.nearest(levels), codes)
    assert np.array_equal(form.encode(levels), codes)


@every_format
def test_nearest_minimises_the_distance_and_ties_go_up(form: ShiftFormat) -> None:
    levels = sorted(form.valid_levels)
    midpoints = [(a + b) / 2 for a, b in pairwise(levels)]
    around = [np.nextafter(m, direction) for m in midpoints for direction in (-np.inf, np.inf)]
    values = np.array([*midpoints, *around, -1e12, 1e12, 0.0, -0.0, 0.3])
    for value, found in zip(values, form.decode(form.nearest(values)), strict=True):
        distances = {level: abs(Fraction(float(value)) - level) for level in levels}
        nearest = min(distances.values())
        assert found == max(level for level in levels if distances[level] == nearest)


@every_format
def test_levels_are_symmetric_and_mult_free_ones_are_sums_of_few_powers(form: ShiftFormat) -> None:
    assert sorted(form.valid_levels) == sorted(-v for v in form.valid_levels)
    assert len(form.valid_levels) + len(form.reserved) == 2**form.bits
    if form.multiplication_free:
        assert form.terms in (1, 2)
        assert all(abs(v).bit_count() <= form.terms for v in form.levels)
    else:
        assert form.name.startswith("int")
        assert form.max_level == 2 ** (form.bits - 1) - 1


@every_format
def test_reserved_and_too_large_codes_are_refused(form: ShiftFormat) -> None:
    for code in form.reserved:
        assert form.levels[code] == 0
        with pytest.raises(ValueError, match=f"reserved code {code}"):
            form.decode(np.array([0, code]))
    with pytest.raises(ValueError, match="does not fit"):
        form.decode(np.array([2**form.bits]))


@pytest.mark.parametrize(
    ("name", "magnitudes"),
    [
        ("pot1", [1]),
        ("pot2", [0, 1]),
        ("pot2d", [1, 2]),
        ("pot3", [0, 1, 2, 4]),
        ("pot3d", [1, 2, 4, 8]),
        ("pot4", [0, 1, 2, 4, 8, 16, 32, 64]),
        ("pot4d", [1, 2, 4, 8, 16, 32, 64, 128]),
        ("pot4x2", [1, 2, 3, 4, 6, 8, 12, 16]),
        ("apot4", [0, 1, 2, 3, 4, 6, 8, 10]),
        ("apot5", [0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48]),
        ("pot5", [0, *(2**k for k in range(15))]),
        ("pot5d", [2**k for k in range(16)]),
        ("pot6", [0, *(2**k for k in range(31))]),
        ("pot6d", [2**k for k in range(32)]),
        ("int4", list(range(8))),
        ("int8", list(range(128))),
    ],
)
def test_the_sets_are_those_of_the_design(name: str, magnitudes: list[int]) -> None:
    assert sorted({abs(v) for v in FORMATS[name].valid_levels}) == magnitudes


@pytest.mark.parametrize(("name", "sets"), [("apot4", ((8, 4, 1), (2,))), ("apot5", ((32, 8, 2), (16, 4, 1)))])
def test_additive_levels_are_all_sums_of_one_of_each_set(name: str, sets: tuple[tuple[int, ...], ...]) -> None:
    sums = {a + b for a in (0, *sets[0]) for b in (0, *sets[1])}
    assert {abs(v) for v in FORMATS[name].valid_levels} == sums


def test_an_unknown_format_names_the_near_miss() -> None:
    with pytest.raises(ValueError, match="did you mean 'pot3d'"):
        get_format("pot3dd")


def test_nan_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match="NaN"):
        FORMATS["pot3"].nearest(np.array([1.0, np.nan]))


def test_encoding_what_is_no_level_names_the_place() -> None:
    with pytest.raises(ValueError, match=r"3 at index \(0, 1\)"):
        FORMATS["pot3"].encode(np.array([[1, 3]]))


@given(st.integers(1, 8), st.integers(0, 5), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_unpack_inverts_pack(bits: int, rows: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, count)).astype(np.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (packed_size(codes.shape, bits),) == (rows * -(-count * bits // 8),)
    assert np.array_equal(unpack(packed, bits, codes.shape), codes)


@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 33), st.integers(0, 2**32 - 1))
def test_bits_lie_where_the_page_says(bits: int, rows: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, count)).astype(np.uint8)
    packed = pack(codes, bits).reshape(rows, -1)
    for row in range(rows):
        for i in range(count):
            for j in range(bits):
                bit = i * bits + j
                assert packed[row, bit // 8] >> (bit % 8) & 1 == codes[row, i] >> j & 1


def test_a_set_padding_bit_is_refused() -> None:
    packed = pack(np.array([[1, 2, 3]]), 3).copy()
    packed[1] |= 0x80
    with pytest.raises(ValueError, match="padding bit of packed row 0"):
        unpack(packed, 3, (1, 3))


def test_codes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 2 bits"):
        pack(np.array([[4]]), 2)
    with pytest.raises(ValueError, match="3 bytes"):
        unpack(np.zeros(3, np.uint8), 2, (1, 3))
    with pytest.raises(ValueError, match="9 bits"):
        pack(np.array([[4]]), 9)
    with pytest.raises(ValueError, match="integers"):
        pack(np.array([[0.5]]), 2)


def test_generated_files_are_current() -> None:
    """formats.h and formats.md are what tools/generate.py would write."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
