"""Tar shards hold the rows of the folder they were packed from, and say what is wrong with them."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bitshift.train.data import (
    DataError,
    EpochSampler,
    RandomResizedCrop,
    Request,
    ShardWriter,
    StreamedData,
    index_folder,
    index_shards,
    open_data,
    pack_folder,
)
from bitshift.train.data import shards as shards_module
from bitshift.train.data.shards import find_shards
from photo_folder import cut, photo, photo_folder

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    return photo_folder(tmp_path / "photos")


@pytest.fixture
def packed(photos, tmp_path) -> Path:
    done = pack_folder(index_folder(photos / "train"), tmp_path / "shards", "train", shard_bytes=20_000)
    assert done.rows == 24
    assert len(done.shards) > 2
    return tmp_path / "shards"


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    photo(seed).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_give_the_batches_of_the_folder(photos, packed, workers):
    pattern = packed / f"train-{{0000..{len(find_shards(packed, 'train')) - 1:04d}}}.tar"
    sampler = EpochSampler(count=24, batch_size=8, seed=1)
    order = sampler.permutation(0)
    wanted = [Request(rows=sampler.rows(order, step), place=(1, 0, step)) for step in range(3)]
    found = []
    for path, stream in ((photos, True), (packed, None), (pattern, None)):
        data = open_data(path, "train", size=24, stream=stream, workers=workers)
        assert isinstance(data, StreamedData)
        assert data.class_names == ("c0", "c1", "c2")
        with closing(data.with_crop(RandomResizedCrop()).batches(wanted)) as batches:
            found.append(list(batches))
    for other in found[1:]:
        for (images, labels), (expected, classes) in zip(other, found[0], strict=True):
            assert torch.equal(images, expected)
            assert torch.equal(labels, classes)


def test_the_index_is_kept_until_a_shard_changes(packed, monkeypatch):
    shards = find_shards(packed, "train")
    first = index_shards(shards)
    for path in [*shards, packed / "classes.json"]:  # as old as shards usually are
        os.utime(path, (path.stat().st_mtime - 60,) * 2)
    index_shards(shards)
    with monkeypatch.context() as patched:
        patched.setattr(shards_module, "_scan", lambda *_: pytest.fail("read again"))
        kept = index_shards(shards)
    np.testing.assert_array_equal(kept.offsets, first.offsets)
    assert [kept.read(row) for row in range(24)] == [first.read(row) for row in range(24)]
    write_tar(shards[-1], [("new.jpg", jpeg(1)), ("new.cls", b"2")])
    assert index_shards(shards).names[len(index_shards(shards)) - 1] == "new.jpg"


def test_packing_twice_gives_the_same_bytes_and_a_seed_another_order(photos, packed, tmp_path):
    index = index_folder(photos / "train")
    again = pack_folder(index, tmp_path / "again", "train", shard_bytes=20_000)
    assert [p.read_bytes() for p in again.shards] == [p.read_bytes() for p in find_shards(packed, "train")]
    mixed = index_shards(list(pack_folder(index, tmp_path / "mixed", "train", shuffle=3).shards))
    assert sorted(mixed.key(row) for row in range(24)) == sorted(index.key(row) for row in range(24))
    assert mixed.labels.tolist() != index.labels.tolist()
    assert {mixed.key(r): int(mixed.labels[r]) for r in range(24)} == {
        index.key(r): int(index.labels[r]) for r in range(24)
    }


def test_packing_finds_damaged_images(photos, tmp_path):
    cut(photos / "train" / "c1" / "2.jpg")
    index = index_folder(photos / "train")
    with pytest.raises(DataError, match=r"2\.jpg: cannot be decoded"):
        pack_folder(index, tmp_path / "one", "train")
    assert not list((tmp_path / "one").glob("*train*")), "nothing half-written is left"
    with pytest.raises(DataError, match=r"2\.jpg: cannot be decoded"):
        pack_folder(index, tmp_path / "one", "train", shard_bytes=1)
    assert not list((tmp_path / "one").glob("*train*")), "nor whole shards of a part of the images"
    done = pack_folder(index, tmp_path / "two", "train", skip_corrupt=True)
    assert done.rows == 23
    assert "2.jpg: cannot be decoded" in done.left_out[0]


@pytest.mark.parametrize("shuffle", [None, 3])
def test_images_whose_names_differ_in_points_and_suffixes_only_keep_keys_of_their_own(tmp_path, monkeypatch, shuffle):
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    names = ("a.b.png", "a1.png", "a_b.jpg", "a_b.png", "a_b_2.png", "a_b.c.png")
    for number, (kind, name) in enumerate((k, n) for k in ("x", "y") for n in names):
        (tmp_path / "photos" / kind).mkdir(parents=True, exist_ok=True)
        photo(number).save(tmp_path / "photos" / kind / name)
    index = index_folder(tmp_path / "photos")
    pack_folder(index, tmp_path / "shards", "train", shuffle=shuffle, shard_bytes=10_000)
    shards = find_shards(tmp_path / "shards", "train")
    for path in shards:
        with tarfile.open(path) as tar:
            tar.extractall(tmp_path / "unpacked", filter="data")
    assert len(list((tmp_path / "unpacked").rglob("*.cls"))) == 12
    packed = index_shards(shards)
    assert len({packed.key(row) for row in range(12)}) == 12
    assert {packed.read(row): int(packed.labels[row]) for row in range(12)} == {
        index.read(row): int(index.labels[row]) for row in range(12)
    }


def test_a_writer_gives_one_name_in_two_classes_two_keys(tmp_path):
    with ShardWriter(tmp_path, "train", ("cat", "dog")) as writer:
        for label, seed in ((0, 1), (1, 2), (0, 3)):
            writer.add("1", ".jpg", jpeg(seed), label)
    index = index_shards(writer.paths, cache=False)
    assert [index.key(row) for row in range(3)] == ["1", "1_1", "1_2"]
    assert index.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("key", "suffix", "label", "message"),
    [
        ("a", "jpg", 0, "suffix 'jpg'; allowed: .png"),
        ("x/", ".png", 0, "no name"),
        ("a", ".png", 2, "classes are 0..1"),
    ],
)
def test_a_writer_refuses_what_no_reader_would_find(tmp_path, key, suffix, label, message):
    with pytest.raises(DataError, match=message), ShardWriter(tmp_path, "train", ("cat", "dog")) as writer:
        writer.add(key, suffix, jpeg(0), label)


def test_shards_are_there_when_all_of_them_are(photos, tmp_path):
    index = index_folder(photos / "train")
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / ".train-0007.part").write_bytes(b"of a killed process")
    seen = []
    done = pack_folder(
        index, folder, "train", shard_bytes=20_000, progress=lambda _: seen.append(find_shards(folder, "train"))
    )
    assert len(done.shards) > 1
    assert not any(seen)
    assert find_shards(folder, "train") == list(done.shards)
    assert sorted(p.name for p in folder.iterdir()) == ["classes.json", *(p.name for p in done.shards)]


def test_shards_of_others_with_json_and_class_names(tmp_path, monkeypatch):
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    label = {"label": "dog", "width": 56}
    write_tar(
        tmp_path / "val-00.tar",
        [
            ("./a/001.jpg", jpeg(1)), ("./a/001.json", json.dumps(label).encode()), ("./a/001.txt", b"a dog"),
            ("./b/001.cls", b"cat\n"), ("./b/001.jpg", jpeg(2)), ("._b", b"a Mac was here"),
        ],
    )  # fmt: skip
    data = open_data(tmp_path, "test", size=16, workers=0)
    assert data.class_names == ("cat", "dog")
    assert data.labels.tolist() == [1, 0]
    assert data.batch(np.arange(2))[0].shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"x")], r"a\.jpg has no label"),
        ([("a.jpg", b"x"), ("a.json", b"{}")], r"a\.jpg has no label"),
        ([("a.jpg", b"x"), ("a.json", b"{")], r"a\.json is no label"),
        ([("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"0")], "two images of one key"),
        ([("a.txt", b"x")], "no images"),
    ],
)
def test_a_wrong_member_is_named(tmp_path, members, message):
    path = write_tar(tmp_path / "train-0.tar", members)
    with pytest.raises(DataError, match=message):
        index_shards([path], cache=False)


def test_cut_compressed_and_missing_shards_are_named(packed, tmp_path):
    shards = find_shards(packed, "train")
    index = index_shards(shards)
    cut(shards[1], 0.5)
    last = int(np.flatnonzero(index.shard == 1)[-1])
    with pytest.raises(DataError, match=rf"{shards[1].name}: c\d/\d\.jpg: \d+ of \d+ bytes are there"):
        index.read(last)
    with pytest.raises(DataError, match=f"{shards[1].name}: not a whole, uncompressed tar"):
        index_shards(shards)
    packed_gz = write_tar(tmp_path / "train-1.tar", [("a.jpg", jpeg(1)), ("a.cls", b"0")], "w:gz")
    with pytest.raises(DataError, match=r"unpack \.tar\.gz first"):
        index_shards([packed_gz], cache=False)
    with pytest.raises(DataError, match=r"2 of \d+ shards are missing, the first is .*train-0098\.tar"):
        open_data(packed / "train-{0000..0001}.tar".replace("0000..0001", "0098..0099"), "train")


def test_an_index_travels_to_workers_without_its_open_files(packed):
    index = index_shards(find_shards(packed, "train"))
    first = index.read(0)
    assert index._files
    copy = pickle.loads(pickle.dumps(index))
    assert not copy._files
    assert copy.read(0) == first


def test_only_some_shards_are_open_at_a_time(packed, monkeypatch):
    monkeypatch.setattr(shards_module, "_OPEN_FILES", 2)
    index = index_shards(find_shards(packed, "train"))
    for row in range(24):
        index.read(row)
        assert len(index._files) <= 2


def test_a_class_list_that_does_not_fit_is_refused(packed):
    (packed / "classes.json").write_text('["a", "b"]')
    with pytest.raises(DataError, match=r"labels run from 0 to 2; allowed are 0\.\.1, as class_names has 2"):
        open_data(packed, "train", size=16)
    (packed / "classes.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match="must be a JSON list"):
        open_data(packed, "train", size=16)


def test_streamed_shards_are_told_apart(packed, photos):
    one = open_data(packed, "train", size=24)
    folder = open_data(photos, "train", size=24, stream=True)
    assert one.fingerprint() == open_data(packed, "train", size=24).fingerprint()
    assert isinstance(one, StreamedData)
    assert len({one.fingerprint(), replace(one, short=30).fingerprint(), folder.fingerprint()}) == 3
