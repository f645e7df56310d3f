"""The door for people who only deploy: floats and integers in, both out, and errors that say what to do."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bitshift import runtime
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph, GraphError
from bitshift.core.modelfile import ModelFileError, save
from bitshift.runtime import Model, load
from strategies import Builder

S8, U8, S16, F32 = FixedPoint(8, 4), FixedPoint(8, 4, False), FixedPoint(16, 6), Float32()


def doubled(type: FixedPoint = S8, **meta: Any) -> Graph:
    """Y = 2 x, on a finer grid."""
    b = Builder()
    x = b.input((3,), type)
    return b.graph([b.node("add", [x, x], (3,), S16)], meta)


def model(graph: Graph | None = None) -> Model:
    return Model(graph or doubled(), backend="reference")


def test_integers_go_in_unchanged_and_come_out() -> None:
    x = np.array([[1, -2, 127]], np.int8)
    y = model().run_int(x)
    assert y.dtype == np.int16
    assert y.tolist() == [[8, -16, 1016]]


def test_run_returns_values() -> None:
    y = model().run(np.array([[1, -2, 127]], np.int8))
    assert y.dtype == np.float32
    assert y.tolist() == [[0.125, -0.25, 15.875]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_quantised_with_ties_up_and_saturation(dtype: type[np.floating]) -> None:
    x = np.array([[1 / 32, -1 / 32, 100], [np.nan, -np.inf, 0.03]], dtype)
    assert model().run_int(x).tolist() == [[8, 0, 1016], [0, -1024, 0]]


def test_other_layouts_and_byte_orders_are_taken() -> None:
    m = model(doubled(FixedPoint(16, 4)))
    x = np.arange(6, dtype=np.int16).reshape(3, 2).T
    assert np.array_equal(m.run_int(x), m.run_int(np.ascontiguousarray(x)))
    assert np.array_equal(m.run_int(x.astype(">i2")), m.run_int(x))


@pytest.mark.parametrize("dtype", [">i2", ">i4", ">i8", ">u2", "<i8"])
def test_token_ids_may_have_any_width_and_byte_order(dtype: str) -> None:
    assert model(doubled(FixedPoint(16, 0))).run_int(np.array([[1, 2, 300]], dtype)).tolist() == [[128, 256, 32767]]


def test_an_empty_batch_gives_an_empty_batch() -> None:
    assert model().run(np.zeros((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.zeros((1, 3), np.int16), "dtype int16; needed is int8 .*or float32"),
        (np.zeros((1, 3), np.uint8), "dtype uint8"),
        (np.zeros((1, 3), np.int64), "dtype int64"),
        (np.zeros((1, 3), np.float16), "dtype float16"),
        (np.zeros((1, 3), bool), "dtype bool"),
        (np.zeros((1, 3), object), "dtype object"),
        (np.zeros(3, np.float32), r"shape \(3,\); needed is \(N, 3\): add the batch axis with x\[np.newaxis\]"),
        (np.zeros((1, 4), np.float32), r"shape \(1, 4\); needed is \(N, 3\)"),
        (np.zeros((1, 1, 3), np.float32), r"shape \(1, 1, 3\)"),
        ([[1, 2, 3]], "is a list; a numpy array is needed"),
    ],
)
def test_a_wrong_input_says_what_is_needed(x: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        model().run(x)


def test_a_float_network_takes_floats_only() -> None:
    b = Builder()
    y = b.node("clamp", [b.input((2,), F32)], (2,), F32, {"lo": 0, "hi": None})
    m = model(b.graph([y]))
    assert m.run(np.array([[-1.0, 2.0]])).dtype == np.float32
    assert m.run_int(np.array([[-1, 2]], np.float32)).tolist() == [[0, 2]]
    with pytest.raises(ValueError, match=r"dtype int64; needed is float32: use x\.astype"):
        m.run(np.array([[-1, 2]]))


def two_in_two_out() -> Graph:
    b = Builder()
    x, y = b.input((2,), S8), b.input((2,), U8)
    return b.graph([b.node("add", [x, y], (2,), S16), b.node("argmax", [x], (), FixedPoint(32, 0))])


def test_several_inputs_and_outputs_go_by_name() -> None:
    m = model(two_in_two_out())
    outputs = m.run_int({"v0": np.array([[1, 2]], np.int8), "v1": np.array([[3, 4]], np.uint8)})
    assert {name: a.tolist() for name, a in outputs.items()} == {"v2": [[16, 24]], "v3": [1]}
    values = m.run({"v0": np.array([[1, 2]], np.int8), "v1": np.array([[3.0, 0.25]])})
    assert {name: a.tolist() for name, a in values.items()} == {"v2": [[3.0625, 0.375]], "v3": [1.0]}
    with pytest.raises(ValueError, match="has the inputs v0, v1: give a dict"):
        m.run(np.zeros((1, 2), np.int8))
    with pytest.raises(ValueError, match=r"inputs \['v0'\] given"):
        m.run({"v0": np.zeros((1, 2), np.int8)})
    with pytest.raises(ValueError, match=r"inputs \['1', 'v0'\] given; this model takes \['v0', 'v1'\]"):
        m.run({"v0": np.zeros((1, 2), np.int8), 1: np.zeros((1, 2), np.uint8)})


def test_load_reads_a_file_with_labels(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save(doubled(labels=["a", "b", "c"]), path)
    m = load(path, backend="reference")
    assert m.labels == ("a", "b", "c")
    assert m.backend == "reference"
    assert repr(m) == "Model(v0: [3] s8.4, v1: [3] s16.6, backend='reference')"
    assert model().labels is None


def test_load_refuses_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\x89PNG....")
    with pytest.raises(ModelFileError, match=f"{re.escape(str(path))}: .*is this a model file"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing")
    with pytest.raises(ValueError, match="unknown backend 'gpu'"):
        Model(doubled(), backend="gpu")


@pytest.mark.parametrize("memory", [4e9, None, -1, 2**70, True])
def test_a_memory_limit_that_is_no_number_of_bytes_is_refused(memory: Any) -> None:
    with pytest.raises(
        ValueError, match=f"max_activation_bytes={re.escape(repr(memory))}: allowed are integers from 0"
    ):
        Model(doubled(), backend="reference", max_activation_bytes=memory)


def test_options_reach_the_backend() -> None:
    with pytest.raises(GraphError, match="max_activation_bytes"):
        Model(doubled(), backend="reference", max_activation_bytes=1)


def fake_backends(monkeypatch: pytest.MonkeyPatch, reason: str | None, unsupported: list[str]) -> None:
    """An engine that is missing, or cannot run a graph."""
    real = runtime.get_backend

    def engine_or_real(name: str) -> Any:
        if name != "engine":
            return real(name)
        return SimpleNamespace(available=lambda: reason, unsupported=lambda graph: unsupported, compile=None)

    monkeypatch.setattr(runtime, "get_backend", engine_or_real)
    runtime._warn_slow.cache_clear()


def test_without_an_engine_auto_warns_once_and_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_backends(monkeypatch, "it was not built", [])
    with caplog.at_level(logging.WARNING, logger="bitshift"):
        first, second = Model(doubled()), Model(doubled())
    assert (first.backend, second.backend) == ("reference", "reference")
    (record,) = caplog.records
    assert "exact but slow" in record.getMessage()
    assert "it was not built" in record.getMessage()


def test_an_engine_that_lacks_an_op_is_not_chosen_and_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_backends(monkeypatch, None, ["op add"])
    with caplog.at_level(logging.WARNING, logger="bitshift"):
        assert Model(doubled()).backend == "reference"
    assert "op add" in caplog.text
    with pytest.raises(GraphError, match="backend 'engine' cannot run this graph: op add"):
        Model(doubled(), backend="engine")


def test_a_missing_engine_that_is_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_backends(monkeypatch, "it was not built", [])
    with pytest.raises(ValueError, match="backend 'engine' is not available: it was not built"):
        Model(doubled(), backend="engine")


def pictures(channels: int, mean: float = 128.0, scale: float = 1 / 128) -> Model:
    meta = {
        "kind": "image",
        "channels": channels,
        "size": [2, 3],
        "mean": [mean] * channels,
        "scale": [scale] * channels,
    }
    b = Builder()
    x = b.input((channels, 2, 3), FixedPoint(8, 7))
    y = b.node("clamp", [x], (channels, 2, 3), FixedPoint(8, 7), {"lo": None, "hi": None})
    return model(b.graph([y], {"preprocess": meta}))


def test_preprocess_makes_the_networks_input() -> None:
    image = np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3)
    x = pictures(1).preprocess(image)
    assert (x.dtype, x.shape) == (np.float32, (1, 1, 2, 3))
    assert np.array_equal(pictures(1).run_int(x)[0, 0], image.astype(np.int64) - 128)
    assert np.array_equal(pictures(1).preprocess(image[:, :, None]), x)


def test_preprocess_brings_colours_to_the_networks_channels() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    rgb = np.stack([grey, grey + 1, grey + 2], axis=-1)
    assert np.array_equal(pictures(3).preprocess(grey)[0, 2], (grey - 128.0) / 128)
    assert np.array_equal(pictures(3).preprocess(rgb)[0, 1], (grey + 1 - 128.0) / 128)
    assert np.array_equal(pictures(1).preprocess(np.stack([grey] * 3, -1)), pictures(1).preprocess(grey))


def test_preprocess_gives_the_bits_that_training_saw() -> None:
    torch = pytest.importorskip("torch")
    from bitshift.train.data import Normalise

    pixels = np.arange(252, dtype=np.uint8).reshape(42, 2, 3)
    mean, scale = 255 * 0.485, 1 / (255 * 0.229)  # no fraction of a power of two: float64 would round otherwise
    trained = Normalise(mean=(mean,), scale=(scale,))(torch.from_numpy(pixels)[:, None]).numpy()
    deployed = pictures(1, mean, scale)
    assert np.array_equal(np.concatenate([deployed.preprocess(image) for image in pixels]), trained)


def test_grey_is_the_luma_that_pillow_computes() -> None:
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    rgb = np.random.default_rng(0).integers(0, 256, (2, 3, 3)).astype(np.uint8)
    grey = np.asarray(image_module.fromarray(rgb).convert("L"))
    assert np.array_equal(pictures(1).preprocess(rgb), pictures(1).preprocess(grey))


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (np.zeros((2, 3)), "is float64; needed is a uint8 array"),
        ([[1]], "is list"),
        (np.zeros((3, 2), np.uint8), "has 3 x 2 pixels; the network needs 2 x 3"),
        (np.zeros((2, 3, 4), np.uint8), r"shape \(2, 3, 4\)"),
        (np.zeros(6, np.uint8), r"shape \(6,\)"),
    ],
)
def test_a_wrong_picture_says_what_is_needed(image: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        pictures(3).preprocess(image)


def test_a_model_without_preprocess_says_so() -> None:
    with pytest.raises(ValueError, match="holds no preprocessing"):
        model().preprocess(np.zeros((2, 2), np.uint8))
