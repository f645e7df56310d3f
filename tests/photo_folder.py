"""Small folders of photos for tests of streamed data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, *, height: int = 40, width: int = 56) -> Image.Image:
    """Smooth random colours, as photos have: a JPEG keeps them nearly."""
    rough = np.random.default_rng(seed).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def photo_folder(root: Path, *, split: str = "train", classes: int = 3, each: int = 8, suffix: str = "jpg") -> Path:
    """``root/SPLIT/cN/M.jpg`` of differing sizes, with times in the past, so that an index of it is kept."""
    for c in range(classes):
        folder = root / split / f"c{c}"
        folder.mkdir(parents=True)
        for i in range(each):
            picture = photo(100 * c + i, height=40 + 3 * i, width=64 - 2 * i)
            picture.save(folder / f"{i}.{suffix}", **({"quality": 95} if suffix == "jpg" else {}))
        age(folder)
    return root


def age(folder: Path, seconds: float = 60.0) -> None:
    """Make a folder's time of change ``seconds`` older than now."""
    now = folder.stat().st_mtime - seconds
    os.utime(folder, (now, now))


def cut(file: Path, share: float = 0.5) -> None:
    """Keep the first ``share`` of a file's bytes."""
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
