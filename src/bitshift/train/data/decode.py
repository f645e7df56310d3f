"""One encoded picture to pixels: whole, its centre, or a window of it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np

from bitshift.train.data.base import DataError

GAP = 2.0
"""A JPEG is decoded at 1/2, 1/4 or 1/8 of its size when that leaves at least this many times the pixels wanted.

At 2 the result differs from a full decode by 0.15 of 255 levels in the mean (photos to 64x64); at 1 by 1.5.
"""
Window = Callable[[int, int], tuple[int, int, int, int]]
"""(height, width) of a picture to (top, left, height, width) of what is wanted."""


def decode(
    data: bytes,
    where: str,
    *,
    channels: int | None,
    size: int | None = None,
    short: int | None = None,
    window: Window | None = None,
    refuse_colour: bool = False,
) -> np.ndarray:
    """A picture as uint8 (C, H, W).

    Args:
        data: the file's bytes.
        where: the file's name, for messages.
        channels: 1 or 3; None keeps what the file has. Transparency is dropped: the colours under it count.
        size: None gives the whole picture as it is; a number the square of that size out of ``window``, or
            out of the centre after scaling the short side to ``short``.
        short: ``size`` when not given.
        window: what part to take. Cut out, then scaled with a bilinear filter as wide as the pixels it joins, like
            torchvision on a PIL image.
        refuse_colour: where one channel is wanted, because a sample of the set was grey.

    Raises:
        DataError: cannot be decoded, pixels of more than 8 bits, or ``refuse_colour``; names ``where``.
    """
    from PIL import Image

    try:
        with Image.open(BytesIO(data)) as opened:
            own = _channels(opened, where)
            if refuse_colour and own == 3 and channels == 1:
                raise DataError(
                    f"{where}: in colour, and all the others that were looked at are grey; choose channels=3 "
                    "(--channels 3), or channels=1 to make it grey"
                )
            channels = own if channels is None else channels
            mode = "L" if channels == 1 else "RGB"
            picture = _cut(opened, mode, size, short, window) if size is not None else _as(opened, mode)
            picture.load()  # a whole picture in its own mode has not been read yet
    except DataError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(f"{where}: cannot be decoded as an image ({error}); remove or replace it") from error
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _cut(opened: Any, mode: str, size: int, short: int | None, window: Window | None) -> Any:
    from PIL import Image

    bilinear = Image.Resampling.BILINEAR
    width, height = opened.size
    if window is None:
        target = _target(opened, short or size)
        _draft(opened, mode, (short or size) / min(width, height))
        return _centre(_as(opened, mode), target, size)
    top, left, high, wide = window(height, width)
    _draft(opened, mode, max(size / high, size / wide))
    picture = _as(opened, mode)
    if picture.size != (width, height):  # decoded at a fraction: the window has moved with it
        x, y = picture.width / width, picture.height / height
        return picture.resize((size, size), bilinear, box=(left * x, top * y, (left + wide) * x, (top + high) * y))
    return picture.crop((left, top, left + wide, top + high)).resize((size, size), bilinear)


def scaled_centre(picture: Any, size: int, short: int | None = None) -> Any:
    """The centre square of ``size`` out of a PIL picture whose short side is scaled to ``short`` (``size``)."""
    return _centre(picture, _target(picture, short or size), size)


def _target(picture: Any, short: int) -> tuple[int, int]:
    """Width and height of ``picture`` when its short side is ``short``."""
    factor = short / min(picture.size)
    return max(short, round(picture.width * factor)), max(short, round(picture.height * factor))


def _centre(picture: Any, target: tuple[int, int], size: int) -> Any:
    from PIL import Image

    left, top = (target[0] - size) // 2, (target[1] - size) // 2
    return picture.resize(target, Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def _as(opened: Any, mode: str) -> Any:
    """In ``mode``; without the copy that ``convert`` makes of what has it already."""
    if opened.mode == "P" and isinstance(opened.info.get("transparency"), bytes):
        opened = opened.convert("RGBA")  # PIL warns of the direct way
    return opened if opened.mode == mode else opened.convert(mode)


def _channels(opened: Any, where: str) -> int:
    """1 for grey pixels, a palette of greys among them, else 3; DataError for more than 8 bits."""
    if opened.mode[0] in "IF":
        raise DataError(f"{where}: its pixels have mode {opened.mode}, more than 8 bits; save it with 8 bits a channel")
    if opened.mode in ("1", "L", "LA", "La"):
        return 1
    if opened.mode in ("P", "PA"):
        palette = np.array(opened.getpalette("RGB") or [0, 1, 2], dtype=np.uint8).reshape(-1, 3)
        return 1 if bool((palette == palette[:, :1]).all()) else 3
    return 3


def _draft(opened: Any, mode: str, factor: float) -> None:
    """Let the JPEG decoder leave out what scaling by ``factor`` throws away; nothing for other formats."""
    if factor * GAP < 1:
        width, height = opened.size
        opened.draft(mode, (-int(-width * factor * GAP // 1), -int(-height * factor * GAP // 1)))


def measure(data: bytes, where: str) -> tuple[int, int, int]:
    """(channels, height, width) from the head of a file, without decoding it; DataError as for :func:`decode`."""
    from PIL import Image

    try:
        with Image.open(BytesIO(data)) as opened:
            return _channels(opened, where), opened.height, opened.width
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: cannot be decoded as an image ({error}); remove or replace it") from error


__all__ = ["GAP", "Window", "decode", "measure", "scaled_centre"]
