"""Codes as bytes: the layout of docs/model-file.md, section 4."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def row_bytes(count: int, bits: int) -> int:
    """Bytes of one packed row of ``count`` codes of ``bits`` bits."""
    return (count * bits + 7) // 8


def packed_size(shape: Sequence[int], bits: int) -> int:
    """Bytes of packed codes of ``shape`` (O, ...)."""
    return shape[0] * row_bytes(math.prod(shape[1:]), bits)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Lay ``codes`` (O, ...) row by row, least significant bit first; each of the O rows starts on a byte.

    Returns uint8 of shape ``(O * ceil(K * bits / 8),)`` with K codes a row; padding bits are 0.

    Raises:
        ValueError: a code that does not fit ``bits`` (1..8), or codes without an axis.
    """
    codes = np.asarray(codes)
    _check(bits, codes.shape)
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"codes of dtype {codes.dtype}: integers are needed")
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < 1 << bits:
        raise ValueError(f"codes from {codes.min()} to {codes.max()} do not fit {bits} bits")
    rows = codes.reshape(codes.shape[0], math.prod(codes.shape[1:])).astype(np.uint8)
    bit_rows = (rows[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(bit_rows.reshape(rows.shape[0], rows.shape[1] * bits), axis=1, bitorder="little").reshape(-1)


def unpack(packed: np.ndarray, bits: int, shape: Sequence[int]) -> np.ndarray:
    """Codes (uint8, ``shape``) of bytes that :func:`pack` wrote.

    Raises:
        ValueError: a length that does not belong to ``shape``, or a padding bit that is set.
    """
    packed, shape = np.asarray(packed), tuple(shape)
    _check(bits, shape)
    if packed.dtype != np.uint8 or packed.ndim != 1:
        raise ValueError(f"packed codes of dtype {packed.dtype} with {packed.ndim} axes: uint8 with one axis is needed")
    if packed.size != packed_size(shape, bits):
        raise ValueError(
            f"{packed.size} bytes of packed codes: shape {list(shape)} in {bits} bits needs {packed_size(shape, bits)}"
        )
    count = math.prod(shape[1:])
    bit_rows = np.unpackbits(packed.reshape(shape[0], row_bytes(count, bits)), axis=1, bitorder="little")
    if bit_rows[:, count * bits :].any():
        row = int(np.argwhere(bit_rows[:, count * bits :])[0, 0])
        raise ValueError(f"a padding bit of packed row {row} is set; padding must be 0")
    codes = np.zeros((shape[0], count), dtype=np.uint8)
    for bit in range(bits):
        codes |= bit_rows[:, bit : count * bits : bits] << np.uint8(bit)
    return codes.reshape(shape)


def _check(bits: int, shape: Sequence[int]) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"{bits} bits a code: allowed are 1 to 8")
    if len(shape) < 1:
        raise ValueError("codes need at least one axis, the output channels")
