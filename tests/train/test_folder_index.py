"""What a folder holds, whether the index of it is still true, and how it is opened."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitshift.train.data import (
    IMAGENET_NORMALISE,
    ArrayData,
    DataError,
    Normalise,
    StreamedData,
    eval_short,
    index_folder,
    open_data,
    opening,
)
from bitshift.train.data import index as index_module
from bitshift.train.data.decode import decode, measure
from photo_folder import age, photo, photo_folder


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    return photo_folder(tmp_path / "photos", classes=2, each=3) / "train"


def names(root: Path) -> list[str]:
    index = index_folder(root)
    return [index.names[row] for row in range(len(index))]


ALL = ["c0/0.jpg", "c0/1.jpg", "c0/2.jpg", "c1/0.jpg", "c1/1.jpg", "c1/2.jpg"]


def test_an_unchanged_folder_is_not_listed_again(root, monkeypatch):
    assert names(root) == ALL
    monkeypatch.setattr(index_module, "_from_classes", lambda *_: pytest.fail("listed again"))
    assert names(root) == ALL
    assert index_folder(root).labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert index_folder(root).class_names == ("c0", "c1")


def test_added_removed_and_renamed_images_and_classes_are_seen(root):
    assert names(root) == ALL
    photo(1).save(root / "c1" / "0a.png")
    assert names(root) == [*ALL[:4], "c1/0a.png", *ALL[4:]]
    (root / "c0" / "1.jpg").rename(root / "c0" / "9.jpg")
    assert "c0/9.jpg" in names(root)
    (root / "c1" / "0a.png").unlink()
    assert "c1/0a.png" not in names(root)
    (root / "b").mkdir()
    photo(2).save(root / "b" / "1.jpg")
    assert index_folder(root).class_names == ("b", "c0", "c1")


def test_a_change_within_the_clock_s_step_is_seen(root):
    age(root / "c0", seconds=-1)  # as new as the index will be
    assert names(root) == ALL
    photo(1).save(root / "c0" / "a.jpg")
    age(root / "c0", seconds=0)
    assert "c0/a.jpg" in names(root)


def test_a_damaged_cache_is_made_again_with_a_warning(root, caplog):
    names(root)
    (cached,) = (root.parents[1] / "cache").glob("index-*.npz")
    cached.write_bytes(cached.read_bytes()[:200])
    with caplog.at_level(logging.WARNING, logger="bitshift"):
        assert names(root) == ALL
    assert "made again" in caplog.text


def flat(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        photo(i).save(folder / f"val_{i}.JPEG")


def test_tiny_imagenet_s_layout(tmp_path, monkeypatch):
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    for name in ("n01443537", "n01629819"):
        folder = tmp_path / "tiny" / "train" / name / "images"
        folder.mkdir(parents=True)
        photo(1, height=64, width=64).save(folder / f"{name}_0.JPEG")
    flat(tmp_path / "tiny" / "val" / "images", 3)
    flat(tmp_path / "tiny" / "test" / "images", 2)  # comes without classes
    rows = [("val_0.JPEG", "n01629819"), ("val_1.JPEG", "n01443537"), ("val_2.JPEG", "n01629819")]
    text = "".join(f"{name}\t{label}\t0\t32\t44\t62\n" for name, label in rows)
    (tmp_path / "tiny" / "val" / "val_annotations.txt").write_text(text)
    train, test = open_data(tmp_path / "tiny", "train", size=64), open_data(tmp_path / "tiny", "test", size=64)
    assert train.class_names == test.class_names == ("n01443537", "n01629819")
    assert test.labels.tolist() == [0, 1, 1]
    index = index_folder(tmp_path / "tiny" / "val")
    assert [index.names[row] for row in range(3)] == ["images/val_1.JPEG", "images/val_0.JPEG", "images/val_2.JPEG"]
    assert train.normalise == test.normalise == IMAGENET_NORMALISE


def test_imagenet_s_own_layout_with_kaggle_s_table(tmp_path, monkeypatch):
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    flat(root / "val", 2)
    flat(root / "test", 2)  # ImageNet's test images come without classes
    for name in ("n1", "n2"):
        (root / "train" / name).mkdir(parents=True)
        photo(1).save(root / "train" / name / "a.JPEG")
    table = "ImageId,PredictionString\nval_1,n1 85 1 499 272 n1 3 4 5 6\nval_0,n2 0 0 1 1\n"
    (tmp_path / "LOC_val_solution.csv").write_text(table)
    # the table says nothing of test/
    (root / "test" / "val_0.JPEG").rename(root / "test" / "test_0.JPEG")
    (root / "test" / "val_1.JPEG").unlink()
    data = open_data(root, "test", size=16)
    assert data.class_names == ("n1", "n2")
    assert data.labels.tolist() == [0, 1]


def test_a_list_of_numbers_takes_its_classes_from_the_training_folders(root):
    flat(root.parent / "val", 2)
    (root.parent / "val" / "val.txt").write_text("val_0.JPEG 1\nval_1.JPEG 0\n")
    data = open_data(root.parent, "test", size=16)
    assert data.class_names == ("c0", "c1")
    assert data.labels.tolist() == [0, 1]
    (root.parent / "val" / "val.txt").write_text("val_0.JPEG 1\nval_1.JPEG 2\n")
    with pytest.raises(DataError, match=r"labels run from 1 to 2; allowed are 0\.\.1, as class_names has 2"):
        open_data(root.parent, "test", size=16)


def test_renamed_training_folders_rename_the_classes_of_a_list_of_numbers(root):
    val = root.parent / "val"
    flat(val, 2)
    (val / "val.txt").write_text("val_0.JPEG 1\nval_1.JPEG 0\n")
    for path in (root, *sorted(val.rglob("*")), val):
        age(path)
    assert index_folder(val).class_names == ("c0", "c1")
    (root / "c0").rename(root / "c9")
    assert index_folder(val).class_names == ("c1", "c9")


def test_large_folders_are_streamed_and_a_flag_decides_otherwise(root, monkeypatch):
    where = root.parent
    assert isinstance(open_data(where, "train", size=16), ArrayData)
    assert isinstance(open_data(where, "train", size=16, stream=True), StreamedData)
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 6 * 3 * 16 * 16 - 1)
    data = open_data(where, "train", size=16)
    assert isinstance(data, StreamedData)
    assert data.normalise == Normalise()
    assert isinstance(open_data(where, "train", size=16, stream=False), ArrayData)
    assert isinstance(open_data(where, "train", size=15), ArrayData)
    assert open_data(where, "train").sample_shape == (3, 224, 224), "photos of several sizes"


def test_the_short_side_of_the_papers():
    assert eval_short(224) == 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "at least 1"), ({"short": 5}, "at least size"), ({"size": 9, "short": 5}, "at least size"),
        ({"split": "test", "skip_corrupt": True}, "training rows"), ({"channels": 2}, "channels 2: allowed is 1 or 3"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(root, arguments, message):
    with pytest.raises(DataError, match=message):
        open_data(root.parent, **arguments)


# --- one picture


def encoded(picture: Image.Image, path: Path, **options) -> bytes:
    picture.save(path, **options)
    return path.read_bytes()


def test_the_centre_is_that_of_the_scaled_picture(tmp_path):
    picture = photo(3, height=50, width=90)
    got = decode(encoded(picture, tmp_path / "a.png"), "a", channels=3, size=24, short=30)
    scaled = picture.resize((54, 30), Image.Resampling.BILINEAR).crop((15, 3, 39, 27))
    np.testing.assert_array_equal(got, np.asarray(scaled).transpose(2, 0, 1))


def test_a_window_is_cut_out_and_then_scaled(tmp_path):
    picture = photo(3, height=50, width=90)
    got = decode(
        encoded(picture, tmp_path / "a.png"), "a", channels=3, size=24, window=lambda h, w: (h - 45, w - 60, 40, 50)
    )
    wanted = picture.crop((30, 5, 80, 45)).resize((24, 24), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got, np.asarray(wanted).transpose(2, 0, 1))


def test_a_large_jpeg_is_decoded_at_a_fraction_nearly_as_if_whole(tmp_path):
    picture = photo(3, height=640, width=960)
    data = encoded(picture, tmp_path / "a.jpg", quality=95)
    whole = encoded(Image.open(tmp_path / "a.jpg"), tmp_path / "a.png")
    for short, window in ((40, None), (None, lambda h, w: (h // 8, w // 8, h // 2, w // 2))):
        got = decode(data, "a", channels=3, size=32, short=short, window=window).astype(int)
        exact = decode(whole, "a", channels=3, size=32, short=short, window=window).astype(int)
        assert np.abs(got - exact).mean() < 0.5


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3), ("P", 3), ("CMYK", 3), ("1", 1)])
def test_every_usual_kind_of_pixel_is_read(tmp_path, mode, channels):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    data = encoded(photo(1).convert(mode), path)
    assert decode(data, "a", channels=None).shape == (channels, 40, 56)
    assert decode(data, "a", channels=3).shape == (3, 40, 56)


@pytest.mark.parametrize("mode", ["P", "LA", "PA"])
def test_greys_in_a_palette_or_with_transparency_are_one_channel(tmp_path, mode):
    picture = photo(1).convert("L")
    path = tmp_path / ("a.tiff" if mode == "PA" else "a.png")
    data = encoded(picture.convert("P" if mode == "P" else "LA").convert(mode), path)
    assert measure(data, "a") == (1, 40, 56)
    np.testing.assert_array_equal(decode(data, "a", channels=None)[0], np.asarray(picture))
    np.testing.assert_array_equal(decode(data, "a", channels=3)[2], np.asarray(picture))


@pytest.mark.parametrize("size", [None, 8])
def test_a_palette_with_transparent_entries_gives_its_colours(tmp_path, size):  # PIL warns of it
    picture = photo(1).convert("P")
    data = encoded(picture, tmp_path / "a.png", transparency=bytes(range(256)))
    plain = encoded(picture, tmp_path / "b.png")
    np.testing.assert_array_equal(decode(data, "a", channels=3, size=size), decode(plain, "b", channels=3, size=size))


def test_sixteen_bits_are_refused(tmp_path):
    data = encoded(Image.fromarray(np.full((4, 4), 40_000, np.uint16)), tmp_path / "deep.png")
    for read in (measure, partial(decode, channels=None)):
        with pytest.raises(DataError, match=r"deep\.png: its pixels have mode I;16, more than 8 bits"):
            read(data, "deep.png")


def mixture(root: Path, *, colour: int, count: int = 200) -> Path:
    """Grey pictures, and one in colour where :func:`look` with 64 of 200 does not see it."""
    grey = photo(1).convert("L").resize((4, 4))
    (root / "train" / "x").mkdir(parents=True)
    for row in range(count):
        (photo(2).resize((4, 4)) if row == colour else grey).save(root / "train" / "x" / f"{row:03}.png")
    return root


def test_one_picture_in_colour_makes_a_folder_in_memory_a_colour_one(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO)
    root = mixture(tmp_path / "mixed", colour=1)
    assert open_data(root, "train").sample_shape == (3, 4, 4)
    assert "199 of 200 images that were looked at are grey" in caplog.text
    assert open_data(root, "train", channels=1).sample_shape == (1, 4, 4)


def test_a_picture_in_colour_among_streamed_grey_ones_stops_with_the_choice(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO)
    root = mixture(tmp_path / "mixed", colour=1)
    rows = np.arange(3)
    with pytest.raises(DataError, match=r"001\.png: in colour.*channels=3 \(--channels 3\), or channels=1"):
        open_data(root, "train", stream=True).batch(rows)
    assert caplog.text == ""
    assert open_data(root, "train", stream=True, channels=1).batch(rows)[0].shape == (3, 1, 4, 4)
    assert open_data(root, "train", stream=True, channels=3).batch(rows)[0].shape == (3, 3, 4, 4)
    (root / "train" / "x" / "000.png").write_bytes((root / "train" / "x" / "001.png").read_bytes())  # looked at
    assert open_data(root, "train", stream=True).batch(rows)[0].shape == (3, 3, 4, 4)
    assert "63 of 64 images that were looked at are grey" in caplog.text


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp"])
def test_no_damage_of_a_file_leaves_as_anything_but_a_data_error(tmp_path, kind):
    whole = encoded(photo(1), tmp_path / f"a.{kind}")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole[: rng.integers(0, len(whole))] if rng.random() < 0.5 else whole)
        for _ in range(int(rng.integers(1, 6))):
            if damaged:
                damaged[rng.integers(0, len(damaged))] = rng.integers(0, 256)
        try:
            decode(bytes(damaged), "a", channels=3, size=16)
        except DataError as error:
            refused += 1
            assert str(error).startswith("a: cannot be decoded")  # noqa: PT017
    assert refused > 5


def test_numbers_are_names_where_the_training_folders_are_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    for name in range(1, 13):
        (tmp_path / "data" / "train" / str(name)).mkdir(parents=True)
        photo(name).save(tmp_path / "data" / "train" / str(name) / "a.jpg")
    val = tmp_path / "data" / "val"
    flat(val, 12)
    (val / "val.txt").write_text("".join(f"val_{i}.JPEG {i + 1}\n" for i in range(12)))
    data = open_data(tmp_path / "data", "test")
    index = index_folder(val)
    assert data.class_names == ("1", "10", "11", "12", *map(str, range(2, 10)))
    given = {index.names[row]: data.class_names[label] for row, label in enumerate(data.labels)}
    assert given == {f"val_{i}.JPEG": str(i + 1) for i in range(12)}
    (val / "val.txt").write_text("".join(f"val_{i}.JPEG {i}\n" for i in range(12)))
    with pytest.raises(DataError, match=r"class '0' is no folder of .*train, whose names are numbers, too: 1, 10, 11"):
        index_folder(val)
