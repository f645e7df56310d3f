"""CIFAR-10 and CIFAR-100 in their two official forms: binary records, and python pickles."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bitshift.train.data.arrays import ArrayData
from bitshift.train.data.base import IMAGENET_NORMALISE, DataError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PIXELS = 3 * 32 * 32
_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles what the CIFAR files need (arrays of bytes in plain containers) and nothing that could run code."""

    _ALLOWED: ClassVar[dict[tuple[str, str], tuple[str, str]]] = {
        ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"): ("numpy", "ndarray"),
        ("numpy", "dtype"): ("numpy", "dtype"),
        ("_codecs", "encode"): ("_codecs", "encode"),  # how Python 3 writes bytes in protocol 2
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(*self._ALLOWED[module, name])
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs") from None


def _unpickle(path: Path) -> dict[bytes, Any]:
    try:
        content = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a malformed pickle can raise nearly anything
        raise DataError(f"{path}: not a CIFAR python file ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; a CIFAR python file holds a dict")
    return {k.encode() if isinstance(k, str) else k: v for k, v in content.items()}


def _pickled(path: Path, label_key: bytes) -> tuple[np.ndarray, np.ndarray]:
    content = _unpickle(path)
    data, labels = content.get(b"data"), content.get(label_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS:
        raise DataError(
            f"{path}: 'data' must be uint8 (N, {_PIXELS}), found {getattr(data, 'shape', type(data).__name__)}"
        )
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(v) is int for v in labels):
        raise DataError(f"{path}: {label_key.decode()!r} must be a list of {len(data)} whole numbers")
    return data.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _binary(path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Records of ``label_bytes`` labels (the last is the fine one) and 3072 pixels, channels first."""
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    record = label_bytes + _PIXELS
    if not len(raw) or len(raw) % record:
        raise DataError(
            f"{path}: {len(raw)} bytes are no whole number of {record}-byte records; download the file again"
        )
    rows = raw.reshape(-1, record)
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32).copy(), rows[:, label_bytes - 1].astype(np.int64)


def _names(folder: Path, *, hundred: bool, binary: bool) -> tuple[str, ...]:
    if binary:
        file = folder / ("fine_label_names.txt" if hundred else "batches.meta.txt")
        found = tuple(file.read_text().split()) if file.is_file() else ()
    else:
        file = folder / ("meta" if hundred else "batches.meta")
        key = b"fine_label_names" if hundred else b"label_names"
        listed = _unpickle(file).get(key, []) if file.is_file() else []
        found = tuple(n.decode() if isinstance(n, bytes) else str(n) for n in listed)
    if found:
        return found
    return tuple(str(i) for i in range(100)) if hundred else CIFAR10_CLASSES


def read_cifar(folder: Path, split: str) -> ArrayData | None:
    """The CIFAR data set in ``folder`` (the extracted official archive), None when no file of it is there.

    Raises:
        DataError: some but not all files of the split, or a damaged one; names the file.
    """
    for hundred, names in ((False, _BATCHES[split]), (True, [split])):
        for suffix in (".bin", ""):
            paths = [folder / (name + suffix) for name in names]
            there = [p for p in paths if p.is_file()]
            if not there:
                continue
            if len(there) < len(paths):
                missing = ", ".join(p.name for p in paths if not p.is_file())
                raise DataError(f"{folder}: {missing} missing beside {there[0].name}; extract the whole archive")
            if suffix:
                parts = [_binary(p, 2 if hundred else 1) for p in paths]
            else:
                parts = [_pickled(p, b"fine_labels" if hundred else b"labels") for p in paths]
            return ArrayData(
                images=np.concatenate([p[0] for p in parts]), labels=np.concatenate([p[1] for p in parts]),
                class_names=_names(folder, hundred=hundred, binary=bool(suffix)), normalise=IMAGENET_NORMALISE,
            )  # fmt: skip
    return None


__all__ = ["CIFAR10_CLASSES", "read_cifar"]
