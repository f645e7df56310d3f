"""``bitshift shards``: an image folder becomes a few large tar files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from bitshift.cli.errors import CliError
from bitshift.cli.output import Output, size_text
from bitshift.cli.verbs import Verb


@dataclass(frozen=True, kw_only=True)
class Shards(Verb):
    """Flags of ``bitshift shards``."""

    help_text: ClassVar[str] = """Pack an image folder into tar shards, which file systems and networks read faster.

FOLDER is a data set ({train,test|val}/CLASS/*.jpg); OUTPUT gets train-0000.tar, ..., test-0000.tar, ... and
classes.json: WebDataset's layout, KEY.jpg beside KEY.cls. Images are copied unchanged; each is decoded once, so that a
damaged one is found here. `bitshift train --data OUTPUT` trains on the same rows in the same order as on the folder.

examples:
  bitshift shards ~/data/imagenet ~/data/imagenet-shards
  bitshift shards photos shards --splits train --shard-mb 256
  bitshift shards photos shards --shuffle 0      for other readers, which go through shards in sequence
"""
    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]]
    """A folder with {train,test|val}/CLASS/ in it."""
    output: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUTPUT")]]
    """Folder for the shards."""
    splits: Literal["both", "train", "test"] = "both"
    """What to pack."""
    shard_mb: int = 1024
    """Size of a shard in MiB, about."""
    shuffle: int | None = None
    """Seed of another order than the folder's."""
    skip_corrupt: bool = False
    """Leave out images that cannot be decoded, and list them."""

    def run(self, out: Output) -> None:  # noqa: D102 - Verb.run
        from bitshift.train.data import index_folder, pack_folder
        from bitshift.train.data.opening import find_folder

        if self.shard_mb < 1:
            raise CliError(f"--shard-mb {self.shard_mb}: must be at least 1")
        if not self.folder.is_dir():
            raise CliError(f"no such folder: {self.folder}")
        wanted = ("train", "test") if self.splits == "both" else (self.splits,)
        roots = {split: find_folder(self.folder, split) for split in wanted}
        if missing := [split for split, root in roots.items() if root is None]:
            raise CliError(f"{self.folder} has no folder for the split {missing[0]}; choose with --splits")
        answer = {}
        for split, root in roots.items():
            assert root is not None
            index = index_folder(root)
            out.note(f"{root}: {len(index):,} images of {len(index.class_names)} classes")
            packed = pack_folder(
                index, self.output, split, shard_bytes=self.shard_mb * 2**20, shuffle=self.shuffle,
                skip_corrupt=self.skip_corrupt,
            )  # fmt: skip
            out.line(f"{self.output}: {packed.rows:,} images in {len(packed.shards)} shards, {size_text(packed.bytes)}")
            for reason in packed.left_out:
                out.line(f"left out: {reason}")
            answer[split] = {
                "rows": packed.rows, "shards": packed.shards, "bytes": packed.bytes, "left_out": packed.left_out
            }  # fmt: skip
        out.result(answer)


VERB = Shards
