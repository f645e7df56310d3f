"""Pixels in memory brought to another size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitshift.train.data.arrays import ArrayData
from bitshift.train.data.base import DataError
from bitshift.train.data.decode import scaled_centre


def scaled_arrays(data: ArrayData, *, size: int, short: int | None, limit: int, where: str) -> ArrayData:
    """``data`` as squares of ``size``: the short side scaled to ``short`` (default ``size``), then the centre.

    The filter is that of image folders, so the same pictures in a folder and in an array become the same pixels.

    Args:
        data: uint8 pixels; returned as it is when nothing would change.
        size: height and width of the result.
        short: the short side before the centre is cut out.
        limit: bytes that the result may have.
        where: the data set's name, for messages.

    Raises:
        DataError: float features, which have no size to scale; a result above ``limit``.
    """
    from PIL import Image

    if not data.is_pixels:
        raise DataError(
            f"{where}: holds float32 features {data.sample_shape}, and only pixels can be scaled to size {size} "
            "(--image-size); store uint8 pixels 0..255, or leave the size out"
        )
    count, channels, height, width = data.images.shape
    if (height, width) == (size, size) and short in (None, size):
        return data
    if (need := count * channels * size * size) > limit:
        raise DataError(
            f"{where}: {count} images of {channels}x{size}x{size} take {need / 2**30:.1f} GiB of memory, more than "
            f"{limit / 2**30:.1f}; choose a smaller size (--image-size), or store them as an image folder, which is "
            "decoded while training"
        )
    out = np.empty((count, channels, size, size), dtype=np.uint8)
    for image, scaled in zip(data.images, out, strict=True):
        for plane, square in zip(image, scaled, strict=True):
            square[...] = np.asarray(scaled_centre(Image.fromarray(plane), size, short))
    return replace(data, images=out)


__all__ = ["scaled_arrays"]
