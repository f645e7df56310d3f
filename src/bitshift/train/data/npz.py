"""NumPy archives."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np

from bitshift.train.data.arrays import ArrayData
from bitshift.train.data.base import UNCHANGED, DataError, Normalise

_log = logging.getLogger("bitshift")


def channels_first(images: np.ndarray, where: str) -> np.ndarray:
    """Images as uint8 or float32 (N, C, H, W) from (N, H, W), (N, C, H, W) or (N, H, W, C) with C of 1, 3 or 4."""
    if images.dtype not in (np.uint8, np.float32):
        raise DataError(
            f"{where}: images have dtype {images.dtype}{_spread(images)}; store uint8 pixels 0..255 or float32 features"
        )
    if images.dtype == np.float32 and images.ndim != 4:
        return images
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[1] not in (1, 3, 4) and images.shape[3] in (1, 3, 4):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.ndim == 4:
        return images
    raise DataError(f"{where}: images have shape {images.shape}; (N, H, W), (N, C, H, W) or (N, H, W, C) is needed")


def _spread(images: np.ndarray) -> str:
    """``, LOW to HIGH`` where there are numbers."""
    numbers = images.size and images.dtype.kind in "biuf"
    return f", {float(images.min()):.4g} to {float(images.max()):.4g}" if numbers else ""


def pixels_or_features(images: np.ndarray, where: str) -> tuple[np.ndarray, Normalise]:
    """``images`` of :func:`channels_first` with the normalisation that they come with, and a word about floats.

    Grey or colour images that were divided by 255, or written as floats from 0 to 255, are uint8 pixels again, without
    loss: taken as features they would be other inputs than the same pictures in a file of uint8. All other floats are
    features, which no normalisation changes.

    Raises:
        DataError: NaN or infinity.
    """
    if images.dtype == np.uint8:
        return images, Normalise()
    if not np.isfinite(images).all():
        raise DataError(f"{where}: holds NaN or infinity; clean the array first")
    found = f"{where}: {images.dtype}{_spread(images)}"
    if (factor := _pixel_factor(images)) is not None:
        how = "in steps of 1/255: pixels that were divided by 255" if factor == 255 else "whole numbers: pixels"
        _log.info("%s, %s; taken as uint8 pixels 0..255", found, how)
        return np.rint(images * np.float32(factor)).astype(np.uint8), Normalise()
    hint = "; if these are pixels, store them as uint8, 0..255" if images.ndim == 4 and images.size else ""
    _log.info("%s: features, given to the network as they are%s", found, hint)
    return images, UNCHANGED


def _pixel_factor(images: np.ndarray) -> int | None:
    """What brings float images to pixels 0..255, None if nothing does: zeros and ones alone may mean anything."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size or images.min() < 0:
        return None
    top = float(images.max())
    factor = 255 if top <= 1 else 1
    if top > 255 or (factor == 1 and top < 128):
        return None
    scaled = images * np.float32(factor)
    if factor == 255 and not ((scaled > 0.5) & (scaled < 254.5)).any():
        return None
    return factor if float(np.abs(scaled - np.rint(scaled)).max()) < 1e-2 else None


def read_npz(path: Path, split: str) -> ArrayData:
    """Arrays ``x_SPLIT, y_SPLIT`` (or ``x, y`` when the file holds one split), optionally ``class_names``, of ``path``.

    Floats: :func:`pixels_or_features`.

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
    if images.ndim == 0 or len(images) != len(labels):
        raise DataError(
            f"{path}: {keys[1]} has {len(labels)} labels for {len(images) if images.ndim else 0} rows of {keys[0]}; "
            "give one label a row"
        )
    if not len(labels):
        raise DataError(f"{path}: {keys[0]} has no rows; a data set needs one at least")
    labels = labels.astype(np.int64)
    low, high = labels.min(), labels.max()
    if low < 0 or (given and high >= len(given)):
        count = f" (class_names has {len(given)})" if given else ""
        last = len(given) - 1 if given else "N-1"
        raise DataError(f"{path}: labels {keys[1]} run from {low} to {high}; allowed are 0..{last}{count}")
    classes = given or tuple(str(c) for c in range(int(high) + 1))
    where = f"{path}, {keys[0]}"
    images, normalise = pixels_or_features(channels_first(images, where), where)
    return ArrayData(images=images, labels=labels, class_names=classes, normalise=normalise)


def holds_one_split(path: Path) -> bool:
    """Whether :func:`read_npz` gives the same arrays for every split of the archive ``path``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
    except (OSError, zipfile.BadZipFile, ValueError, EOFError):
        return False  # which read_npz says better
    return names.issuperset(("x", "y")) and not any(
        names.issuperset((f"x_{split}", f"y_{split}")) for split in ("train", "test")
    )


__all__ = ["channels_first", "holds_one_split", "read_npz"]
