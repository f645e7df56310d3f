"""Tar shards in WebDataset's layout: KEY.jpg beside KEY.cls or KEY.json, read by offset in any order.

``webdataset`` itself is not used: it streams shards in sequence through a shuffle buffer, whose contents depend on
workers, processes and restarts. A plain tar gives offsets (``tarfile`` finds them), and an offset is random access:
shards keep the order law of folders.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import tarfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from bitshift.train.data.base import DataError, check_labels
from bitshift.train.data.index import SUFFIXES, Names, cache_dir, read_arrays, write_arrays

CLASSES = "classes.json"
"""Beside shards: a list of class names, in the order of their numbers."""
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_OPEN_FILES = 64
_JSON_LABELS = ("label", "cls", "class_id", "class")
_log = logging.getLogger("bitshift")


def find_shards(path: Path, split: str) -> list[Path]:
    """The shards of ``split``: a brace pattern, one tar, a folder SPLIT of tars, or tars ``SPLIT-*.tar`` in a folder.

    For the split ``test`` the names val, valid and validation are good too. Empty when there are none.

    Raises:
        DataError: a pattern some of whose files are missing.
    """
    if is_pattern(path):
        wanted = list(expand_braces(path))
        missing = [p for p in wanted if not p.is_file()]
        if missing:
            raise DataError(f"{path}: {len(missing)} of {len(wanted)} shards are missing, the first is {missing[0]}")
        return wanted
    if not path.is_dir():
        return []
    for name in split_names(split):
        if (path / name).is_dir() and (inside := sorted((path / name).glob("*.tar"))):
            return inside
        if beside := sorted({*path.glob(f"{name}-*.tar"), *path.glob(f"{name}_*.tar"), *path.glob(f"{name}.tar")}):
            return beside
    return []


def is_pattern(path: Path) -> bool:
    """Whether ``path`` itself names shards, of whatever split: a brace pattern, or one tar."""
    return _BRACES.search(path.name) is not None or path.suffix == ".tar"


def split_names(split: str) -> tuple[str, ...]:
    """The names of folders and shards that hold ``split``."""
    return ("test", "val", "valid", "validation") if split == "test" else (split,)


def expand_braces(path: Path) -> Iterator[Path]:
    """``train-{0000..0146}.tar`` as its 147 paths."""
    found = _BRACES.search(path.name)
    if found is None:
        yield path
        return
    low, high = found.groups()
    for number in range(int(low), int(high) + 1):
        name = f"{path.name[: found.start()]}{number:0{len(low)}d}{path.name[found.end() :]}"
        yield from expand_braces(path.with_name(name))


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardIndex:
    """The images of a set of shards, in their order in the files; also the reader of their bytes."""

    shards: tuple[Path, ...]
    shard: np.ndarray
    """int32 (N,): which shard holds a row."""
    offsets: np.ndarray
    """int64 (N,): where in it the image starts."""
    sizes: np.ndarray
    """int64 (N,): its bytes."""
    names: Names
    """Names of the members."""
    labels: np.ndarray
    class_names: tuple[str, ...]
    _files: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def where(self, row: int) -> str:
        """Shard and member, for messages."""
        return f"{self.shards[self.shard[row]]}: {self.names[row]}"

    def key(self, row: int) -> str:
        """The member's name without its suffix."""
        return self.names[row].rpartition(".")[0]

    def checksum(self) -> int:
        """Of the names and places of the images."""
        return zlib.crc32(self.offsets.tobytes(), self.names.checksum())

    def read(self, row: int) -> bytes:
        """The image's bytes."""
        size = int(self.sizes[row])
        try:
            data = os.pread(self._file(int(self.shard[row])), size, int(self.offsets[row]))
        except OSError as error:
            raise DataError(f"{self.where(row)}: cannot be read ({error.strerror})") from error
        if len(data) != size:
            raise DataError(f"{self.where(row)}: {len(data)} of {size} bytes are there; the shard is cut")
        return data

    def _file(self, shard: int) -> int:
        # a fork shares open files but reads by offset, so that only the table must be its own
        key = (os.getpid(), shard)
        if key not in self._files:
            while len(self._files) >= _OPEN_FILES:
                os.close(self._files.pop(next(iter(self._files))))
            self._files[key] = os.open(self.shards[shard], os.O_RDONLY)
        return self._files[key]

    def close(self) -> None:
        """Close the shards; reading opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        self.close()


def index_shards(shards: list[Path], *, cache: bool = True) -> ShardIndex:
    """Where the images lie in ``shards``, from the heads of the members; kept while no shard changes size or time.

    Raises:
        DataError: a file that is no plain tar, an image without a label, labels that are no classes; names the member.
    """
    digest, newest = hashlib.sha256(), 0
    classes = _class_file(shards)
    for path in [*shards, *([classes] if classes else [])]:
        stat = path.stat()
        digest.update(f"{path.name}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        newest = max(newest, stat.st_mtime_ns)
    identity = hashlib.sha256("\n".join(str(p.resolve()) for p in shards).encode()).hexdigest()[:24]
    stored, stamp = cache_dir() / f"shards-{identity}.npz", digest.hexdigest()
    kept = read_arrays(stored, stamp, newest) if cache else None
    if kept is None:
        built = time.time_ns()
        kept = _scan(shards, classes)
        if cache:
            write_arrays(stored, stamp, built, **kept)
    return ShardIndex(
        shards=tuple(shards), shard=kept["shard"], offsets=kept["offsets"], sizes=kept["sizes"],
        names=Names(text=kept["text"], ends=kept["ends"]), labels=kept["labels"],
        class_names=tuple(map(str, kept["classes"])),
    )  # fmt: skip


def _class_file(shards: list[Path]) -> Path | None:
    return next((p for p in (shards[0].parent / CLASSES, shards[0].parent.parent / CLASSES) if p.is_file()), None)


def _scan(shards: list[Path], classes: Path | None) -> dict[str, np.ndarray]:
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    labels: list[str] = []
    for number, path in enumerate(shards):
        for name, offset, size, label in _members(path):
            names.append(name)
            places.append((number, offset, size))
            labels.append(label)
    if not names:
        raise DataError(f"{shards[0]}: no images with a .cls or .json beside them in {len(shards)} shards")
    packed, table = Names.of(names), np.array(places, dtype=np.int64)
    numbers, class_names = _classes(labels, classes, shards[0])
    check_labels(numbers, len(names), class_names)
    return {
        "shard": table[:, 0].astype(np.int32), "offsets": table[:, 1].copy(), "sizes": table[:, 2].copy(),
        "text": packed.text, "ends": packed.ends, "labels": numbers, "classes": np.array(class_names),
    }  # fmt: skip


def _classes(labels: list[str], file: Path | None, first: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers and names: given numbers, or names in sorted order."""
    listed: tuple[str, ...] = ()
    if file is not None:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: not a JSON list of class names ({error})") from error
        if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
            raise DataError(f"{file}: must be a JSON list of class names")
        listed = tuple(content)
    if all(label.isdecimal() for label in labels):
        numbers = np.array([int(label) for label in labels], dtype=np.int64)
        return numbers, listed or tuple(str(c) for c in range(int(numbers.max()) + 1))
    names = listed or tuple(sorted(set(labels)))
    place = {name: number for number, name in enumerate(names)}
    if unknown := sorted(set(labels) - set(names))[:1]:
        raise DataError(f"{first}: the label {unknown[0]!r} is neither a number nor one of the classes in {file}")
    return np.array([place[label] for label in labels], dtype=np.int64), names


def _members(path: Path) -> Iterator[tuple[str, int, int, str]]:
    """(name, offset, size, label) of each image of one shard; members of one key follow each other."""
    try:
        with tarfile.open(path, "r:") as tar:
            key, image, label = "", None, None
            for member in tar:
                if not member.isreg() or member.name.rpartition("/")[2].startswith("."):
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, kind = base.partition(".")
                if (own := f"{folder}/{stem}") != key:
                    if image is not None:
                        yield (*image, _labelled(path, image[0], label))
                    key, image, label = own, None, None
                kind = "." + kind.lower()
                if kind in SUFFIXES:
                    if image is not None:
                        raise DataError(f"{path}: {image[0]} and {member.name} are two images of one key")
                    if member.issparse():
                        raise DataError(f"{path}: {member.name} is stored sparse; pack the shard again without holes")
                    image = (member.name, member.offset_data, member.size)
                elif kind in (".cls", ".json"):
                    found = _label(path, member.name, kind, tar.extractfile(member))
                    label = found if found is not None else label
            _check_end(path, tar.offset)
            if image is not None:
                yield (*image, _labelled(path, image[0], label))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{path}: not a whole, uncompressed tar ({error}); unpack .tar.gz first: an image is read by its offset"
        ) from error


def _check_end(path: Path, offset: int) -> None:
    """Refuse a tar without its mark of the end: tarfile takes a cut header for one."""
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("the mark of its end is missing")


def _label(path: Path, name: str, kind: str, file: IO[bytes] | None) -> str | None:
    assert file is not None
    text = file.read()
    try:
        if kind == ".cls":
            return text.decode().strip()
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: {name} is no label ({error})") from error
    if isinstance(content, dict):
        content = next((content[k] for k in _JSON_LABELS if isinstance(content.get(k), int | str)), None)
    return None if content is None or isinstance(content, list | float | bool) else str(content)


def _labelled(path: Path, name: str, label: str | None) -> str:
    if not label:
        raise DataError(
            f"{path}: {name} has no label; beside it must be a .cls (a number or class name) or a .json with one of "
            f"{', '.join(_JSON_LABELS)}"
        )
    return label


class ShardWriter:
    """Writes images into ``FOLDER/SPLIT-0000.tar``, ... and, at the end, their class names. A context manager.

    The files get their names at the end, together: what was stopped on the way never reads as a smaller data set. The
    same images give the same bytes. No two images of a split have one key (``a.png`` and ``a.jpg``, ``a.b.png`` and
    ``a_b.png``, one name in two classes whose folder the key leaves out): the later one gets a number behind its own,
    so that shards can be unpacked, or read by others, without a file written over another.
    """

    def __init__(self, folder: Path, split: str, class_names: tuple[str, ...], *, shard_bytes: int = 2**30) -> None:
        self.folder, self.split, self.class_names, self.shard_bytes = folder, split, class_names, shard_bytes
        self.paths: list[Path] = []
        self.rows = 0
        self._tar: tarfile.TarFile | None = None
        self._written = 0
        self._taken: set[bytes] = set()  # digests: the names of ten million images would fill the memory

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        if there := sorted(self.folder.glob(f"{self.split}-*.tar")):
            raise DataError(f"{there[0]} is there already; choose an empty folder")
        names = self.folder / CLASSES
        text = json.dumps(list(self.class_names), ensure_ascii=False, indent=0)
        if names.exists() and json.loads(names.read_text(encoding="utf-8")) != list(self.class_names):
            raise DataError(f"{names} lists other classes than these images have; choose another folder")
        names.write_text(text + "\n", encoding="utf-8")
        for left in self.folder.glob(f".{self.split}-*.part"):  # of a killed process
            left.unlink()
        return self

    def add(self, key: str, suffix: str, image: bytes, label: int) -> None:
        """One encoded image (``suffix`` as ``.jpg``) with its class number.

        Raises:
            DataError: a suffix that no reader takes for an image, a key without a name, no such class.
        """
        if suffix.lower() not in SUFFIXES:
            raise DataError(f"image {key!r} has the suffix {suffix!r}; allowed: {', '.join(SUFFIXES)}")
        if not 0 <= label < len(self.class_names):
            raise DataError(f"image {key!r} has the label {label}; classes are 0..{len(self.class_names) - 1}")
        key = self._own_key(key)
        if self._tar is None or self._written + len(image) > self.shard_bytes:
            self._finish()
            path = self.folder / f"{self.split}-{len(self.paths):04d}.tar"
            self.paths.append(path)
            self._tar = tarfile.open(_partial(path), "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 - closed in _finish
            self._written = 0
        for name, data in ((key + suffix.lower(), image), (key + ".cls", str(label).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))
            self._written += len(data)
        self.rows += 1

    def _own_key(self, key: str) -> str:
        """``key`` as a tar may hold it, with a number where another image has it."""
        folder, slash, base = key.rpartition("/")
        if not base:
            raise DataError(f"the key {key!r} has no name behind its last '/'; a key is FOLDER/NAME without a suffix")
        wanted = own = folder + slash + base.replace(".", "_")  # a key ends at its first point
        number = self.rows
        while (mark := hashlib.blake2b(os.fsencode(own), digest_size=12).digest()) in self._taken:
            own = f"{wanted}_{number}"
            number += 1
        self._taken.add(mark)
        return own

    def _finish(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._finish()
        for path in self.paths:
            if kind is None:
                _partial(path).replace(path)
            else:
                _partial(path).unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    """Where a shard lies while it grows."""
    return path.with_name(f".{path.stem}.part")


__all__ = [
    "CLASSES",
    "ShardIndex",
    "ShardWriter",
    "expand_braces",
    "find_shards",
    "index_shards",
    "is_pattern",
    "split_names",
]
