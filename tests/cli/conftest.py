"""Small model files for the verbs' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitshift.core import modelfile
from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, Node, Value

GREY = {"kind": "image", "channels": 1, "size": [4, 5], "mean": [128.0], "scale": [2.0**-7]}


def linear_graph(*, format: str = "pot3d", mult: np.ndarray | None = None, meta: bool = True) -> Graph:
    """A picture of 4x5 pixels, flattened, and one linear layer with three outputs (s16.7)."""
    generator = np.random.default_rng(1)
    allowed = [c for c in range(1 << FORMATS[format].bits) if c not in FORMATS[format].reserved]
    codes = generator.choice(allowed, (3, 20)).astype(np.uint8)
    values = (
        Value("x", (1, 4, 5), FixedPoint(8, 7)),
        Value("flat", (20,), FixedPoint(8, 7)),
        Value("y", (3,), FixedPoint(16, 7)),
    )
    consts, constants = {"codes": "fc.codes", "offset": "fc.offset"}, {"fc.codes": codes}
    constants["fc.offset"] = np.array([5, -3, 0], dtype=np.int64)
    if mult is not None:
        consts["mult"], constants["fc.mult"] = "fc.mult", mult.astype(np.int32)
    nodes = (
        Node("reshape", ("x",), "flat", {"shape": [20]}),
        Node("linear", ("flat",), "y", {"format": format}, consts, source="head.fc"),
    )
    about = {"labels": ["cat", "dog", "owl"], "preprocess": GREY, "name": "three animals"} if meta else {}
    return Graph(("x",), ("y",), {v.name: v for v in values}, nodes, constants, about)


@pytest.fixture
def small_graph() -> Callable[..., Graph]:
    """Maker of small graphs: :func:`linear_graph`."""
    return linear_graph


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A multiplication-free model of pictures with labels."""
    path = tmp_path / "net.safetensors"
    modelfile.save(linear_graph(), path)
    return path
