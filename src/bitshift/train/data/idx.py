"""IDX files, the format of MNIST and its family (LeCun et al.), plain or gzip-compressed."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from bitshift.train.data.arrays import ArrayData
from bitshift.train.data.base import DataError
from bitshift.train.data.npz import channels_first

_TYPES = {0x08: np.dtype(np.uint8), 0x09: np.dtype(np.int8), 0x0B: np.dtype(">i2"), 0x0C: np.dtype(">i4"),
          0x0D: np.dtype(">f4"), 0x0E: np.dtype(">f8")}  # fmt: skip
_PREFIX = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file: two zero bytes, a type, the number of axes, big-endian 32-bit sizes, then the values.

    Raises:
        DataError: another format, or a length that does not match the header.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES:
        raise DataError(f"{path}: not an IDX file (starts with {raw[:4].hex(' ')}, expected 00 00 TYPE AXES)")
    axes, start = raw[3], 4 + 4 * raw[3]
    if len(raw) < start:
        raise DataError(f"{path}: the header ends after {len(raw)} bytes; {axes} axes need {start}")
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    dtype = _TYPES[raw[2]]
    need = start + dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(raw) != need:
        raise DataError(
            f"{path}: {len(raw)} bytes, but shape {shape} needs {need}; the file is cut or has something appended"
        )
    values = np.frombuffer(raw, dtype=dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def find_idx(folder: Path, split: str) -> tuple[Path, Path] | None:
    """Image and label file of ``split`` in ``folder``, under the usual names, or None."""

    def first(kind: str, axes: int) -> Path | None:
        stem = f"{_PREFIX[split]}-{kind}"
        for name in (
            f"{stem}-idx{axes}-ubyte",
            f"{stem}.idx{axes}-ubyte",
            f"{stem}-idx{axes}-ubyte.gz",
            f"{stem}.idx{axes}-ubyte.gz",
        ):
            if (folder / name).is_file():
                return folder / name
        return None

    images, labels = first("images", 3), first("labels", 1)
    return (images, labels) if images is not None and labels is not None else None


def read_idx_folder(images: Path, labels: Path) -> ArrayData:
    """A data set from an image and a label file; class names are the numbers."""
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
        raise DataError(f"{images}: holds {pixels.dtype} {pixels.shape}; unsigned bytes (N, H, W) are needed")
    if classes.ndim != 1 or len(classes) != len(pixels) or not np.issubdtype(classes.dtype, np.integer):
        raise DataError(
            f"{labels}: holds {classes.dtype} {classes.shape}; {len(pixels)} whole numbers are needed, one an image"
        )
    numbers = classes.astype(np.int64)
    names = tuple(str(c) for c in range(max(10, int(numbers.max(initial=0)) + 1)))
    return ArrayData(images=channels_first(pixels, str(images)), labels=numbers, class_names=names)


__all__ = ["find_idx", "read_idx", "read_idx_folder"]
