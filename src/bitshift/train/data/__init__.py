"""Data sets in memory: readers, normalisation, augmentation, row order."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path

from bitshift.train.data.arrays import ArrayData, stratified_split
from bitshift.train.data.augment import AUGMENTS, Augment, PadCropFlip, Shift
from bitshift.train.data.base import (
    CIFAR10_NORMALISE,
    IMAGENET_NORMALISE,
    DataError,
    Normalise,
    Request,
    TrainData,
)
from bitshift.train.data.cifar import CIFAR10_CLASSES, read_cifar
from bitshift.train.data.folder import class_folders, read_folder
from bitshift.train.data.idx import find_idx, read_idx, read_idx_folder
from bitshift.train.data.mnist5k import read_mnist5k
from bitshift.train.data.npz import read_npz
from bitshift.train.data.sampler import EpochSampler, step_generator

NAMED = {"mnist_5k": read_mnist5k}
"""Data sets that a package ships, by name."""

SPLITS = ("train", "test")
LAYOUTS = (
    "a .npz file (x_train, y_train, x_test, y_test), or a folder with IDX files (train-images-idx3-ubyte[.gz]), "
    "CIFAR binary (data_batch_1.bin) or python files (data_batch_1), {train,test}.npz, or {train,test}/CLASS/*.png"
)


def open_data(name_or_path: str | Path, split: str = "train", *, size: int | None = None) -> ArrayData:
    """The rows of ``split`` (train or test) of a named data set or of what lies at a path; the layout is recognised.

    ``size`` scales and crops image folders to one size. CIFAR-10 comes with the normalisation of the published
    nets, everything else with ``(pixel - 128) / 64``; change it with :meth:`ArrayData.with_normalise`.

    Raises:
        DataError: nothing there, no known layout, or a damaged file; says what was found and what is allowed.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r}: allowed is {' or '.join(SPLITS)}")
    if str(name_or_path) in NAMED:
        return NAMED[str(name_or_path)](split)
    path = Path(name_or_path).expanduser()
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(f"{path}: a file of type {path.suffix or 'unknown'}; allowed is {LAYOUTS}")
        return read_npz(path, split)
    if not path.is_dir():
        near = difflib.get_close_matches(str(name_or_path), NAMED, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{name_or_path}: no such file or folder, nor a data set by name ({', '.join(NAMED)}){hint}")
    if (idx := find_idx(path, split)) is not None:
        return read_idx_folder(*idx)
    if (cifar := read_cifar(path, split)) is not None:
        return cifar
    if (path / f"{split}.npz").is_file():
        return read_npz(path / f"{split}.npz", split)
    if (path / split).is_dir():
        data = read_folder(path / split, size=size)
        is_cifar = data.class_names == CIFAR10_CLASSES and data.images.shape[1:] == (3, 32, 32)
        return data.with_normalise(CIFAR10_NORMALISE) if is_cifar else data
    found = ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing"
    single = "; CLASS/ folders without a SPLIT/ above them are for read_folder()" if class_folders(path) else ""
    raise DataError(f"{path}: no {split} data in a known layout (found {found}); allowed is {LAYOUTS}{single}")


def same_classes(train: ArrayData, test: ArrayData) -> tuple[ArrayData, ArrayData]:
    """Give two splits whose names are bare numbers the longer list of the two; DataError when named classes differ."""
    if train.class_names == test.class_names:
        return train, test
    longer = max(train.class_names, test.class_names, key=len)
    if all(names == longer[: len(names)] for names in (train.class_names, test.class_names)):
        return dataclasses.replace(train, class_names=longer), dataclasses.replace(test, class_names=longer)
    raise DataError(
        f"train has the classes {train.class_names[:5]}..., test {test.class_names[:5]}...; they must be the same"
    )


__all__ = [
    "AUGMENTS",
    "CIFAR10_CLASSES",
    "CIFAR10_NORMALISE",
    "IMAGENET_NORMALISE",
    "LAYOUTS",
    "NAMED",
    "SPLITS",
    "ArrayData",
    "Augment",
    "DataError",
    "EpochSampler",
    "Normalise",
    "PadCropFlip",
    "Request",
    "Shift",
    "TrainData",
    "open_data",
    "read_folder",
    "read_idx",
    "same_classes",
    "step_generator",
    "stratified_split",
]
