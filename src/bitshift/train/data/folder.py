"""Image folders that fit in memory: decoded once, kept, and read as arrays."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from bitshift.train.data.arrays import ArrayData
from bitshift.train.data.base import DataError
from bitshift.train.data.decode import decode, measure
from bitshift.train.data.index import FolderIndex, cache_dir, index_folder

_LOOKED_AT = 64
_LISTED = 10
_log = logging.getLogger("bitshift")


class Pictures(Protocol):
    """Encoded pictures by row: :class:`~bitshift.train.data.index.FolderIndex` or a set of shards."""

    @property
    def labels(self) -> np.ndarray: ...  # noqa: D102

    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102

    def __len__(self) -> int: ...

    def where(self, row: int) -> str:
        """The row's file, for messages."""
        ...

    def read(self, row: int) -> bytes:
        """The row's encoded picture."""
        ...

    def key(self, row: int) -> str:
        """The row's name, without a suffix."""
        ...

    def checksum(self) -> int:
        """Of the names in their order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a sample of a folder's pictures is like."""

    channels: int
    """1 when all are grey, else 3."""
    grey: int
    looked_at: int
    """How many are grey, of how many."""
    height: int
    width: int
    """Of the first."""
    uniform: bool
    """Whether all have one size."""

    def say(self, where: Path) -> None:
        """Log what becomes of a mixture."""
        if 0 < self.grey < self.looked_at:
            _log.info(
                "%s: %d of %d images that were looked at are grey, the others in colour; all get three channels "
                "(channels=N, --channels N)",
                where, self.grey, self.looked_at,
            )  # fmt: skip


def look(pictures: Pictures, *, skip_corrupt: bool = False, most: int = _LOOKED_AT) -> Look:
    """Measure up to ``most`` pictures, evenly spread: their heads only.

    With ``skip_corrupt`` those whose head cannot be read are left out; DataError when that leaves none.
    """
    rows = np.unique(np.linspace(0, len(pictures) - 1, min(len(pictures), most)).astype(np.int64)).tolist()
    seen, broken = [], []
    for row in rows:
        try:
            seen.append(measure(pictures.read(row), pictures.where(row)))
        except DataError as error:
            if not skip_corrupt:
                raise
            broken.append(error)
    if not seen:
        raise DataError(f"none of {len(rows)} images that were looked at can be read; the first: {broken[0]}")
    return Look(
        channels=max(c for c, _, _ in seen), grey=sum(c == 1 for c, _, _ in seen), looked_at=len(seen),
        height=seen[0][1], width=seen[0][2], uniform=len({(h, w) for _, h, w in seen}) == 1,
    )  # fmt: skip


def read_folder(
    root: Path, *, size: int | None = None, short: int | None = None, channels: int | None = None, cache: bool = True,
    skip_corrupt: bool = False,
) -> ArrayData:  # fmt: skip
    """All images of ``root/CLASS/``, sorted by class and file name, as arrays; other layouts: ``index_folder``.

    One channel where all images are grey, else three, or ``channels`` where that is given. Without ``size`` all images
    must have one size; with it the short side is scaled to ``short`` (``size`` when not given) and the centre cut out.
    Decoded pixels are cached. ``skip_corrupt``, for training rows, puts the next readable image and its label in the
    place of one that cannot be decoded, as :class:`~bitshift.train.data.streamed.StreamedData` does, and says so; the
    cache then stays as it was.

    Raises:
        DataError: no classes, an unreadable image, differing sizes; names the file.
    """
    index = index_folder(root, cache=False)
    files = [root / index.names[row] for row in range(len(index))]
    stored = cache_dir() / f"{_key(root, files, size, short, channels)}.npy"
    if cache and stored.exists():
        images = np.load(stored, allow_pickle=False)
        if images.ndim == 4 and len(images) == len(files):
            return ArrayData(images=images, labels=index.labels, class_names=index.class_names)
    images, source = _decode(index, size, short, channels, skip_corrupt)
    labels = index.labels[source]
    if cache and (source == np.arange(len(files))).all():
        stored.parent.mkdir(parents=True, exist_ok=True)
        partial = stored.with_name(f".{stored.name}.{os.getpid()}.npy")
        np.save(partial, images)
        partial.replace(stored)
    return ArrayData(images=images, labels=labels, class_names=index.class_names)


def _key(root: Path, files: Sequence[Path], size: int | None, short: int | None, channels: int | None) -> str:
    """Changes with the path, what is asked for, and the name, length and time of any file."""
    asked = f"{None if size is None else f'{size} of {short or size}, bilinear'}, {channels or 'own'} channels"
    digest = hashlib.sha256(f"{root.resolve()}|{asked}".encode())
    for file in files:
        stat = file.stat()
        digest.update(f"{file.relative_to(root)}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def _decode(
    index: FolderIndex, size: int | None, short: int | None, channels: int | None, skip_corrupt: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of every row, and the row that they are of: another one only in the place of a corrupt picture."""
    seen = look(index, skip_corrupt=skip_corrupt, most=len(index))  # each of them is decoded below anyway
    if channels is None:
        seen.say(index.root)
        channels = seen.channels
    shape = (channels, seen.height, seen.width) if size is None else (channels, size, size)
    out = np.empty((len(index), *shape), dtype=np.uint8)
    source = np.arange(len(index))
    broken: list[str] = []
    for row in range(len(index)):
        try:
            image = decode(index.read(row), index.where(row), channels=channels, size=size, short=short)
        except DataError as error:
            if not skip_corrupt:
                raise
            broken.append(str(error))
            source[row] = -1
            continue
        check_size(image, shape, index.where(row), index.where(0))
        out[row] = image
    if not broken:
        return out, source
    readable = np.flatnonzero(source >= 0)
    if not len(readable):
        raise DataError(f"none of the {len(index)} images can be decoded; the last: {broken[-1]}")
    gaps = np.flatnonzero(source < 0)
    source[gaps] = readable[np.searchsorted(readable, gaps) % len(readable)]
    out[gaps] = out[source[gaps]]
    for reason in broken[:_LISTED]:
        _log.warning("%s; another image takes its place", reason)
    _log.warning("%d images of %d could not be decoded and were replaced", len(broken), len(index))
    return out, source


def check_size(image: np.ndarray, shape: tuple[int, ...], where: str, first: str) -> None:
    """Refuse a picture of another size than the first."""
    if image.shape != shape:
        raise DataError(
            f"{where}: {image.shape[2]}x{image.shape[1]} pixels, {first} has {shape[2]}x{shape[1]}; "
            "give size=N (--image-size N) to scale and crop all images to one size"
        )


__all__ = ["Look", "Pictures", "check_size", "look", "read_folder"]
