"""NumPy archives."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from bitshift.train.data.arrays import ArrayData
from bitshift.train.data.base import DataError


def channels_first(images: np.ndarray, where: str) -> np.ndarray:
    """Images as uint8 or float32 (N, C, H, W) from (N, H, W), (N, C, H, W) or (N, H, W, C) with C of 1, 3 or 4."""
    if images.dtype not in (np.uint8, np.float32):
        raise DataError(f"{where}: images have dtype {images.dtype}; store uint8 pixels 0..255 or float32 features")
    if images.dtype == np.float32 and images.ndim != 4:
        return images
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[1] not in (1, 3, 4) and images.shape[3] in (1, 3, 4):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.ndim == 4:
        return images
    raise DataError(f"{where}: images have shape {images.shape}; (N, H, W), (N, C, H, W) or (N, H, W, C) is needed")


def read_npz(path: Path, split: str) -> ArrayData:
    """Arrays ``x_SPLIT, y_SPLIT`` (or ``x, y`` when the file holds one split), optionally ``class_names``, of ``path``.

    Raises:
        DataError: no such arrays, or arrays of another shape or type.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
            keys = (f"x_{split}", f"y_{split}")
            if not names.issuperset(keys):
                keys = ("x", "y")
            if not names.issuperset(keys):
                raise DataError(f"{path}: holds {sorted(names)}; needed are x_{split} and y_{split}, or x and y")
            images, labels = file[keys[0]], file[keys[1]]
            given = tuple(str(n) for n in file["class_names"]) if "class_names" in names else None
    except (OSError, zipfile.BadZipFile, ValueError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a readable .npz of plain arrays ({error})") from error
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise DataError(
            f"{path}: labels {keys[1]} are {labels.dtype} {labels.shape}; whole numbers of shape (N,) are needed"
        )
    labels = labels.astype(np.int64)
    classes = given or tuple(str(c) for c in range(int(labels.max(initial=0)) + 1))
    return ArrayData(images=channels_first(images, str(path)), labels=labels, class_names=classes)


__all__ = ["channels_first", "read_npz"]
