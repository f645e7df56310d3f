"""The roles a constant can have in a node, and the dtype each has in memory and in a file."""

from __future__ import annotations

import numpy as np

from bitshift.core.fixed import FixedPoint

ROLE_DTYPES: dict[str, np.dtype] = {
    "codes": np.dtype(np.uint8),
    "offset": np.dtype(np.int64),
    "mult": np.dtype(np.int32),
    "shift": np.dtype(np.uint8),
    "res_shift": np.dtype(np.uint8),
    "scale": np.dtype(np.float32),
    "bias": np.dtype(np.float32),
    "weight": np.dtype(np.float32),
}
"""Dtype in memory by role; a ``table`` has the dtype of its node's output."""

DEFAULTS: dict[str, int] = {"offset": 0, "mult": 1, "shift": 0, "res_shift": 0, "scale": 1, "bias": 0}
"""What every element of an absent constant is; ``codes``, ``weight`` and ``table`` cannot be absent."""

ROLES: tuple[str, ...] = (*ROLE_DTYPES, "table")

MAX_SHIFT = 62
MAX_MULT = 65535


def stored(role: str, array: np.ndarray) -> np.ndarray:
    """``array`` in the dtype that the file uses for ``role``: the narrowest one that the role allows."""
    if role == "offset" and _fits(array, np.int32):
        return array.astype(np.int32)
    if role == "mult" and _fits(array, np.uint8):
        return array.astype(np.uint8)
    return array


def stored_dtypes(role: str, out_type: object) -> tuple[np.dtype, ...]:
    """Dtypes that a file may use for ``role``; ``out_type`` is the type of the node's output."""
    if role == "offset":
        return np.dtype(np.int32), np.dtype(np.int64)
    if role == "mult":
        return np.dtype(np.uint8), np.dtype(np.int32)
    if role == "table":
        return (out_type.dtype,) if isinstance(out_type, FixedPoint) else ()
    return (ROLE_DTYPES[role],)


def _fits(array: np.ndarray, dtype: type[np.integer]) -> bool:
    info = np.iinfo(dtype)
    return not array.size or info.min <= int(array.min()) <= int(array.max()) <= info.max
