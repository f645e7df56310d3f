"""The proof that a narrow accumulator ends with the exact sum: per output row, sign-aware, from the activation's range.

An accumulator of ``bits`` bits adds modulo ``2**bits``. What happens on the way does not matter: its last value, read
as a signed number, is the sum if and only if the sum lies in ``-2**(bits-1) .. 2**(bits-1)-1``. Two such accumulators
in one 32-bit word, ``a + 65536*b``, add and shift left together, exactly, under the same condition on each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def sum_range(levels: np.ndarray, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest sum of ``level * x`` of each row of ``levels`` (O, K), every x anywhere in lo..hi."""
    above = np.where(levels > 0, levels, 0).sum(axis=1, dtype=np.int64)
    below = np.where(levels < 0, levels, 0).sum(axis=1, dtype=np.int64)
    return above * lo + below * hi, above * hi + below * lo


def fits(levels: np.ndarray, lo: int, hi: int, bits: int = 16) -> bool:
    """Whether every row's sum is exact in an accumulator of ``bits`` bits."""
    return starts_at(levels, lo, hi, np.zeros(len(levels), dtype=np.int64), bits)


def starts_at(levels: np.ndarray, lo: int, hi: int, offset: np.ndarray, bits: int = 16) -> bool:
    """Whether every row's sum plus its ``offset`` (O) is exact in an accumulator that starts at ``offset``."""
    least, greatest = sum_range(levels, lo, hi)
    half = 1 << (bits - 1)
    return bool(((least + offset >= -half) & (greatest + offset < half)).all())


def cut(levels: np.ndarray, lo: int, hi: int, *, most: int, unit: int = 1, bits: int = 16) -> list[int] | None:
    """Ends of consecutive blocks of columns of ``levels`` (O, K) whose sums are exact; None if one unit is too much.

    A block has at most ``most`` columns, as many as the proof allows and, but for the last, a multiple of ``unit``.
    Blocks are then evened out, as long as the proof holds and their number stays.
    """
    ends = _greedy(levels, lo, hi, most, unit, bits)
    if ends is None or len(ends) < 2:
        return ends
    even = -(-levels.shape[1] // len(ends))
    even += -even % unit
    again = _greedy(levels, lo, hi, even, unit, bits)
    return again if again is not None and len(again) == len(ends) else ends


def _greedy(levels: np.ndarray, lo: int, hi: int, most: int, unit: int, bits: int) -> list[int] | None:
    most = max(unit, most - most % unit)
    return blocks(
        levels.shape[1],
        lambda start, end: fits(levels[:, start:end], lo, hi, bits),
        most=most,
        shorter=lambda length: length - (length % unit or unit),
    )


def blocks(
    count: int, holds: Callable[[int, int], bool], *, most: int, shorter: Callable[[int], int]
) -> list[int] | None:
    """Ends of consecutive blocks of ``count`` weights, each of ``most`` or the first shorter one that ``holds``; None
    if none does.
    """
    ends, start = [], 0
    while start < count:
        length = min(most, count - start)
        while length > 0 and not holds(start, start + length):
            length = shorter(length)
        if length <= 0:
            return None
        start += length
        ends.append(start)
    return ends


def planes(levels: np.ndarray) -> np.ndarray:
    """Signed digits (bits, *shape) in -1, 0, 1 with ``level = sum digit[k] << k``: the fewest terms of each level."""
    rest, digits = levels.astype(np.int64), []
    while rest.any():
        odd = (rest & 1) == 1
        digit = np.where(odd, 2 - (rest & 3), 0)
        digits.append(digit)
        rest = (rest - digit) >> 1
    return np.array(digits, dtype=np.int64).reshape(len(digits), *levels.shape)


def merge(digits: np.ndarray, lo: int, hi: int, bits: int = 16) -> list[range] | None:
    """Planes of one row's ``digits`` (bits, K) in the fewest accumulators of consecutive planes; None if one plane is
    already too much. A group sums ``digit << (plane - first of the group)``.
    """
    groups: list[range] = []
    for plane in range(len(digits)):
        alone = range(plane, plane + 1)
        wider = range(groups[-1].start, plane + 1) if groups else alone
        if fits(weights(digits, wider)[None], lo, hi, bits):
            groups[-1:] = [wider]
        elif fits(weights(digits, alone)[None], lo, hi, bits):
            groups.append(alone)
        else:
            return None
    return groups


def weights(digits: np.ndarray, group: Sequence[int]) -> np.ndarray:
    """Levels (K) that the planes of ``group`` make, in units of its first plane."""
    return sum((digits[plane] << (plane - group[0]) for plane in group), np.zeros(digits.shape[1], dtype=np.int64))


def centre(lo: int, hi: int) -> int:
    """What to subtract from an activation in lo..hi so that it lies as evenly as possible around 0."""
    return (lo + hi + 1) >> 1


__all__ = ["blocks", "centre", "cut", "fits", "merge", "planes", "starts_at", "sum_range", "weights"]
