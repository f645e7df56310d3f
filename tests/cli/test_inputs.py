"""Arrays and pictures become a checked batch, or a message that names the file and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitshift.cli.errors import CliError
from bitshift.cli.inputs import prepare, read_input
from bitshift.core.fixed import FixedPoint, Float32, ValueType
from bitshift.core.graph import Graph, Node, Value
from bitshift.runtime import Model

GREY: dict[str, Any] = {"kind": "image", "channels": 1, "size": [4, 5], "mean": [128.0], "scale": [2.0**-7]}
RGB: dict[str, Any] = {
    "kind": "image",
    "channels": 3,
    "size": [4, 5],
    "mean": [1.0, 2.0, 3.0],
    "scale": [0.5, 0.25, 1.0],
}


def model(shape: tuple[int, ...], type: ValueType, preprocess: dict[str, Any] | None) -> Model:
    """A graph that only flattens its input."""
    x, y = Value("x", shape, type), Value("y", (int(np.prod(shape)),), type)
    node = Node("reshape", ("x",), "y", {"shape": list(y.shape)})
    meta = {} if preprocess is None else {"preprocess": preprocess}
    return Model(Graph(("x",), ("y",), {"x": x, "y": y}, (node,), {}, meta), backend="reference")


PLAIN_MODEL = model((1, 4, 5), FixedPoint(8, 7), None)
GREY_MODEL = model((1, 4, 5), FixedPoint(8, 7), GREY)
RGB_MODEL = model((3, 4, 5), Float32(), RGB)


def apply(pixels: np.ndarray, preprocess: dict[str, Any]) -> np.ndarray:
    """The definition in docs/model-file.md, section 5, for pixels (N, C, H, W)."""
    mean, scale = (np.array(preprocess[k])[:, None, None] for k in ("mean", "scale"))
    return ((pixels - mean) * scale).astype(np.float32)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def test_one_sample_gets_a_batch_axis_and_a_batch_stays(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 1, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(read_input(save(tmp_path / "b.npy", x), PLAIN_MODEL, "x"), x)
    np.testing.assert_array_equal(read_input(save(tmp_path / "a.npy", x[0]), PLAIN_MODEL, "x"), x[:1])


def test_integers_of_the_inputs_type_pass_unchanged(tmp_path: Path) -> None:
    q = np.arange(-10, 10, dtype=np.int8).reshape(1, 1, 4, 5)
    got = read_input(save(tmp_path / "q.npy", q), GREY_MODEL, "x")
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got, q)


def test_raw_pixels_go_through_the_preprocess_only_when_asked(tmp_path: Path) -> None:
    pixels = random_pixels(2, 1, 4, 5)
    path = save(tmp_path / "p.npy", pixels)
    want = ((pixels.astype(np.float64) - 128) / 128).astype(np.float32)
    np.testing.assert_array_equal(read_input(path, GREY_MODEL, "x", pixels=True), want)
    with pytest.raises(CliError, match=r"dtype uint8; allowed: int8 .* add --pixels"):
        read_input(path, GREY_MODEL, "x")


def test_a_batch_of_pixels_is_prepared_picture_by_picture() -> None:
    pixels = random_pixels(3, 3, 4, 5)
    np.testing.assert_array_equal(prepare(RGB_MODEL, pixels), apply(pixels, RGB))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_is_read_with_the_files_preprocess(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(random_pixels(4, 5)).save(path)
    stored = np.asarray(Image.open(path))
    np.testing.assert_array_equal(read_input(path, GREY_MODEL, "x"), apply(stored[None, None], GREY))


def test_colour_keeps_the_order_red_green_blue(tmp_path: Path) -> None:
    pixels = random_pixels(4, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "c.png")
    got = read_input(tmp_path / "c.png", RGB_MODEL, "x")
    np.testing.assert_array_equal(got, apply(np.moveaxis(pixels, -1, 0)[None], RGB))


def test_a_picture_of_another_size_is_resized(tmp_path: Path) -> None:
    Image.new("L", (50, 40), 77).save(tmp_path / "big.png")
    got = read_input(tmp_path / "big.png", GREY_MODEL, "x")
    np.testing.assert_array_equal(got, np.full((1, 1, 4, 5), (77 - 128) / 128, dtype=np.float32))


def test_a_grey_picture_stored_as_colour_fits_a_grey_model(tmp_path: Path) -> None:
    pixels = random_pixels(4, 5)
    Image.fromarray(np.stack([pixels] * 3, axis=-1)).save(tmp_path / "g.png")
    np.testing.assert_array_equal(read_input(tmp_path / "g.png", GREY_MODEL, "x"), apply(pixels[None, None], GREY))


def test_a_colour_picture_is_made_grey_by_its_luma_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(random_pixels(4, 5, 3)).save(tmp_path / "c.png")
    luma = np.asarray(Image.open(tmp_path / "c.png").convert("L"))
    with caplog.at_level("INFO", logger="bitshift"):
        got = read_input(tmp_path / "c.png", GREY_MODEL, "x")
    np.testing.assert_array_equal(got, apply(luma[None, None], GREY))
    assert "made grey" in caplog.text


def test_pixels_of_another_channel_count_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "p.npy", random_pixels(2, 3, 4, 5))
    with pytest.raises(CliError, match=r"shape \(2, 3, 4, 5\); the input 'x' needs \(1, 4, 5\)"):
        read_input(path, GREY_MODEL, "x", pixels=True)


def test_a_grey_picture_fits_a_colour_model(tmp_path: Path) -> None:
    pixels = random_pixels(4, 5)
    Image.fromarray(pixels).save(tmp_path / "g.png")
    np.testing.assert_array_equal(
        read_input(tmp_path / "g.png", RGB_MODEL, "x"), apply(np.stack([pixels] * 3)[None], RGB)
    )


def test_a_palette_picture_is_read_by_its_colours(tmp_path: Path) -> None:
    pixels = np.zeros((4, 5, 3), dtype=np.uint8)
    pixels[:2] = (255, 0, 0)
    Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    got = read_input(tmp_path / "p.png", RGB_MODEL, "x")
    np.testing.assert_array_equal(got, apply(np.moveaxis(pixels, -1, 0)[None], RGB))


BAD_ARRAYS = {
    "wrong shape": (np.zeros((1, 4, 6), np.float32), r"shape \(1, 4, 6\); the input 'x' needs \(1, 4, 5\)"),
    "channels last": (np.zeros((2, 4, 5, 1), np.float32), "channels-last"),
    "no channel axis": (np.zeros((7, 4, 5), np.float32), "channel axis is missing"),
    "wrong dtype": (np.zeros((1, 4, 5), np.int64), "dtype int64; allowed: int8"),
    "bool": (np.zeros((1, 4, 5), np.bool_), "dtype bool"),
    "complex": (np.zeros((1, 4, 5), np.complex64), "dtype complex64"),
    "not a number": (np.full((1, 4, 5), np.nan, np.float32), "NaN or infinity"),
    "empty batch": (np.zeros((0, 1, 4, 5), np.float32), "no samples"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_a_bad_array_is_refused_with_the_files_name(case: str, tmp_path: Path) -> None:
    array, message = BAD_ARRAYS[case]
    path = save(tmp_path / "bad.npy", array)
    with pytest.raises(CliError, match=message) as caught:
        read_input(path, PLAIN_MODEL, "x")
    assert str(path) in str(caught.value)


def test_floats_beyond_float32_are_refused_for_a_float_input_and_saturate_for_another(tmp_path: Path) -> None:
    path = save(tmp_path / "big.npy", np.full((1, 4, 5), -1e300))
    with pytest.raises(CliError, match=r"holds -1e\+300; the input's float32 goes to 3\.4028"):
        read_input(path, model((1, 4, 5), Float32(), None), "x")
    assert PLAIN_MODEL.run_int(read_input(path, PLAIN_MODEL, "x")).max() == -128


def test_integers_outside_a_narrow_type_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "q.npy", np.full((1, 4, 5), 9, np.int8))
    with pytest.raises(CliError, match=r"integers 9 to 9; the input's type s4.3 holds -8 to 7"):
        read_input(path, model((1, 4, 5), FixedPoint(4, 3), None), "x")


def test_an_array_of_objects_is_refused_unread(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CliError, match=r"not a readable \.npy array"):
        read_input(tmp_path / "o.npy", PLAIN_MODEL, "x")


def write_text(path: Path) -> None:
    path.write_text("hello")


def write_cut_png(path: Path) -> None:
    Image.fromarray(random_pixels(60, 60)).save(path)
    path.write_bytes(path.read_bytes()[:900])


BAD_FILES = {
    "text as npy": ("t.npy", write_text, "not a readable .npy"),
    "empty npy": ("e.npy", Path.touch, "not a readable .npy"),
    "text as png": ("t.png", write_text, "not a picture"),
    "cut png": ("c.png", write_cut_png, "damaged picture"),
    "transparent": ("a.png", lambda p: Image.new("RGBA", (5, 4), (1, 2, 3, 9)).save(p), "transparent pixels"),
    "16 bit": ("w.png", lambda p: Image.fromarray(np.zeros((4, 5), np.uint16)).save(p), "picture of mode 'I;16'"),
    "unknown kind": ("x.txt", write_text, "unknown kind of input '.txt'"),
    "directory": ("d", Path.mkdir, "is a directory"),
    "missing": ("nope.npy", lambda p: None, "no such file"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_by_name(case: str, tmp_path: Path) -> None:
    name, make, message = BAD_FILES[case]
    path = tmp_path / name
    make(path)
    with pytest.raises(CliError, match=message) as caught:
        read_input(path, GREY_MODEL, "x")
    assert str(path) in str(caught.value)


def test_a_picture_without_a_preprocess_is_refused(tmp_path: Path) -> None:
    Image.new("L", (5, 4)).save(tmp_path / "a.png")
    with pytest.raises(CliError, match="no meta 'preprocess'"):
        read_input(tmp_path / "a.png", PLAIN_MODEL, "x")
