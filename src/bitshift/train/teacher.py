"""A float teacher whose logits may be kept on disk: runs that share data, order and augmentation pay for them once."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitshift.train.checkpoint import write_atomic
from bitshift.train.progress import logger


def model_fingerprint(model: nn.Module) -> str:
    """Changes with the structure of ``model`` and with any bit of its state."""
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


class TeacherCache:
    """Logits by (epoch, place in the epoch's row order), float32, each row with its checksum.

    ``folder/KEY/epoch-E.rows`` has one record a row: ``classes`` float32 numbers and a CRC-32. Unwritten, torn or
    damaged records fail their checksum and are computed again, so that killed, parallel and distributed runs can
    share a folder without locks. float32, not float16: what is read is what would be computed, to the bit, so a run
    may start, stop or resume with or without the cache. ``KEY`` is the digest of ``identity``, kept in ``key.json``.

    A disk that refuses ends the caching with one warning, never the training.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any], *, rows: int, classes: int) -> None:
        text = json.dumps(dict(identity) | {"rows": rows, "classes": classes}, indent=1, sort_keys=True)
        self.folder = Path(folder).expanduser() / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "key.json").exists():
            # all processes of a run, and other runs, come here at the same moment
            write_atomic(self.folder / "key.json", text.encode(), writer=f".{uuid.uuid4().hex}")
        self._rows, self._record = rows, np.dtype([("logits", "<f4", (classes,)), ("crc", "<u4")])
        self._epoch, self._file = -1, -1
        self._broken = False
        self.hits = self.misses = 0

    def get(self, epoch: int, place: int, count: int) -> Tensor | None:
        """Logits (count, classes) of the rows at ``place`` of ``epoch``; None unless all of them are there."""
        found = self._guarded(lambda: self._read(epoch, place, count))
        self.hits, self.misses = self.hits + (found is not None), self.misses + (found is None)
        return found

    def put(self, epoch: int, place: int, logits: Tensor) -> None:
        """Keep ``logits`` (rows, classes) of the rows at ``place`` of ``epoch``."""
        self._guarded(lambda: self._write(epoch, place, logits))

    def close(self) -> None:
        """Close the open file."""
        if self._file >= 0:
            os.close(self._file)
        self._epoch, self._file = -1, -1

    def _guarded(self, act: Callable[[], Any]) -> Any:
        if self._broken:
            return None
        try:
            return act()
        except OSError as error:
            self._broken = True
            logger.warning("teacher cache %s is not used any more: %s", self.folder, error)
            return None

    def _open(self, epoch: int) -> int:
        if epoch != self._epoch:
            self.close()
            path = self.folder / f"epoch-{epoch}.rows"
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._epoch = epoch
        return self._file

    def _read(self, epoch: int, place: int, count: int) -> Tensor | None:
        size = self._record.itemsize
        content = os.pread(self._open(epoch), count * size, place * size)
        if len(content) < count * size:
            return None
        records = np.frombuffer(content, dtype=self._record)
        for row, crc in enumerate(records["crc"].tolist()):
            # an unwritten record is all zeros, whose checksum is not zero
            if zlib.crc32(content[row * size : (row + 1) * size - 4]) != crc:
                return None
        return torch.from_numpy(records["logits"].copy())

    def _write(self, epoch: int, place: int, logits: Tensor) -> None:
        records = np.empty(len(logits), dtype=self._record)
        records["logits"] = logits.float().cpu().numpy()
        records["crc"] = [zlib.crc32(np.ascontiguousarray(row).tobytes()) for row in records["logits"]]
        content = records.tobytes()
        if os.pwrite(self._open(epoch), content, place * self._record.itemsize) != len(content):
            raise OSError("a record was written only in part; is the disk full?")


class Teacher:
    """A frozen network that gives logits (N, classes) for the rows of a step, from ``cache`` where it holds them."""

    def __init__(self, model: nn.Module, *, classes: int, cache: TeacherCache | None = None) -> None:
        self.model, self.classes, self.cache = model.eval(), classes, cache

    @torch.no_grad()
    def __call__(self, images: Tensor, epoch: int, place: int) -> Tensor:
        """Logits of ``images``, which are the rows at ``place`` of ``epoch``; float32 from the cache.

        Raises:
            ValueError: the network has another number of classes.
        """
        found = self.cache.get(epoch, place, len(images)) if self.cache is not None else None
        if found is not None:
            return found.to(images.device)
        logits = self.model(images)
        if logits.shape != (len(images), self.classes):
            raise ValueError(
                f"the teacher gives shape {tuple(logits.shape)} for {len(images)} images of {self.classes} classes; "
                f"({len(images)}, {self.classes}) is needed"
            )
        if self.cache is not None:
            self.cache.put(epoch, place, logits)
        return logits

    def close(self) -> None:
        """Close the cache's file."""
        if self.cache is not None:
            self.cache.close()


__all__ = ["Teacher", "TeacherCache", "model_fingerprint"]
