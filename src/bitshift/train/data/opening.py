"""``open_data``: what lies at a path, recognised."""

from __future__ import annotations

import difflib
import logging
import math
import re
from pathlib import Path
from typing import TypeVar

from bitshift.train.data.arrays import ArrayData
from bitshift.train.data.base import IMAGENET_NORMALISE, DataError, Normalise, TrainData
from bitshift.train.data.cifar import CIFAR10_CLASSES, read_cifar
from bitshift.train.data.folder import Pictures, look, read_folder
from bitshift.train.data.idx import find_idx, read_idx_folder
from bitshift.train.data.index import class_folders, index_folder, says_classes
from bitshift.train.data.mnist5k import read_mnist5k
from bitshift.train.data.npz import holds_one_split, read_npz
from bitshift.train.data.scaling import scaled_arrays
from bitshift.train.data.shards import find_shards, index_shards, is_pattern, split_names
from bitshift.train.data.streamed import StreamedData

NAMED = {"mnist_5k": read_mnist5k}
"""Data sets that a package ships, by name."""

SPLITS = ("train", "test")
LAYOUTS = (
    "a .npz file (x_train, y_train, x_test, y_test, perhaps class_names), or a folder with "
    "IDX files (train-images-idx3-ubyte[.gz]), CIFAR binary (data_batch_1.bin) or python files (data_batch_1), "
    "{train,test}.npz, {train,test|val}/CLASS/*.png, or tar shards {train,test|val}-*.tar"
)
MEMORY_LIMIT = 2 * 2**30
"""Decoded bytes above which an image folder is streamed."""
PHOTO_SIZE = 224
"""Size of streamed photos whose sizes differ, when none is given."""
_WORDNET = re.compile(r"n\d{8}")
_log = logging.getLogger("bitshift")


def open_data(
    name_or_path: str | Path,
    split: str = "train",
    *,
    size: int | None = None,
    short: int | None = None,
    channels: int | None = None,
    stream: bool | None = None,
    workers: int | None = None,
    skip_corrupt: bool = False,
) -> ArrayData | StreamedData:
    """The rows of ``split`` (train or test) of a named data set or of what lies at a path; the layout is recognised.

    CIFAR-10, and CIFAR-100 in its own files, come with the normalisation of the published nets, folders and shards
    whose classes are WordNet numbers (n01440764) with ImageNet's, which is the same, everything else with
    ``(pixel - 128) / 64``; change it with ``with_normalise``.

    Args:
        name_or_path: a name of :data:`NAMED`, a file, a folder, or a pattern of shards (``x-{0000..0146}.tar``).
        split: ``test`` also finds folders and shards called val, valid or validation.
        size: the square to which images are scaled and cropped.
        short: the short side before the centre is cut out of it; default ``size``. ImageNet's is 256 for 224.
        channels: image folders and shards: 1 makes every picture grey, 3 none; None: 1 where all are grey. Of streamed
            ones 64, evenly spread, are looked at, and a picture in colour is then an error where those were grey.
        stream: decode while training (True) or once into memory (False); None: a folder whose decoded images
            exceed :data:`MEMORY_LIMIT`. Shards are always streamed.
        workers: processes that decode streamed images; None: the cores, at most 8; 0: none.
        skip_corrupt: image folders and shards: put the next readable image in the place of a training image that
            cannot be decoded, and count them; not for the split test.

    Raises:
        DataError: nothing there, no known layout, or a damaged file; says what was found and what is allowed.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r}: allowed is {' or '.join(SPLITS)}")
    for name, value in (("size", size), ("short", short)):
        if value is not None and value < 1:
            raise DataError(f"{name} {value}: must be at least 1")
    if short is not None and (size is None or short < size):
        raise DataError(f"short {short}: must be at least size ({size}), which is cut out of it")
    if channels not in (None, 1, 3):
        raise DataError(f"channels {channels}: allowed is 1 or 3")
    if skip_corrupt and split == "test":
        raise DataError("skip_corrupt is for training rows: an evaluation must not count another image")
    path = Path(name_or_path).expanduser()
    if str(name_or_path) not in NAMED and (shards := find_shards(path, split)):
        return streamed(
            index_shards(shards), size=size, short=short, channels=channels, workers=workers, skip_corrupt=skip_corrupt,
            where=shards[0],
        )  # fmt: skip
    if (found := _arrays(name_or_path, split)) is not None:
        if size is None:
            return found
        return scaled_arrays(found, size=size, short=short, limit=MEMORY_LIMIT, where=str(name_or_path))
    if path.is_file():
        raise DataError(f"{path}: a file of type {path.suffix or 'unknown'}; allowed is {LAYOUTS}")
    if not path.is_dir():
        near = difflib.get_close_matches(str(name_or_path), NAMED, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{name_or_path}: no such file or folder, nor a data set by name ({', '.join(NAMED)}){hint}")
    if (root := find_folder(path, split)) is not None:
        return open_folder(
            root, size=size, short=short, channels=channels, stream=stream, workers=workers, skip_corrupt=skip_corrupt
        )
    found = ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing"
    single = "; CLASS/ folders without a SPLIT/ above them are for open_folder()" if class_folders(path) else ""
    raise DataError(f"{path}: no {split} data in a known layout (found {found}); allowed is {LAYOUTS}{single}")


def one_split(name_or_path: str | Path) -> bool:
    """Whether :func:`open_data` gives the same rows for every split: shards by pattern, arrays called x and y."""
    path = Path(name_or_path).expanduser()
    if str(name_or_path) in NAMED:
        return False
    return is_pattern(path) or (path.suffix == ".npz" and path.is_file() and holds_one_split(path))


def _arrays(name_or_path: str | Path, split: str) -> ArrayData | None:
    """The rows where they lie as arrays; None where they lie as encoded images, or nothing known does."""
    if str(name_or_path) in NAMED:
        return NAMED[str(name_or_path)](split)
    path = Path(name_or_path).expanduser()
    if path.suffix == ".npz" and path.is_file():
        return read_npz(path, split)
    if not path.is_dir():
        return None
    if (idx := find_idx(path, split)) is not None:
        return read_idx_folder(*idx)
    if (cifar := read_cifar(path, split)) is not None:
        return cifar
    return read_npz(path / f"{split}.npz", split) if (path / f"{split}.npz").is_file() else None


def find_folder(path: Path, split: str) -> Path | None:
    """The folder of ``split``: of several names the first that says its classes (ImageNet's own test/ does not)."""
    there = [path / name for name in split_names(split) if (path / name).is_dir()]
    return next((p for p in there if says_classes(p)), there[0] if there else None)


def open_folder(
    root: Path,
    *,
    size: int | None = None,
    short: int | None = None,
    channels: int | None = None,
    stream: bool | None = None,
    workers: int | None = None,
    skip_corrupt: bool = False,
) -> ArrayData | StreamedData:
    """The images of ``root/CLASS/``; arguments as for :func:`open_data`."""
    index = index_folder(root)
    if stream is None:
        seen = look(index, skip_corrupt=skip_corrupt)
        pixels = size**2 if size is not None else seen.height * seen.width
        stream = len(index) * (channels or seen.channels) * pixels > MEMORY_LIMIT
    if stream:
        return streamed(
            index, size=size, short=short, channels=channels, workers=workers, skip_corrupt=skip_corrupt, where=root
        )
    data = read_folder(root, size=size, short=short, channels=channels, skip_corrupt=skip_corrupt)
    return data.with_normalise(_normalise(data.class_names, data.sample_shape))


def streamed(
    pictures: Pictures, *, where: Path, size: int | None = None, short: int | None = None, channels: int | None = None,
    workers: int | None = None, skip_corrupt: bool = False,
) -> StreamedData:  # fmt: skip
    """Training data that are decoded on the way; photos of different sizes become squares of 224 when none is given."""
    seen = look(pictures, skip_corrupt=skip_corrupt)
    if size is None and not seen.uniform:
        size = PHOTO_SIZE
        _log.info("%s: photos of different sizes, brought to %dx%d (size=N, --image-size N)", where, size, size)
    guessed = channels is None
    if channels is None:
        seen.say(where)
        channels = seen.channels
    shape = (channels, size or seen.height, size or seen.width)
    return StreamedData(
        pictures=pictures, labels=pictures.labels, class_names=pictures.class_names, sample_shape=shape, size=size,
        short=short, workers=workers, skip_corrupt=skip_corrupt, normalise=_normalise(pictures.class_names, shape),
        refuse_colour=guessed and channels == 1,
    )  # fmt: skip


def _normalise(class_names: tuple[str, ...], shape: tuple[int, ...]) -> Normalise:
    cifar = class_names == CIFAR10_CLASSES and shape == (3, 32, 32)
    imagenet = shape[0] == 3 and class_names and all(_WORDNET.fullmatch(name) for name in class_names)
    return IMAGENET_NORMALISE if cifar or imagenet else Normalise()


_D = TypeVar("_D", bound=TrainData)
_E = TypeVar("_E", bound=TrainData)


def same_classes(train: _D, test: _E) -> tuple[_D, _E]:
    """Give two splits whose names are bare numbers the longer list of the two; DataError when named classes differ."""
    if train.class_names == test.class_names:
        return train, test
    longer = max(train.class_names, test.class_names, key=len)
    if all(names == longer[: len(names)] for names in (train.class_names, test.class_names)):
        return train.with_class_names(longer), test.with_class_names(longer)
    raise DataError(
        f"train has the classes {train.class_names[:5]}..., test {test.class_names[:5]}...; they must be the same"
    )


def eval_short(size: int) -> int:
    """The short side that goes with a centre of ``size`` after training on random crops: 256 for 224."""
    return math.ceil(size * 8 / 7)


__all__ = [
    "LAYOUTS",
    "MEMORY_LIMIT",
    "NAMED",
    "SPLITS",
    "eval_short",
    "find_folder",
    "one_split",
    "open_data",
    "open_folder",
    "same_classes",
    "streamed",
]
