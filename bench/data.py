"""Photos to network inputs: decoded, cropped at random, mirrored, normalised; beside a plain torch DataLoader.

The peer is what torchvision's ImageNet reference does, step by step with PIL and torch (torchvision itself is not
needed): decode, random resized crop, flip, to float, normalise, all for each image in the worker, then collate.

    python bench/data.py --data imagenet-sample --json data.json

``--data`` is a folder {train}/CLASS/*.jpg; without it photos are made (no figures: they decode faster than real ones).
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Row, Timing, arguments, check_equal, main
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bitshift.train.data import (
    AUGMENTS,
    IMAGENET_NORMALISE,
    EpochSampler,
    Request,
    StreamedData,
    crops_at_decoding,
    eval_short,
    index_folder,
    index_shards,
    open_folder,
    pack_folder,
    step_generator,
)
from bitshift.train.data.crops import RandomResizedCrop
from bitshift.train.data.decode import GAP, decode, measure
from bitshift.train.data.index import FolderIndex
from bitshift.train.data.opening import streamed

BATCH = 64
PEER = "torch DataLoader + PIL"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class Plain(Dataset[tuple[Tensor, int]]):
    """The peer's images."""

    def __init__(self, index: FolderIndex, size: int, *, train: bool) -> None:
        self.size, self.short = size, eval_short(size)
        self.files = [str(index.root / index.names[row]) for row in range(len(index))]
        self.labels, self.train = index.labels.tolist(), train
        self.crop = RandomResizedCrop()

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, row: int) -> Image.Image:
        """The cropped picture."""
        with Path(self.files[row]).open("rb") as file:
            picture = Image.open(file).convert("RGB")
        if self.train:
            drawn = self.crop.draw(1, torch.default_generator)[0].tolist()
            top, left, high, wide = self.crop.box(drawn, picture.height, picture.width)
            picture = picture.crop((left, top, left + wide, top + high))
            picture = picture.resize((self.size, self.size), Image.Resampling.BILINEAR)
            return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < 0.5 else picture
        factor = self.short / min(picture.size)
        width, height = (max(self.short, round(side * factor)) for side in picture.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        scaled = picture.resize((width, height), Image.Resampling.BILINEAR)
        return scaled.crop((left, top, left + self.size, top + self.size))

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(np.array(self.picture(row))).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div(255).sub_(MEAN[:, None, None]).div_(STD[:, None, None]), self.labels[row]


def ours(data: StreamedData, workers: int, batches: int) -> Callable[[], object]:
    """Iterate our pipeline over ``batches`` batches, to network inputs."""
    from dataclasses import replace

    moved, augment = crops_at_decoding(replace(data, workers=workers), AUGMENTS["imagenet"])
    assert augment is not None
    sampler = EpochSampler(count=len(data), batch_size=BATCH, seed=0)
    order = sampler.permutation(0)
    requests = [Request(rows=sampler.rows(order, b % sampler.steps), place=(0, 0, b)) for b in range(batches)]

    def run() -> None:
        with closing(moved.batches(requests)) as found:
            for number, (images, _) in enumerate(found):
                moved.normalise(augment(images, step_generator(0, 1, number)))

    return run


def plain(index: FolderIndex, size: int, workers: int, batches: int) -> Callable[[], object]:
    """Iterate the peer over ``batches`` batches."""
    dataset = Plain(index, size, train=True)

    def run() -> None:
        sampler = torch.utils.data.RandomSampler(dataset, num_samples=batches * BATCH)
        for _ in DataLoader(dataset, batch_size=BATCH, sampler=sampler, num_workers=workers):
            pass

    return run


def timed(candidates: dict[str, Callable[[], object]], rounds: int) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Clock and processor seconds (workers included) of the candidates, in turns."""
    clock: dict[str, list[float]] = {name: [] for name in candidates}
    processor: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for index in range(-1, rounds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            before, begin = _processor(), time.perf_counter()
            candidates[name]()
            if index >= 0:
                clock[name].append(time.perf_counter() - begin)
                processor[name].append(_processor() - before)
    return ({n: Timing(tuple(v)) for n, v in clock.items()}, {n: Timing(tuple(v)) for n, v in processor.items()})


def _processor() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def steps_of_an_image(index: FolderIndex, size: int, rows: int) -> list[Row]:
    """Processor time of each step of our pipeline, one after another in this process."""
    files = [index.read(row) for row in np.linspace(0, len(index) - 1, rows).astype(int)]
    crop = RandomResizedCrop()
    windows = [
        crop.box(crop.draw(1, step_generator(0, 5, i))[0].tolist(), *measure(data, "")[1:])
        for i, data in enumerate(files)
    ]
    batch = torch.zeros((BATCH, 3, size, size), dtype=torch.uint8)
    flip = AUGMENTS["flip"]

    def whole(at: int) -> None:
        decode(files[at], "", channels=3, size=size, window=lambda *_: windows[at])

    def pixels(at: int) -> None:
        decode(files[at], "", channels=3)

    work: dict[str, tuple[Callable[[int], object], int]] = {
        "read the file": (lambda at: index.read(at), 1),
        "draw the window": (lambda at: crop.box(crop.draw(1, step_generator(0, 5, 0, 0, at))[0].tolist(), 375, 500), 1),
        "decode the whole picture": (pixels, 1),
        "decode, cut out, scale": (whole, 1),
        "mirror and normalise, by batch": (lambda _: IMAGENET_NORMALISE(flip(batch, step_generator(0))), BATCH),
    }
    found = []
    for name, (step, images) in work.items():
        seconds = []
        for _ in range(5):
            begin = time.process_time()
            for at in range(rows if images == 1 else 1):
                step(at)
            seconds.append((time.process_time() - begin) / (rows if images == 1 else images))
        found.append(Timing(tuple(seconds)).row(f"one image: {name}", "processor time"))
    return found


def check(index: FolderIndex, size: int, data: StreamedData) -> None:
    """The centre crops of both are equal, but where ours decodes a large JPEG at a fraction."""
    dataset = Plain(index, size, train=False)
    rows = [r for r in range(len(index)) if min(measure(index.read(r), "")[1:]) < GAP * dataset.short][:8]
    images = data.batch(np.array(rows))[0].numpy()
    for row, image in zip(rows, images, strict=True):
        check_equal(index.where(row), np.asarray(dataset.picture(row)).transpose(2, 0, 1), image)


def rows(options: argparse.Namespace) -> Sequence[Row]:
    """What is measured."""
    with tempfile.TemporaryDirectory() as scratch:
        root = options.data or _made(Path(scratch) / "photos", 64 if options.quick else 640)
        index = index_folder(root / "train")
        size = options.size
        data = open_folder(root / "train", size=size, short=eval_short(size), stream=True)
        assert isinstance(data, StreamedData)
        check(index, size, data)
        packed = pack_folder(index, Path(scratch) / "shards", "train")
        shards = streamed(index_shards(list(packed.shards)), size=size, short=eval_short(size), where=root)
        batches, rounds = (1, 1) if options.quick else (options.batches, options.rounds)
        found: list[Row] = []
        for workers in (1, 2):
            candidates: dict[str, Any] = {
                "bitshift, folder": ours(data, workers, batches),
                "bitshift, shards": ours(shards, workers, batches),
                PEER: plain(index, size, workers, batches),
            }
            clock, processor = timed(candidates, rounds)
            for name in candidates:
                case = f"{workers} workers: {name}"
                rate = Timing(tuple(batches * BATCH / s for s in clock[name].seconds))
                found.append(rate.row(case, "images a second", scale=1, unit="1/s"))
                found.append(processor[name].row(case, "processor time an image", scale=1e3 / (batches * BATCH)))
                if name != PEER:
                    found.append(clock[name].ratio(clock[PEER], case=case, against=PEER))
                    found.append(processor[name].ratio(processor[PEER], case=case, against=PEER, metric="work saved"))
        return [*found, *steps_of_an_image(index, size, min(len(index), 16 if options.quick else 200))]


def _made(root: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for row in range(count):
        folder = root / "train" / f"c{row % 8}"
        folder.mkdir(parents=True, exist_ok=True)
        rough = Image.fromarray(rng.integers(0, 256, (50, 64, 3)).astype(np.uint8))
        rough.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{row}.jpg", quality=92)
    return root


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="folder with train/CLASS/*.jpg; default: made photos")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=8, help=f"batches of {BATCH} a round")
    main(__doc__, rows, parser=parser)
