"""Which images a folder holds, and their classes: found once, kept, and used again while the folder is unchanged."""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import time
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitshift.train.data.base import DataError, check_labels

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
ANNOTATIONS = ("val_annotations.txt", "LOC_val_solution.csv", "val.txt")
"""What says the classes of a flat folder: Tiny-ImageNet's file, Kaggle's for ImageNet, or lines NAME CLASS."""
_RACY_NS = 2_000_000_000
_log = logging.getLogger("bitshift")


def cache_dir() -> Path:
    """Where decoded folders and indices are kept: ``$BITSHIFT_CACHE``, else ``bitshift`` in the user's cache."""
    if own := os.environ.get("BITSHIFT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitshift"


@dataclass(frozen=True, kw_only=True, eq=False)
class Names:
    """Many strings in two arrays: a million Python strings would be copied into every worker by their counters."""

    text: np.ndarray
    """uint8: all names in UTF-8, one behind the other."""
    ends: np.ndarray
    """int64 (N,): where each name ends."""

    @staticmethod
    def of(names: Iterable[str]) -> Names:
        """The names in their order."""
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return Names(text=np.frombuffer(b"".join(encoded), dtype=np.uint8), ends=ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        start = int(self.ends[row - 1]) if row else 0
        return os.fsdecode(self.text[start : int(self.ends[row])].tobytes())

    def checksum(self) -> int:
        """Of all names."""
        return zlib.crc32(self.ends.tobytes(), zlib.crc32(self.text.tobytes()))


_RULES = b"2"
"""How labels follow from names: an index that was made by other rules is made again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FolderIndex:
    """The images of a folder, sorted by class and file name; also the reader of their bytes."""

    root: Path
    names: Names
    """Paths below ``root``."""
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, row: int) -> str:
        """The file, for messages."""
        return str(self.root / self.names[row])

    def read(self, row: int) -> bytes:
        """The bytes of the file."""
        try:
            return (self.root / self.names[row]).read_bytes()
        except OSError as error:
            raise DataError(f"{self.where(row)}: cannot be read ({error.strerror})") from error

    def key(self, row: int) -> str:
        """The name under which a shard keeps the image: its path, without the suffix."""
        return self.names[row].rpartition(".")[0]

    def checksum(self) -> int:
        """Of the order of files."""
        return self.names.checksum()


def index_folder(root: Path, *, cache: bool = True) -> FolderIndex:
    """The images of ``root/CLASS/`` (or ``root/CLASS/images/``), or of a flat folder that an annotation file explains.

    The index is kept in :func:`cache_dir`, and used again while no file was added, removed or renamed in any class
    folder (their times of change say so).

    Raises:
        DataError: no images, or an annotation that does not fit; names the file.
    """
    folders = _class_folders(root)
    note = find_annotation(root) if folders.keys() <= {"images"} else None
    if note is not None:
        folders = {}
    if not folders and note is None:
        raise DataError(
            f"{root}: no folder CLASS/ with {', '.join(SUFFIXES[:3])} files in it, "
            f"nor {' or '.join(ANNOTATIONS)} beside images"
        )
    flat = _where_images_lie(root)
    beside = [root.parent / "train"] if (root.parent / "train").is_dir() else []  # numbers are those of its folders
    stamp, newest = _stamp(root, [*folders.values()] if note is None else [flat, note, *beside])
    stored = cache_dir() / f"index-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:24]}.npz"
    if cache and (kept := read_arrays(stored, stamp, newest)) is not None:
        names = Names(text=kept["text"], ends=kept["ends"])
        return FolderIndex(root=root, names=names, labels=kept["labels"], class_names=tuple(map(str, kept["classes"])))
    built = time.time_ns()
    found = _from_classes(root, folders) if note is None else _from_annotation(root, flat, note)
    if cache:
        write_arrays(
            stored, stamp, built, text=found.names.text, ends=found.names.ends, labels=found.labels,
            classes=np.array(found.class_names),
        )  # fmt: skip
    return found


def _where_images_lie(folder: Path) -> Path:
    """``folder/images`` where there is one (Tiny-ImageNet), else ``folder``."""
    return folder / "images" if (folder / "images").is_dir() else folder


def _class_folders(root: Path) -> dict[str, Path]:
    """The class folders in ``root`` by name, sorted; the value is where the images lie."""
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    found = {name: _where_images_lie(root / name) for name in names}
    return {name: path for name, path in found.items() if _holds_images(path)}


def class_folders(root: Path) -> list[str]:
    """The names of the folders in ``root`` that hold images, sorted: their order is the class index."""
    return list(_class_folders(root))


def find_annotation(root: Path) -> Path | None:
    """The file that gives the classes of a flat folder: in it, or up to four folders above (ImageNet's own layout)."""
    if not _holds_images(_where_images_lie(root)):
        return None
    return next((p / n for p in (root, *root.resolve().parents[:4]) for n in ANNOTATIONS if (p / n).is_file()), None)


def says_classes(root: Path) -> bool:
    """Whether ``root`` says the classes of its images: by folders, or by an annotation that knows the first of them.

    The test images of ImageNet and Tiny-ImageNet come without classes; another split's annotation lies near them.
    """
    if class_folders(root) not in ([], ["images"]):
        return True
    if (note := find_annotation(root)) is None:
        return False
    return _stem(_images(_where_images_lie(root))[0]) in _annotated(note)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - of a million


def _holds_images(path: Path) -> bool:
    with os.scandir(path) as entries:
        return any(_is_image(entry.name) for entry in entries)


def _images(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if _is_image(entry.name))


def _from_classes(root: Path, folders: dict[str, Path]) -> FolderIndex:
    names: list[str] = []
    counts = []
    for path in folders.values():
        below = path.relative_to(root)
        files = _images(path)
        names += [str(below / name) for name in files]
        counts.append(len(files))
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return FolderIndex(root=root, names=Names.of(names), labels=labels, class_names=tuple(folders))


def _from_annotation(root: Path, flat: Path, note: Path) -> FolderIndex:
    classes = _annotated(note)
    files = _images(flat)
    missing = [f for f in files if _stem(f) not in classes]
    if missing:
        raise DataError(f"{note}: no class for {flat / missing[0]} and {len(missing) - 1} more; every image needs one")
    given = [classes[_stem(f)] for f in files]
    training = _training_classes(root)
    if all(word.isdecimal() for word in given) and not (training and all(name.isdecimal() for name in training)):
        labels = np.array([int(word) for word in given], dtype=np.int64)  # places among the sorted classes, as caffe's
        class_names = training or tuple(str(c) for c in range(int(labels.max()) + 1))
    else:
        numbered = all(word.isdecimal() for word in given)  # and so are the training folders: these are their names
        class_names = training if numbered else tuple(sorted({*classes.values()}))
        place = {name: c for c, name in enumerate(class_names)}
        if unknown := sorted({*given} - place.keys()):
            raise DataError(
                f"{note}: class {unknown[0]!r} is no folder of {root.parent / 'train'}, whose names are numbers, too: "
                f"{', '.join(class_names[:3])}, ...; write the folders' names"
            )
        labels = np.array([place[word] for word in given], dtype=np.int64)
    check_labels(labels, len(files), class_names)
    order = np.argsort(labels, kind="stable")
    below = flat.relative_to(root)
    names = Names.of(str(below / files[row]) for row in order)
    return FolderIndex(root=root, names=names, labels=labels[order], class_names=class_names)


def _stem(name: str) -> str:
    """The file's name without folder and suffix."""
    return os.path.splitext(os.path.basename(name))[0]  # noqa: PTH119, PTH122 - of fifty thousand


def _annotated(note: Path) -> dict[str, str]:
    """Class by stem: the second word of each line (of the second cell, where the file is a table with commas)."""
    try:
        with note.open(newline="", encoding="utf-8") as file:
            if note.suffix == ".csv":
                lines = [(r[0], r[1].split()[0]) for r in csv.reader(file) if len(r) > 1 and r[1] != "PredictionString"]
            else:
                lines = [(w[0], w[1]) for line in file if len(w := line.split()) > 1]
    except (OSError, UnicodeDecodeError, IndexError, csv.Error) as error:
        raise DataError(f"{note}: not a list of image names and classes ({error})") from error
    return {_stem(name): label for name, label in lines}


def _training_classes(root: Path) -> tuple[str, ...]:
    train = root.parent / "train"
    return tuple(class_folders(train)) if train.is_dir() else ()


def _stamp(root: Path, watched: list[Path]) -> tuple[str, int]:
    """What changes when an image is added, removed or renamed, and the newest time in it."""
    times = [(str(path.relative_to(root) if path.is_relative_to(root) else path), path.stat()) for path in watched]
    digest = hashlib.sha256(_RULES)
    for name, stat in times:
        digest.update(f"{name}|{stat.st_mtime_ns}|{stat.st_size}\n".encode())
    return digest.hexdigest(), max(stat.st_mtime_ns for _, stat in times)


def read_arrays(stored: Path, stamp: str, newest: int) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file that was written for ``stamp``; None when it is absent, damaged or out of date.

    Clocks of file systems are coarse: what changed less than two seconds before it was read may have changed again.
    """
    if not stored.exists():
        return None
    try:
        with stored.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files}
        current = str(kept.pop("stamp")) == stamp and int(kept.pop("built")) > newest + _RACY_NS
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        _log.warning("%s: damaged (%s), made again", stored, error)
        return None
    return kept if current else None


def write_arrays(stored: Path, stamp: str, built: int, **arrays: np.ndarray) -> None:
    """Write a cache file through a neighbour, so that no process reads half of it."""
    stored.parent.mkdir(parents=True, exist_ok=True)
    partial = stored.with_name(f".{stored.name}.{os.getpid()}.npz")
    np.savez(partial, stamp=np.array(stamp), built=np.array(built), **arrays)  # pyright: ignore[reportArgumentType]
    partial.replace(stored)


__all__ = [
    "ANNOTATIONS",
    "SUFFIXES",
    "FolderIndex",
    "Names",
    "cache_dir",
    "class_folders",
    "find_annotation",
    "index_folder",
    "read_arrays",
    "says_classes",
    "write_arrays",
]
