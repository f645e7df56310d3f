"""A process dies by kill -9 inside an epoch; its peer notices, and the run goes on in any number of processes.

    python death_worker.py FOLDER

Writes run directories FOLDER/whole (two processes, undisturbed), FOLDER/again-N (started by two processes of which one
is killed, finished by N), FOLDER/seconds, how long the survivor took to end, and FOLDER/patience, how long
a process waited for one that hangs, with a peer_timeout of 3 seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from forked_ranks import run_ranks
from norm_worker import build, data

from bitshift.train import loop
from bitshift.train.config import TrainConfig
from bitshift.train.data import PadCropFlip

CONFIG = TrainConfig(
    epochs=2, batch_size=32, lr=0.02, clip_norm=5.0, checkpoint_every_steps=3, log_every=1, seed=3, ema_decay=0.9,
    progress="off", device="cpu", peer_timeout=60,
)  # fmt: skip


def run(folder: Path, rank: int, die_at: int | None = None) -> None:
    step = loop._Run._step

    def deadly(self, images, labels):
        if self.step == die_at and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, images, labels)

    loop._Run._step = deadly
    loop.fit(build("integer"), CONFIG, data(), data(), run_dir=folder, augment=PadCropFlip(pad=1))


def wait(folder: Path, rank: int) -> None:
    """Process 1 hangs in front of step 4."""
    step, begin = loop._Run._step, [0.0]

    def hanging(self, images, labels):
        if self.step == 4:
            begin[0] = time.monotonic()
            if rank == 1:
                time.sleep(10)
                os._exit(1)
        step(self, images, labels)

    loop._Run._step = hanging
    try:
        config = replace(CONFIG, peer_timeout=3)
        loop.fit(build("float"), config, data(), data(), run_dir=folder / "hanging", augment=None)
    except RuntimeError:
        (folder / "patience").write_text(str(time.monotonic() - begin[0]))
        raise


def main(folder: Path) -> None:
    run_ranks(2, lambda rank: run(folder / "whole", rank))
    begin = time.monotonic()
    run_ranks(2, lambda rank: run(folder / "killed", rank, die_at=10), may_fail=True)
    (folder / "seconds").write_text(str(time.monotonic() - begin))
    run_ranks(2, lambda rank: wait(folder, rank), may_fail=True)
    for world in (1, 2, 4):
        again = folder / f"again-{world}"
        shutil.copytree(folder / "killed", again)
        run_ranks(world, lambda rank, again=again: run(again, rank))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
