"""Kernels are chosen by measurement, and choices outlive a process; no cache can do harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitshift.backends import engine
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph
from bitshift.core.reference import execute
from strategies import Builder

pytestmark = pytest.mark.skipif(engine.available() is not None, reason=str(engine.available()))


def convolution() -> Graph:
    """A layer that direct and Winograd kernels can compute."""
    b = Builder()
    x = b.input((16, 8, 8), FixedPoint(6, 0, False))
    codes = np.random.default_rng(0).integers(0, 8, (16, 16, 3, 3)).astype(np.uint8)
    attrs = {"format": "pot3d", "stride": [1, 1], "padding": [[1, 1], [1, 1]], "dilation": [1, 1], "groups": 1}
    return b.graph([b.node("conv", [x], (16, 8, 8), FixedPoint(8, 0), attrs, {"codes": codes})])


def kernel(graph: Graph, tune: str) -> str:
    """The kernel of the layer; its result is checked beside."""
    executable = engine.compile(graph, threads=1, tune=tune)
    x = np.random.default_rng(1).integers(0, 64, (2, 16, 8, 8)).astype(np.uint8)
    for name, expected in execute(graph, {"v0": x}).items():
        np.testing.assert_array_equal(executable.run_int({"v0": x})[name], expected)
    return next(step.kernel for step in executable.steps if step.op == "conv")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a cache that is empty."""
    if engine.compile(convolution(), tune="off").isa == "portable":
        pytest.skip("this processor has no kernels to choose from")
    monkeypatch.setenv("BITSHIFT_KERNEL_CACHE", str(tmp_path / "deep" / "cache"))
    return tmp_path / "deep" / "cache" / "kernels.txt"


def choices(cache: Path) -> dict[str, str]:
    """What the file says, by layer."""
    header, *lines = cache.read_text().splitlines()
    assert header == "bitshift kernels 1"
    return dict(line.split("\t") for line in lines)


def test_a_measured_choice_is_written(cache: Path) -> None:
    chosen = kernel(convolution(), "auto")
    assert list(choices(cache).values()) == [chosen]


def test_a_stored_choice_is_taken_unless_forced(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel(convolution(), "auto")
    ((layer, chosen),) = choices(cache).items()
    (*_, other) = (
        name
        for name in layer.split(" 1,0,")[-1].split()
        if name in ("direct", "winograd-1d", "winograd-2d") and name != chosen
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kernels.txt").write_text(f"bitshift kernels 1\n{layer}\t{other}\n")
    monkeypatch.setenv("BITSHIFT_KERNEL_CACHE", str(elsewhere))
    assert kernel(convolution(), "auto") == other
    kernel(convolution(), "force")
    assert set(choices(elsewhere / "kernels.txt")) == {layer}


def test_off_neither_reads_nor_writes(cache: Path) -> None:
    kernel(convolution(), "off")
    assert not cache.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff" * 1000,
        b"bitshift kernels 2\nx\ty\n",
        b"bitshift kernels 1\nno tab\n\t\n\n",
        b"bitshift kernels 1",
    ],
)
def test_a_damaged_file_is_as_good_as_none(cache: Path, content: bytes) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    chosen = kernel(convolution(), "auto")
    assert chosen in choices(cache).values()


def test_a_stored_kernel_that_cannot_compute_the_layer_is_not_taken(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel(convolution(), "auto")
    ((layer, chosen),) = choices(cache).items()
    cache.write_text(f"bitshift kernels 1\n{layer}\tdepthwise\n")
    monkeypatch.setenv("BITSHIFT_KERNEL_CACHE", f"{cache.parent}/.")  # another name of the directory: read anew
    assert kernel(convolution(), "auto") in ("direct", "winograd-1d", "winograd-2d"), chosen


def test_a_cache_that_cannot_be_written_is_ignored(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BITSHIFT_KERNEL_CACHE", str(tmp_path / "file" / "below"))
    assert kernel(convolution(), "auto")
    assert (tmp_path / "file").read_text() == ""


def test_no_unfinished_file_is_left(cache: Path) -> None:
    kernel(convolution(), "force")
    assert [path.name for path in cache.parent.iterdir()] == ["kernels.txt"]
