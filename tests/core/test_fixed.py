"""Fixed-point types: ranges, storage, spelling."""

from __future__ import annotations

import numpy as np
import pytest

from bitshift.core.fixed import FixedPoint, Float32, is_power_of_two
from bitshift.core.modelfile import parse_type


@pytest.mark.parametrize(
    ("type", "lo", "hi", "dtype", "text"),
    [
        (FixedPoint(8, 7), -128, 127, np.int8, "s8.7"),
        (FixedPoint(2, 0), -2, 1, np.int8, "s2.0"),
        (FixedPoint(9, 0), -256, 255, np.int16, "s9.0"),
        (FixedPoint(16, 3), -32768, 32767, np.int16, "s16.3"),
        (FixedPoint(17, -4), -65536, 65535, np.int32, "s17.-4"),
        (FixedPoint(32, 16), -(2**31), 2**31 - 1, np.int32, "s32.16"),
        (FixedPoint(1, 0, False), 0, 1, np.uint8, "u1.0"),
        (FixedPoint(8, 5, False), 0, 255, np.uint8, "u8.5"),
        (FixedPoint(9, 5, False), 0, 511, np.int16, "u9.5"),
        (FixedPoint(15, 0, False), 0, 32767, np.int16, "u15.0"),
        (FixedPoint(16, 0, False), 0, 65535, np.int32, "u16.0"),
        (FixedPoint(31, 64, False), 0, 2**31 - 1, np.int32, "u31.64"),
    ],
)
def test_range_storage_and_spelling(type: FixedPoint, lo: int, hi: int, dtype: np.dtype, text: str) -> None:
    assert (type.lo, type.hi, type.dtype, str(type)) == (lo, hi, np.dtype(dtype), text)
    assert parse_type(text, "here") == type


@pytest.mark.parametrize(("bits", "signed"), [(33, True), (32, False), (1, True), (0, False), (-3, True)])
def test_widths_beyond_the_storage_are_refused(bits: int, signed: bool) -> None:
    with pytest.raises(ValueError, match="bits"):
        FixedPoint(bits, 0, signed)


@pytest.mark.parametrize("frac", [-65, 65])
def test_fracs_beyond_64_are_refused(frac: int) -> None:
    with pytest.raises(ValueError, match="frac"):
        FixedPoint(8, frac)


def test_float32_is_spelled_f32() -> None:
    assert str(Float32()) == "f32"
    assert parse_type("f32", "here") == Float32()


def test_powers_of_two() -> None:
    assert np.array_equal(is_power_of_two(np.array([-4, 0, 1, 2, 3, 4, 65535, 32768])), [0, 0, 1, 1, 0, 1, 0, 1])
