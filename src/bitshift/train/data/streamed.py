"""Images that are decoded while the network trains, by worker processes, in an order that does not depend on them."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bitshift.train.data.base import DataError, Normalise, Request, check_labels, check_normalise
from bitshift.train.data.crops import RandomResizedCrop
from bitshift.train.data.decode import decode
from bitshift.train.data.folder import Pictures, check_size
from bitshift.train.data.processes import death, default_workers, loader_context, quiet_worker
from bitshift.train.data.sampler import step_generator

_PREFETCH = 2
_LISTED = 10
_log = logging.getLogger("bitshift")


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamedData:
    """A folder or a set of shards as training data; see :class:`bitshift.train.data.base.TrainData`.

    Args:
        pictures: where the encoded images come from.
        labels, class_names: of the rows.
        sample_shape: (C, H, W) of a decoded image.
        size: square that every image is brought to, H = W = size; None: all have sample_shape already.
        short: the short side before the centre is cut out; None: ``size``.
        crop: the random part, for requests with a place; None: the centre always.
        normalise: how images become the network's input.
        workers: decoding processes of ``batches``; 0 decodes in this process, None: :func:`default_workers`.
        skip_corrupt: put the next readable image in the place of one that cannot be decoded, with a warning that
            counts them, instead of stopping. For training only: an evaluation would count another image.
        rows: rows of ``pictures`` that this set holds; None: all.
        refuse_colour: take a picture in colour for one that cannot be decoded: a sample of the set was grey.
    """

    pictures: Pictures
    labels: np.ndarray
    class_names: tuple[str, ...]
    sample_shape: tuple[int, ...]
    size: int | None = None
    short: int | None = None
    crop: RandomResizedCrop | None = None
    normalise: Normalise = field(default_factory=Normalise)
    workers: int | None = None
    skip_corrupt: bool = False
    rows: np.ndarray | None = None
    refuse_colour: bool = False
    skipped: dict[str, str] = field(default_factory=dict)
    """File and reason of every image that ``skip_corrupt`` replaced so far."""

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.pictures) if self.rows is None else len(self.rows), self.class_names)
        check_normalise(self.normalise, self.sample_shape[0])
        if self.size is not None and tuple(self.sample_shape[1:]) != (self.size, self.size):
            raise DataError(f"sample_shape {self.sample_shape} is not the square of size {self.size}")
        if self.short is not None and (self.size is None or self.short < self.size):
            raise DataError(f"short side {self.short}: must be at least size = {self.size}, which is cut out of it")
        if self.crop is not None and self.size is None:
            raise DataError("a random crop needs a size that it is scaled to")
        if self.workers is not None and self.workers < 0:
            raise DataError(f"workers {self.workers}: must be at least 0")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_pixels(self) -> bool:
        """Always uint8 pixels."""
        return True

    def subset(self, index: np.ndarray | slice) -> Self:
        """The rows of ``index``, in its order."""
        rows = np.arange(len(self.pictures)) if self.rows is None else self.rows
        return replace(self, rows=rows[index], labels=self.labels[index], skipped={})

    def with_normalise(self, normalise: Normalise) -> Self:
        """The same data under another normalisation."""
        return replace(self, normalise=normalise)

    def with_class_names(self, class_names: tuple[str, ...]) -> Self:
        """The same data with another list of class names."""
        return replace(self, class_names=class_names)

    def with_crop(self, crop: RandomResizedCrop | None) -> Self:
        """The same data with another random part."""
        return replace(self, crop=crop)

    def batch(self, index: np.ndarray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Centre-cropped images and labels of ``index``, decoded in this process."""
        return self._deliver(_Decoder(self)[Request(rows=np.asarray(index))], torch.device(device))

    def batches(
        self, requests: Iterable[Request], device: torch.device | str = "cpu"
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Images and labels of each request, in order, decoded ahead by ``workers`` processes.

        Each worker decodes whole batches and is two ahead. Global random states are left alone. A worker that dies
        or an image that cannot be decoded ends the iteration with an error; closing the generator ends the workers.
        """
        device = torch.device(device)
        before = len(self.skipped)
        decoder = _Decoder(self)
        workers = default_workers() if self.workers is None else self.workers
        if not workers:
            for request in requests:
                yield self._deliver(decoder[request], device)
        else:
            loader = DataLoader(
                decoder,
                batch_size=None,
                sampler=_Requests(requests),
                num_workers=workers,
                prefetch_factor=_PREFETCH,
                collate_fn=_as_it_is,
                worker_init_fn=quiet_worker,
                multiprocessing_context=loader_context(),
                pin_memory=device.type == "cuda",
                generator=torch.Generator(),  # else the global one is drawn from, and a resumed run would differ
            )
            iterator: Any = iter(loader)
            try:
                while (decoded := _next(iterator)) is not None:
                    yield self._deliver(decoded, device)
            finally:
                # waits for the processes; without it they end when python happens to collect the iterator
                iterator._shutdown_workers()
        if len(self.skipped) > before:
            _log.warning("%d images of %d could not be decoded and were replaced", len(self.skipped), len(self))

    def _deliver(self, decoded: _Decoded, device: torch.device) -> tuple[Tensor, Tensor]:
        images, labels, broken = decoded
        for where, reason in broken:
            if not self.skip_corrupt:
                raise DataError(reason)
            if where not in self.skipped:
                self.skipped[where] = reason
                if len(self.skipped) <= _LISTED:
                    _log.warning("%s; another image takes its place", reason)
        return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def fingerprint(self) -> str:
        """Short identity of the data: labels, names and order of the files, size. Not their pixels."""
        crc = zlib.crc32(np.ascontiguousarray(self.labels).tobytes(), self.pictures.checksum())
        if self.rows is not None:
            crc = zlib.crc32(np.ascontiguousarray(self.rows).tobytes(), crc)
        shape = "x".join(map(str, (len(self), *self.sample_shape)))
        return f"{shape}-streamed-{self.short or self.size or 0}-{crc:08x}"


_Decoded = tuple[Tensor, Tensor, list[tuple[str, str]]]


class _Requests:
    """A sampler of torch's loader: anything that can be iterated."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self.requests = requests

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)


class _Decoder(Dataset[_Decoded]):
    """Decodes a request. What is random is drawn for each row from the request's place, so who decodes it is nothing
    to it.
    """

    def __init__(self, data: StreamedData) -> None:
        self.pictures, self.rows, self.labels = data.pictures, data.rows, data.labels
        self.shape, self.size, self.short, self.crop = data.sample_shape, data.size, data.short, data.crop
        self.skip, self.refuse_colour = data.skip_corrupt, data.refuse_colour

    def __getitem__(self, request: Request) -> _Decoded:
        images = torch.empty((len(request.rows), *self.shape), dtype=torch.uint8)
        out = images.numpy()
        labels = self.labels[request.rows]
        broken: list[tuple[str, str]] = []
        for at, row in enumerate(request.rows.tolist()):
            try:
                out[at] = self._picture(row, row, request.place)
            except DataError as error:
                broken.append((self.pictures.where(self._source(row)), str(error)))
                if not self.skip:
                    break  # an exception would come out of the loader with a worker's traceback in its message
                out[at], labels[at] = self._next_readable(row, request.place, broken)
        return images, torch.from_numpy(labels), broken

    def _source(self, row: int) -> int:
        return row if self.rows is None else int(self.rows[row])

    def _picture(self, row: int, drawn: int, place: tuple[int, ...]) -> np.ndarray:
        """The picture ``row``, changed by the random numbers of row ``drawn``."""
        source = self._source(row)
        where = self.pictures.where(source)
        window = None
        if place and self.crop is not None:
            seed, *rest = place
            window = partial(self.crop.box, self.crop.draw(1, step_generator(seed, 5, *rest, drawn))[0].tolist())
        image = decode(
            self.pictures.read(source), where, channels=self.shape[0], size=self.size, short=self.short, window=window,
            refuse_colour=self.refuse_colour,
        )  # fmt: skip
        check_size(image, self.shape, where, "the first")
        return image

    def _next_readable(
        self, row: int, place: tuple[int, ...], broken: list[tuple[str, str]]
    ) -> tuple[np.ndarray, np.int64]:
        count = len(self.labels)
        for step in range(1, count):
            other = (row + step) % count
            try:
                return self._picture(other, row, place), self.labels[other]
            except DataError as error:
                broken.append((self.pictures.where(self._source(other)), str(error)))
        raise DataError(f"none of the {count} images can be decoded; the last: {broken[-1][1]}")


def _next(iterator: Any) -> _Decoded | None:
    """The next batch, None after the last; RuntimeError says how a worker died."""
    try:
        return next(iterator, None)
    except (OSError, EOFError, RuntimeError) as error:
        # what comes through depends on where the death cut the conversation
        end = death(iterator._workers)
        if end is None:
            raise
        raise RuntimeError(
            f"a decoding process died ({end}); if memory (or /dev/shm) ran out, "
            "use fewer workers (--data-workers) or a smaller batch"
        ) from error


def _as_it_is(decoded: Any) -> Any:
    return decoded


__all__ = ["StreamedData"]
