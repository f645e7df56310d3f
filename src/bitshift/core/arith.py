"""The rounding and saturation of the arithmetic contract, in the one spelling that every op uses: exact in int64."""

from __future__ import annotations

import numpy as np

from bitshift.core.fixed import FixedPoint

Clamp = tuple[int, int] | None


def half(shift: int) -> int:
    """Half a step of a right shift, so that ties go up; 0 for no shift."""
    return 1 << (shift - 1) if shift else 0


def saturate(values: np.ndarray, out: FixedPoint, clamp: Clamp = None) -> np.ndarray:
    """``values`` (int64) clipped to ``out``'s range and to ``clamp`` (units of ``out``), in ``out``'s dtype."""
    lo, hi = limits(out, clamp)
    return np.clip(values, lo, hi).astype(out.dtype)


def limits(out: FixedPoint, clamp: Clamp) -> tuple[int, int]:
    """The range that ``clamp`` and the type leave."""
    return (out.lo, out.hi) if clamp is None else (max(clamp[0], out.lo), min(clamp[1], out.hi))


def alignment(fracs: tuple[int, ...], out_frac: int) -> tuple[tuple[int, ...], int]:
    """Left shift of each input and the common right shift that bring values of ``fracs`` to ``out_frac``.

    All are brought to ``F``, the finest grid among them, before anything is rounded.
    """
    finest = max(*fracs, out_frac)
    return tuple(finest - f for f in fracs), finest - out_frac


def requantize(values: np.ndarray, frac: int, out: FixedPoint, clamp: Clamp = None) -> np.ndarray:
    """Integers on the grid ``2**-frac`` brought to ``out``: ``(x << up) + half(down) >> down``, saturated."""
    (up,), down = alignment((frac,), out.frac)
    return saturate(((values.astype(np.int64) << up) + half(down)) >> down, out, clamp)


def along(vector: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """``vector`` (C) or (1) shaped to broadcast along ``axis`` of an array with ``rank`` axes."""
    return vector.reshape([-1 if i == axis else 1 for i in range(rank)])
