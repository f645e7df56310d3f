"""Read what a person gives to a network: .npy arrays and pictures, checked before anything runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitshift.cli.errors import CliError
from bitshift.core.bounds import input_ranges
from bitshift.core.fixed import FixedPoint, Float32, ValueType
from bitshift.core.graph import Value

if TYPE_CHECKING:
    from bitshift.runtime import Model

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_PIXEL_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_log = logging.getLogger("bitshift")


def read_input(path: Path, model: Model, name: str, *, pixels: bool = False) -> np.ndarray:
    """A batch (N, *shape) for the input ``name`` of ``model`` from a .npy file or a picture.

    An array of integers in the input's own type passes unchanged; float arrays are values; with ``pixels`` a uint8
    array is raw pixels and goes through the file's preprocess as a picture does. CliError names the file and the
    remedy.
    """
    if path.is_dir():
        raise CliError(f"{path} is a directory; give .npy, .png or .jpg files")
    if not path.exists():
        raise CliError(f"no such file: {path}")
    value = model.graph.values[name]
    if path.suffix.lower() == ".npy":
        return _read_array(path, value, model, pixels)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _read_image(path, value, model)
    raise CliError(f"{path}: unknown kind of input {path.suffix!r}; allowed: .npy, {', '.join(IMAGE_SUFFIXES)}")


def prepare(model: Model, pixels: np.ndarray) -> np.ndarray:
    """The file's preprocess for a batch of pixels, uint8 (N, C, H, W), as float32 of the same shape."""
    return np.concatenate([model.preprocess(image.transpose(1, 2, 0)) for image in pixels])


def _read_array(path: Path, value: Value, model: Model, pixels: bool) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CliError(f"{path}: not a readable .npy array ({error}); write it with numpy.save") from None
    if not isinstance(array, np.ndarray):
        raise CliError(f"{path}: holds an archive of arrays; give one array written by numpy.save")
    if tuple(array.shape) == value.shape:
        array = array[None]
    if tuple(array.shape[1:]) != value.shape or array.ndim != len(value.shape) + 1:
        raise CliError(
            f"{path}: shape {tuple(array.shape)}; the input {value.name!r} needs {value.shape} for one sample "
            f"or (N, {', '.join(map(str, value.shape))}) for N{_axes_hint(array, value)}"
        )
    if array.shape[0] == 0:
        raise CliError(f"{path}: holds no samples")
    if pixels:
        if array.dtype != np.uint8:
            raise CliError(f"{path}: --pixels needs a uint8 array of pixels 0..255; this one is {array.dtype}")
        _needed(model, path)
        return prepare(model, array)
    from bitshift.runtime import plain_integers

    try:
        array = plain_integers(array, value)  # token ids, which numpy holds as int64
    except ValueError as error:
        raise CliError(f"{path}: {error}") from None
    found = _check_dtype(path, array, value.type, pictures="preprocess" in model.graph.meta)
    lo, hi = input_ranges(model.graph)[value.name] or (0, 0)
    if isinstance(value.type, FixedPoint) and (lo, hi) != (value.type.lo, value.type.hi):
        outside = np.argwhere((found < lo) | (found > hi))
        if len(outside):
            at = tuple(int(i) for i in outside[0])
            raise CliError(
                f"{path}: the id {found[at]} at index {list(at)}; the embedding that reads it has the rows {lo} to {hi}"
            )
    return found


def _check_dtype(path: Path, array: np.ndarray, kind: ValueType, *, pictures: bool) -> np.ndarray:
    """Integers of exactly the input's dtype and range, or floats; anything else is refused by name."""
    if array.dtype in (np.float32, np.float64):
        if not np.isfinite(array).all():
            raise CliError(f"{path}: holds NaN or infinity; clean the array first")
        if not isinstance(kind, Float32):
            return array
        with np.errstate(over="ignore"):
            found = array.astype(np.float32)
        beyond = array[~np.isfinite(found)]
        if len(beyond):
            most = np.finfo(np.float32).max
            raise CliError(f"{path}: holds {beyond[0]:g}; the input's float32 goes to {most:g}: scale the array")
        return found
    allowed = "float32 or float64 (values)"
    if isinstance(kind, FixedPoint):
        if array.dtype == kind.dtype:
            lo, hi = int(array.min()), int(array.max())
            if lo < kind.lo or hi > kind.hi:
                raise CliError(f"{path}: integers {lo} to {hi}; the input's type {kind} holds {kind.lo} to {kind.hi}")
            return array
        allowed = f"{kind.dtype} (integers q of {kind}, each standing for q * 2**{-kind.frac}), {allowed}"
    hint = "; if these are pixels 0..255, add --pixels" if array.dtype == np.uint8 and pictures else ""
    raise CliError(f"{path}: dtype {array.dtype}; allowed: {allowed}{hint}")


def _axes_hint(array: np.ndarray, value: Value) -> str:
    """Channels-last pictures are the usual mistake; say so when it fits."""
    shape = tuple(array.shape[-3:])
    if len(value.shape) == 3 and len(shape) == 3 and (shape[2], shape[0], shape[1]) == value.shape:
        return "; it looks channels-last: numpy.moveaxis(x, -1, -3)"
    if len(value.shape) == 3 and value.shape[0] == 1 and tuple(array.shape[-2:]) == value.shape[1:]:
        return "; the channel axis is missing: x[..., None, :, :]"
    return ""


def _needed(model: Model, path: Path) -> dict[str, Any]:
    if "preprocess" not in model.graph.meta:
        raise CliError(
            f"{path}: this model file does not say how pictures become its input (no meta 'preprocess'); "
            "give a .npy array, or export again with preprocess="
        )
    return model.graph.meta["preprocess"]


def _read_image(path: Path, value: Value, model: Model) -> np.ndarray:
    from PIL import Image, ImageOps, UnidentifiedImageError

    preprocess = _needed(model, path)
    (height, width), channels = preprocess["size"], preprocess["channels"]
    if value.shape != (channels, height, width):
        raise CliError(f"{path}: the model's preprocess makes {(channels, height, width)}, its input is {value.shape}")
    try:
        with Image.open(path) as opened:
            if opened.mode not in _PIXEL_MODES:
                raise CliError(
                    f"{path}: picture of mode {opened.mode!r}; allowed: 8-bit grey, colour, palette (convert it first)"
                )
            image = ImageOps.exif_transpose(opened)
            image.load()
    except UnidentifiedImageError:
        raise CliError(f"{path}: not a picture that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CliError(f"{path}: damaged picture ({error})") from None
    image = _opaque(path, image)
    if channels == 1 and image.mode == "RGB":
        _log.info("%s: colour picture made grey, as the model takes one channel", path)
    if image.size != (width, height):
        _log.info("%s: resized from %dx%d to %dx%d", path, *image.size, width, height)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return model.preprocess(np.asarray(image, dtype=np.uint8))


def _opaque(path: Path, image: Any) -> Any:
    """The picture as grey or RGB; transparency has no meaning for a network and is refused."""
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            raise CliError(f"{path}: has transparent pixels; put it on an opaque background first")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
