"""Packing an image folder into shards."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitshift.train.data.base import DataError
from bitshift.train.data.decode import decode
from bitshift.train.data.index import FolderIndex
from bitshift.train.data.shards import ShardWriter


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What :func:`pack_folder` wrote."""

    shards: tuple[Path, ...]
    rows: int
    bytes: int
    left_out: tuple[str, ...]
    """Reason of each image that could not be decoded; only with ``skip_corrupt``."""


def pack_folder(
    index: FolderIndex, folder: Path, split: str, *, shard_bytes: int = 2**30, shuffle: int | None = None,
    skip_corrupt: bool = False, progress: Callable[[int], object] | None = None,
) -> Packed:  # fmt: skip
    """Copy the images of ``index``, unchanged, into shards ``folder/SPLIT-0000.tar``, ... of about ``shard_bytes``.

    Each image is decoded once on the way, so that a damaged one is found here. ``shuffle`` is a seed for another
    order than that of the folder: readers that go through shards in sequence want it, this library does not.

    Raises:
        DataError: a damaged image (unless ``skip_corrupt`` leaves it out), or shards of that name there already.
    """
    order = np.arange(len(index)) if shuffle is None else np.random.default_rng(shuffle).permutation(len(index))
    left_out = []
    with ShardWriter(folder, split, index.class_names, shard_bytes=shard_bytes) as writer:
        for done, row in enumerate(order.tolist()):
            data = index.read(row)
            try:
                decode(data, index.where(row), channels=None)
            except DataError as error:
                if not skip_corrupt:
                    raise
                left_out.append(str(error))
                continue
            suffix = os.path.splitext(index.names[row])[1]  # noqa: PTH122 - not a path of this machine
            writer.add(index.key(row), suffix, data, int(index.labels[row]))
            if progress is not None:
                progress(done + 1)
    written = sum(path.stat().st_size for path in writer.paths)
    return Packed(shards=tuple(writer.paths), rows=writer.rows, bytes=written, left_out=tuple(left_out))


__all__ = ["Packed", "pack_folder"]
