"""How photos are brought to one size and decoded: the flags, and what a run directory remembers of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from bitshift.cli.errors import CliError

if TYPE_CHECKING:
    from bitshift.train.data import ArrayData, StreamedData

RECORDED = "images"
"""Key of ``about`` in config.json."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images are opened: ``size`` and ``short`` hold for pixels in arrays too, the rest for folders and shards."""

    size: int | None = None
    short: int | None = None
    """Of test rows; training rows are cropped from the whole photo, or scaled by their short side to ``size``."""
    channels: int | None = None
    stream: bool | None = None
    workers: int | None = None
    skip_corrupt: bool = False
    """Of training rows."""

    def open(self, name: str, split: str) -> ArrayData | StreamedData:
        """A split of the data set ``name``."""
        from bitshift.train.data import open_data

        short = self.short if split == "test" else None
        return open_data(
            name, split, size=self.size, short=short, channels=self.channels, stream=self.stream, workers=self.workers,
            skip_corrupt=self.skip_corrupt and split == "train",
        )  # fmt: skip

    def recorded(self) -> dict[str, Any]:
        """What decides pixels, as an entry of ``about``; nothing when no size was given."""
        return {RECORDED: {"size": self.size, "short": self.short}} if self.size is not None else {}

    @staticmethod
    def from_about(about: Mapping[str, Any]) -> ImageOptions:
        """What :meth:`recorded` wrote."""
        return ImageOptions(**about.get(RECORDED, {}))


@dataclass(frozen=True, kw_only=True)
class ImageFlags:
    """Flags of the verbs that read image folders and shards."""

    image_size: int | None = None
    """Scale images and crop them to squares of N pixels, in folders, shards and arrays of uint8 pixels."""
    image_short: int | None = None
    """Short side of test photos before their centre is cut out; default N, or 8/7 N with random crops (256 for 224)."""
    channels: Literal[1, 3] | None = None
    """Image folders and shards: 1 makes every picture grey, 3 none; default: 1 where all are grey."""
    stream: Literal["yes", "no"] | None = None
    """Decode photos while training, or once into memory; default: above 2 GiB, and with random crops of photos."""
    data_workers: int | None = None
    """Processes that decode, for each training process; 0: none; default: the cores, at most 8."""

    def image_options(self, base: ImageOptions | None = None, *, random_crop: bool = False) -> ImageOptions:
        """``base`` with the flags' changes; ``random_crop`` says that training crops photos at random."""
        base = base or ImageOptions()
        for flag, value, least in (
            ("--image-size", self.image_size, 1),
            ("--image-short", self.image_short, 1),
            ("--data-workers", self.data_workers, 0),
        ):
            if value is not None and value < least:
                raise CliError(f"{flag} {value}: must be at least {least}")
        size = self.image_size if self.image_size is not None else base.size
        short = self.image_short if self.image_short is not None or self.image_size is not None else base.short
        stream = {"yes": True, "no": False}.get(self.stream or "", base.stream)
        if size is None and short is not None:
            raise CliError(f"--image-short {short} needs --image-size: what is cut out of it?")
        if random_crop and size is not None:
            from bitshift.train.data import eval_short

            short = short if short is not None else eval_short(size)
            stream = True if stream is None else stream
        if short is not None and size is not None and short < size:
            raise CliError(f"--image-short {short}: must be at least --image-size {size}, which is cut out of it")
        workers = self.data_workers if self.data_workers is not None else base.workers
        channels = self.channels if self.channels is not None else base.channels
        return ImageOptions(size=size, short=short, channels=channels, stream=stream, workers=workers)


@dataclass(frozen=True, kw_only=True)
class TrainImageFlags(ImageFlags):
    """Flags of the verbs that take training rows from image folders and shards."""

    skip_corrupt: bool = False
    """Replace training photos that cannot be decoded by the next ones, and count them, instead of stopping."""

    def image_options(self, base: ImageOptions | None = None, *, random_crop: bool = False) -> ImageOptions:  # noqa: D102
        return replace(super().image_options(base, random_crop=random_crop), skip_corrupt=self.skip_corrupt)


__all__ = ["ImageFlags", "ImageOptions", "TrainImageFlags"]
