"""Images decoded while training: the same rows whoever decodes them, errors by name, no process left behind."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bitshift.train import loop
from bitshift.train.config import TrainConfig
from bitshift.train.data import (
    AUGMENTS,
    ArrayData,
    Chain,
    DataError,
    EpochSampler,
    Flip,
    RandomResizedCrop,
    Request,
    StreamedData,
    TrainData,
    crops_at_decoding,
    index_folder,
    open_data,
    open_folder,
)
from bitshift.train.data.processes import death, loader_context
from photo_folder import cut, photo_folder

# CPython 3.12 and later warn of every fork of a process with threads; torch's loader forks
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # on machines of one core
]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    return photo_folder(tmp_path / "photos")


@pytest.fixture
def data(root) -> StreamedData:
    found = open_folder(root / "train", size=24, stream=True, workers=0)
    assert isinstance(found, StreamedData)
    return found.with_crop(RandomResizedCrop())


def requests(count: int, *, start: int = 0, rank: int = 0, world: int = 1, epochs: int = 2) -> list[Request]:
    sampler = EpochSampler(count=count, batch_size=8, seed=5, rank=rank, world=world)
    orders = [sampler.permutation(epoch) for epoch in range(epochs)]
    steps = [divmod(step, sampler.steps) for step in range(start, epochs * sampler.steps)]
    return [Request(rows=sampler.rows(orders[epoch], step), place=(5, epoch, step)) for epoch, step in steps]


def collect(data: TrainData, wanted: list[Request]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    with closing(data.batches(wanted)) as batches:
        return [(images.clone(), labels.clone()) for images, labels in batches]


def assert_equal(got, expected) -> None:
    assert len(got) == len(expected)
    for (images, labels), (wanted, classes) in zip(got, expected, strict=True):
        assert torch.equal(images, wanted)
        assert torch.equal(labels, classes)


def test_any_number_of_workers_gives_the_same_batches(data):
    expected = collect(data, requests(24))
    assert len(expected) == 6
    assert not torch.equal(expected[0][0], expected[3][0])
    for workers in (1, 3):
        assert_equal(collect(replace(data, workers=workers), requests(24)), expected)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_batches_of_one(data, world):
    parts = [collect(data, requests(24, rank=rank, world=world)) for rank in range(world)]
    joint = [(torch.cat([p[0] for p in part]), torch.cat([p[1] for p in part])) for part in zip(*parts, strict=True)]
    assert_equal(joint, collect(data, requests(24)))


def test_a_resumed_run_sees_the_rest_and_decodes_nothing_else(data, monkeypatch):
    expected = collect(data, requests(24))
    read = []
    pictures = type(data.pictures)
    original = pictures.read
    monkeypatch.setattr(pictures, "read", lambda self, row: read.append(row) or original(self, row))
    rest = requests(24, start=4)
    assert_equal(collect(data, rest), expected[4:])
    assert read == [int(row) for request in rest for row in request.rows]


def test_a_row_is_cropped_anew_in_every_epoch_and_alike_in_every_batch(data):
    row = np.array([7])
    (first, _), (again, _), (later, _), (beside, _) = collect(
        data,
        [
            Request(rows=row, place=(5, 0, 1)),
            Request(rows=row, place=(5, 0, 1)),
            Request(rows=row, place=(5, 1, 1)),
            Request(rows=np.array([3, 7]), place=(5, 0, 1)),
        ],
    )
    assert torch.equal(first, again)
    assert torch.equal(first[0], beside[1])
    assert not torch.equal(first, later)


def test_without_a_place_streamed_images_are_those_in_memory(root, data):
    arrays = open_folder(root / "train", size=24, stream=False)
    streamed = replace(data, workers=1)
    rows = np.arange(24)[::-1].copy()
    ((images, labels),) = collect(streamed, [Request(rows=rows)])
    assert torch.equal(images, arrays.batch(rows)[0])
    assert torch.equal(labels, arrays.batch(rows)[1])
    assert torch.equal(streamed.batch(rows)[0], images)
    assert streamed.class_names == arrays.class_names == ("c0", "c1", "c2")
    part = streamed.subset(np.array([20, 3]))
    assert torch.equal(part.batch(np.arange(2))[0], arrays.batch(np.array([20, 3]))[0])
    assert part.fingerprint() != streamed.fingerprint() != replace(streamed, short=30).fingerprint()


def test_images_of_one_size_need_no_size(tmp_path, monkeypatch):
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    root = photo_folder(tmp_path / "d", classes=2, each=1, suffix="png")
    data = open_folder(root / "train", stream=True, workers=0)
    arrays = open_folder(root / "train", stream=False)
    assert data.sample_shape == arrays.sample_shape == (3, 40, 64)
    assert torch.equal(data.batch(np.arange(2))[0], arrays.batch(np.arange(2))[0])


def test_global_random_states_are_left_alone(data):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    collect(replace(data, workers=1), requests(24, epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cut_image_stops_with_its_name_and_ends_the_workers(root, data, workers):
    cut(root / "train" / "c1" / "2.jpg")
    with pytest.raises(DataError) as caught:
        collect(replace(data, workers=workers), requests(24))
    message = str(caught.value)
    assert message.startswith(f"{root / 'train' / 'c1' / '2.jpg'}: cannot be decoded as an image (")
    assert "Traceback" not in message
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cut_image_is_replaced_by_the_next_and_counted_where_that_is_wanted(root, data, workers, caplog):
    expected = dict(zip(range(24), data.batch(np.arange(24))[0], strict=True))
    for name in ("c1/2.jpg", "c1/3.jpg"):
        cut(root / "train" / name)
    lenient = replace(data, workers=workers, skip_corrupt=True, skipped={})
    with caplog.at_level(logging.WARNING, logger="bitshift"):
        ((images, labels),) = collect(lenient, [Request(rows=np.array([9, 10, 15]))])
    assert torch.equal(images, torch.stack([expected[9], expected[12], expected[15]]))
    assert labels.tolist() == [1, 1, 1]
    assert sorted(lenient.skipped) == [str(root / "train" / "c1" / f"{i}.jpg") for i in (2, 3)]
    assert "2.jpg: cannot be decoded" in caplog.text
    assert "2 images of 24 could not be decoded and were replaced" in caplog.text


def test_an_evaluation_counts_the_labels_of_the_images_that_it_saw(root, data):
    expected = data.batch(np.arange(24))
    cut(root / "train" / "c2" / "7.jpg")  # the last row takes the first, of another class
    lenient = replace(data, workers=0, skip_corrupt=True, skipped={})

    class Knows(nn.Module):
        def forward(self, x):
            same = (x[:, None] == lenient.normalise(expected[0])[None]).flatten(2).all(2).float().argmax(1)
            return 10 * torch.eye(len(data.class_names))[expected[1][same]]

    found = loop.evaluate(Knows(), lenient, batch_size=10)
    assert found.accuracy == 1
    assert found.loss < 1e-3
    assert found.confusion.sum() == 24


@pytest.mark.parametrize("share", [0.0, 0.5])  # no head; a head but not all pixels
def test_a_folder_in_memory_replaces_corrupt_images_as_streamed_data_do(root, share, caplog):
    for name in ("c1/2.jpg", "c1/3.jpg", "c2/7.jpg"):  # two in a row; the last row takes the first
        cut(root / "train" / name, share)
    with pytest.raises(DataError, match=r"2\.jpg: cannot be decoded"):
        open_folder(root / "train", size=24, stream=False)
    streamed = open_folder(root / "train", size=24, stream=True, workers=0, skip_corrupt=True)
    images, labels = streamed.batch(np.arange(24))
    with caplog.at_level(logging.WARNING, logger="bitshift"):
        for _ in range(2):  # a cache would know nothing of the warning
            caplog.clear()
            data = open_folder(root / "train", size=24, stream=False, skip_corrupt=True)
            assert "3 images of 24 could not be decoded and were replaced" in caplog.text
            assert "c2/7.jpg: cannot be decoded" in caplog.text
    assert isinstance(data, ArrayData)
    np.testing.assert_array_equal(data.images, images.numpy())
    np.testing.assert_array_equal(data.labels, labels.numpy())
    assert data.labels[-1] == 0


def test_a_set_without_any_readable_image_is_refused(root, data):
    for file in (root / "train").glob("*/*.jpg"):
        cut(file, 0.1)
    with pytest.raises(DataError, match="none of the 24 images can be decoded"):
        collect(replace(data, skip_corrupt=True), requests(24))
    with pytest.raises(DataError, match="none of the 24 images can be decoded"):
        open_folder(root / "train", size=24, stream=False, skip_corrupt=True)
    for file in (root / "train").glob("*/*.jpg"):
        cut(file, 0)
    with pytest.raises(DataError, match="none of 24 images that were looked at can be read"):
        open_folder(root / "train", size=24, skip_corrupt=True)


def test_stopping_early_or_failing_leaves_no_process(data):
    streamed = replace(data, workers=2)
    with closing(streamed.batches(requests(24))) as batches:
        next(batches)
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []

    def training():
        with closing(streamed.batches(requests(24))) as batches:
            for _ in batches:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        training()
    assert multiprocessing.active_children() == []


# torch's handler of SIGCHLD raises wherever it finds the process, in a destructor too
TORCH_MAY_RAISE_IN_A_DESTRUCTOR = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def kill_one_worker(data, after: float = 0) -> None:
    with closing(replace(data, workers=2).batches(requests(24, epochs=40))) as batches:
        next(batches)
        victim = multiprocessing.active_children()[0]
        assert victim.pid is not None
        time.sleep(after)
        os.kill(victim.pid, signal.SIGKILL)
        # torch's own handler may come first
        with pytest.raises(RuntimeError, match=r"died \(killed by SIGKILL.*--data-workers|killed by signal"):
            for _ in batches:
                pass
    assert multiprocessing.active_children() == []


@TORCH_MAY_RAISE_IN_A_DESTRUCTOR
def test_a_killed_worker_ends_the_iteration_with_an_error(data):
    kill_one_worker(data)


@TORCH_MAY_RAISE_IN_A_DESTRUCTOR
@pytest.mark.slow
def test_whenever_a_worker_is_killed_the_iteration_ends(data):
    for after in np.random.default_rng(0).uniform(0, 0.004, 400):
        kill_one_worker(data, after)


def die_while_reading(flag, moment: int) -> None:
    """Be killed at the ``moment``-th call or return inside ``flag.is_set()``."""
    moments = iter(range(1, 1000))
    sys.setprofile(lambda *_: os.kill(os.getpid(), signal.SIGKILL) if next(moments) == moment else None)
    flag.is_set()


def wait_for(flag) -> None:
    while not flag.is_set():
        time.sleep(0.01)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_the_workers_stop_sign_outlives_whoever_reads_it(monkeypatch, start):
    """A worker killed inside ``is_set`` of ``multiprocessing.Event`` keeps its lock, and the next ``set`` hangs: so it
    is from the fifth moment on. ``spawn`` tells that the sign can be sent to a process.
    """
    started = multiprocessing.get_context(start)
    monkeypatch.setattr(multiprocessing, "get_context", lambda: started)
    context = loader_context()
    flag = context.Event()
    waiting = context.Process(target=wait_for, args=(flag,), daemon=True)
    waiting.start()
    moments = range(1, 13) if start == "fork" else [1]
    dying = [context.Process(target=die_while_reading, args=(flag, n), daemon=True) for n in moments]
    for process in dying:
        process.start()
    dying[0].join(timeout=60)
    assert dying[0].exitcode == -signal.SIGKILL
    for process in dying[1:]:
        process.join(timeout=1)
    setter = threading.Thread(target=flag.set, daemon=True)
    setter.start()
    setter.join(timeout=10)
    assert not setter.is_alive()
    waiting.join(timeout=60)
    assert waiting.exitcode == 0
    assert death([waiting]) is None
    assert death([waiting, dying[0]]) == "killed by SIGKILL"


def test_a_death_is_found_behind_workers_that_ended_well():
    context = multiprocessing.get_context("fork")
    well, late = context.Process(target=int), context.Process(target=time.sleep, args=(60,), daemon=True)
    for process in (well, late):
        process.start()
    well.join()
    assert death([well, late], patience=0.1) is None
    threading.Timer(0.5, late.kill).start()
    assert death([well, late], patience=30) == "killed by SIGKILL"


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_ends_every_process_without_a_worker_s_word(root, tmp_path):
    script = textwrap.dedent("""
        import signal
        import sys
        import numpy as np
        from contextlib import closing
        from pathlib import Path
        from bitshift.train.data import Request, open_folder

        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit "ignore"
            data = open_folder(Path(sys.argv[1]), size=24, stream=True, workers=2)
            endless = (Request(rows=np.arange(24), place=(0, 0, step)) for step in range(10**9))
            try:
                with closing(data.batches(endless)) as batches:
                    for number, _ in enumerate(batches):
                        if number == 2:
                            print("running", flush=True)
            except KeyboardInterrupt:
                print("stopped", flush=True)
    """)
    (tmp_path / "endless.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "endless.py"), str(root / "train")], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert out == "stopped\n"
        assert err == ""
        for _ in range(50):
            if not alive(process.pid):
                break
            time.sleep(0.1)
        assert not alive(process.pid)
    finally:
        process.kill()


def test_a_random_crop_moves_from_the_augmentation_to_the_decoder(root, data):
    plain = data.with_crop(None)
    moved, rest = crops_at_decoding(plain, AUGMENTS["imagenet"])
    assert isinstance(moved, StreamedData)
    assert moved.crop == RandomResizedCrop()
    assert rest == Chain((Flip(),))
    assert crops_at_decoding(plain, RandomResizedCrop())[1] is None
    assert crops_at_decoding(plain, Flip()) == (plain, Flip())
    arrays = open_data(root, "train", size=24)
    assert crops_at_decoding(arrays, AUGMENTS["imagenet"]) == (arrays, AUGMENTS["imagenet"])


def test_a_stopped_run_on_streamed_images_ends_like_an_undisturbed_one(data, tmp_path):
    config = TrainConfig(epochs=2, batch_size=8, lr=0.05, progress="off", checkpoint_every_steps=1)

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

    class Fails(StreamedData):
        def batches(self, requests, device="cpu"):
            for number, batch in enumerate(super().batches(requests, device)):
                if number == 4:
                    raise ConnectionError("the disk is gone")
                yield batch

    valid, train = data.subset(slice(0, 8)), data.with_crop(None)
    whole, halved = net(), net()
    loop.fit(whole, config, train, valid, run_dir=tmp_path / "whole", augment=AUGMENTS["imagenet"])
    failing = Fails(**{f: getattr(train, f) for f in train.__dataclass_fields__})
    with pytest.raises(ConnectionError):
        loop.fit(halved, config, failing, valid, run_dir=tmp_path / "halved", augment=AUGMENTS["imagenet"])
    again = net()
    streamed = replace(train, workers=2)
    loop.fit(again, config, streamed, valid, run_dir=tmp_path / "halved", augment=AUGMENTS["imagenet"])
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_shape": (3, 24, 30)}, "not the square"), ({"short": 20}, "at least size"),
        ({"size": None}, "needs a size"), ({"workers": -1}, "at least 0"), ({"labels": np.zeros(3)}, "int64"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(data, changes, message):
    with pytest.raises(DataError, match=message):
        replace(data, **changes)


def test_an_image_of_another_size_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    root = photo_folder(tmp_path / "d", classes=1, each=3)
    data = StreamedData(
        pictures=index_folder(root / "train"), labels=np.zeros(3, np.int64), class_names=("c0",),
        sample_shape=(3, 40, 64), workers=0,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"1\.jpg: 62x43 pixels.*--image-size N"):
        data.batch(np.arange(3))
