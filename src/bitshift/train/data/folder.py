"""Folders of images, one folder a class: ``ROOT/CLASS/*.png`` or ``ROOT/SPLIT/CLASS/*.png``."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from bitshift.train.data.arrays import ArrayData
from bitshift.train.data.base import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")


def cache_dir() -> Path:
    """Where decoded image folders are kept: ``$BITSHIFT_CACHE``, else ``bitshift`` in the user's cache directory."""
    if own := os.environ.get("BITSHIFT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitshift"


def class_folders(root: Path) -> list[Path]:
    """The folders in ``root`` that hold images, sorted by name: their order is the class index."""
    found = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    return [p for p in found if any(f.suffix.lower() in SUFFIXES for f in p.iterdir())]


def read_folder(root: Path, *, size: int | None = None, cache: bool = True) -> ArrayData:
    """All images of ``root/CLASS/``, sorted by class and file name.

    Grey images give one channel, all others three. Without ``size`` all images must have one size; with it the
    short side is scaled to ``size`` (bicubic) and the centre cut out. Decoded pixels are cached.

    Raises:
        DataError: no classes, an unreadable image, differing sizes; names the file.
    """
    classes = class_folders(root)
    if not classes:
        raise DataError(f"{root}: no folder CLASS/ with {', '.join(SUFFIXES)} files in it")
    files = [(f, c) for c, p in enumerate(classes) for f in sorted(p.iterdir()) if f.suffix.lower() in SUFFIXES]
    names = tuple(p.name for p in classes)
    labels = np.array([c for _, c in files], dtype=np.int64)
    stored = cache_dir() / f"{_key(root, [f for f, _ in files], size)}.npy"
    if cache and stored.exists():
        images = np.load(stored, allow_pickle=False)
        if images.ndim == 4 and len(images) == len(labels):
            return ArrayData(images=images, labels=labels, class_names=names)
    images = _decode([f for f, _ in files], size)
    if cache:
        stored.parent.mkdir(parents=True, exist_ok=True)
        partial = stored.with_name(f".{stored.name}.{os.getpid()}.npy")
        np.save(partial, images)
        partial.replace(stored)
    return ArrayData(images=images, labels=labels, class_names=names)


def _key(root: Path, files: list[Path], size: int | None) -> str:
    """Changes with the path, the size asked for, and the name, length and time of any file."""
    digest = hashlib.sha256(f"{root.resolve()}|{size}".encode())
    for file in files:
        stat = file.stat()
        digest.update(f"{file.relative_to(root)}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def _decode(files: list[Path], size: int | None) -> np.ndarray:
    first = decode_image(files[0], size, grey=None)
    grey = first.shape[0] == 1
    out = np.empty((len(files), *first.shape), dtype=np.uint8)
    for row, file in enumerate(files):
        image = decode_image(file, size, grey=grey)
        if image.shape != first.shape:
            raise DataError(
                f"{file}: {image.shape[2]}x{image.shape[1]} pixels, {files[0]} has {first.shape[2]}x{first.shape[1]}"
                "; give size=N to scale and crop all images to one size"
            )
        out[row] = image
    return out


def decode_image(file: Path, size: int | None, *, grey: bool | None) -> np.ndarray:
    """One image as uint8 (C, H, W); ``grey`` None keeps what the file has."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            one_channel = opened.mode in ("1", "L") if grey is None else grey
            image = opened.convert("L" if one_channel else "RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(f"{file}: cannot be decoded as an image ({error}); remove or replace it") from error
    if size is not None:
        factor = size / min(image.size)
        image = image.resize(
            (max(size, round(image.width * factor)), max(size, round(image.height * factor))), Image.Resampling.BICUBIC
        )
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if one_channel else np.ascontiguousarray(pixels.transpose(2, 0, 1))


__all__ = ["cache_dir", "class_folders", "decode_image", "read_folder"]
