"""Run an exported model: numpy in, numpy out. The door for people who only deploy; needs no PyTorch."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from bitshift.backends import BACKENDS, Executable, get_backend
from bitshift.core import modelfile
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph, GraphError, Value
from bitshift.core.ops.dequantize import dequantize
from bitshift.core.ops.quantize import quantize

_log = logging.getLogger("bitshift")

Arrays = np.ndarray | Mapping[str, np.ndarray]


class Model:
    """A graph and the backend that runs it.

    Inputs are batches (N, *shape). A fixed-point input takes its own integer dtype unchanged, or float32/float64
    values, which are quantised by the rule of the op ``quantize``. One array stands for the only input or output of
    a graph; where there are several, they are given and returned by name.
    """

    graph: Graph
    backend: str
    """Name of the backend that runs the graph."""

    def __init__(self, graph: Graph, *, backend: str = "auto", **options: Any) -> None:
        """Compile ``graph``; ``options`` go to the backend.

        Raises:
            ValueError: an unknown backend, or one that cannot run here or cannot run this graph (the message says why).
        """
        self.graph = graph
        self.backend = _choose(graph) if backend == "auto" else backend
        self._executable = _compile(graph, self.backend, options)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, if the file holds them."""
        labels = self.graph.meta.get("labels")
        return None if labels is None else tuple(labels)

    def run(self, x: Arrays) -> Any:
        """Outputs as float32 values, ``q * 2**-frac``: an array, or arrays by name if the graph has several outputs.

        Raises:
            ValueError: a wrong dtype, shape or name of an input; says what is needed.
        """
        integers = self._execute(x)
        return self._shaped({name: _value(array, self.graph.values[name]) for name, array in integers.items()})

    def run_int(self, x: Arrays) -> Any:
        """Like :meth:`run`, but the integers that the graph computes (float32 where it ends in floats)."""
        return self._shaped(self._execute(x))

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """One picture, uint8 of shape (H, W) or (H, W, C), as the network's input: float32 of shape (1, C, H, W).

        Computes ``(pixel - mean) * scale`` in float32, as training does, with the numbers of the file. Grey becomes RGB
        by repetition; RGB becomes grey by the luma of ITU-R 601 (as Pillow's ``convert("L")``).

        Raises:
            ValueError: the file holds no preprocessing, or the picture has another dtype, size or number of channels.
        """
        found = self.graph.meta.get("preprocess")
        if found is None:
            raise ValueError("this model file holds no preprocessing; give run() the network's own input values")
        pixels = _channels_first(image, found["channels"])
        if pixels.shape[1:] != tuple(found["size"]):
            height, width = found["size"]
            raise ValueError(
                f"the picture has {pixels.shape[1]} x {pixels.shape[2]} pixels; "
                f"the network needs {height} x {width} (height x width): resize it first"
            )
        mean, scale = (np.array(found[key], dtype=np.float32)[:, None, None] for key in ("mean", "scale"))
        return ((pixels.astype(np.float32) - mean) * scale)[None]

    def __repr__(self) -> str:
        ends = (f"{n}: {list(self.graph.values[n].shape)} {self.graph.values[n].type}" for n in self._ends())
        return f"Model({', '.join(ends)}, backend={self.backend!r})"

    def _ends(self) -> tuple[str, ...]:
        return (*self.graph.inputs, *self.graph.outputs)

    def _execute(self, x: Arrays) -> dict[str, np.ndarray]:
        given = x if isinstance(x, Mapping) else {self._only_input(): x}
        unknown = sorted(set(given) ^ set(self.graph.inputs))
        if unknown:
            raise ValueError(f"inputs {sorted(given)} given; this model takes {sorted(self.graph.inputs)}")
        return self._executable.run_int({name: _border(given[name], self.graph.values[name]) for name in given})

    def _only_input(self) -> str:
        if len(self.graph.inputs) != 1:
            raise ValueError(f"this model has the inputs {', '.join(self.graph.inputs)}: give a dict of arrays by name")
        return self.graph.inputs[0]

    def _shaped(self, outputs: dict[str, np.ndarray]) -> Any:
        return outputs[self.graph.outputs[0]] if len(self.graph.outputs) == 1 else outputs


def load(path: str | os.PathLike[str], *, backend: str = "auto", **options: Any) -> Model:
    """The model in the file ``path``, ready to run.

    ``backend`` is ``engine`` (compiled), ``reference`` (numpy) or ``auto``: the engine if it was built, else the
    reference with one warning in the log.

    Raises:
        OSError: the file cannot be read.
        ModelFileError: it is not a valid model file.
        GraphError: its bounds or limits are exceeded.
        ValueError: the backend does not exist, is not available, or cannot run this graph.
    """
    return Model(modelfile.load(path), backend=backend, **options)


def _compile(graph: Graph, backend: str, options: Mapping[str, Any]) -> Executable:
    module = get_backend(backend)
    reason = module.available()
    if reason is not None:
        raise ValueError(f"backend {backend!r} is not available: {reason}")
    missing = module.unsupported(graph)
    if missing:
        raise GraphError(f"backend {backend!r} cannot run this graph: {'; '.join(missing)}")
    return module.compile(graph, **options)


def _choose(graph: Graph) -> str:
    engine = get_backend("engine")
    reason = engine.available() or "; ".join(engine.unsupported(graph))
    if not reason:
        return "engine"
    _warn_slow(reason)
    return "reference"


@cache
def _warn_slow(reason: str) -> None:
    """Once a process: the fall-back is exact, and far slower."""
    _log.warning(
        "running on the numpy reference, which is exact but slow, because the engine cannot be used: %s", reason
    )


def _border(array: Any, value: Value) -> np.ndarray:
    """``array`` in the dtype of ``value``, quantised if it holds floats for a fixed-point input; refuses all else."""
    if not isinstance(array, np.ndarray):
        raise ValueError(f"input {value.name!r} is a {type(array).__name__}; a numpy array is needed: use np.asarray")
    if array.shape[1:] != value.shape or array.ndim != len(value.shape) + 1:
        hint = ": add the batch axis with x[np.newaxis]" if array.shape == value.shape else ""
        wanted = ", ".join(map(str, ("N", *value.shape)))
        raise ValueError(f"input {value.name!r} has shape {array.shape}; needed is ({wanted}){hint}")
    dtype = array.dtype.newbyteorder("=")
    if dtype == value.type.dtype:
        return np.ascontiguousarray(array, dtype=dtype)
    floats = dtype in (np.dtype(np.float32), np.dtype(np.float64))
    if isinstance(value.type, FixedPoint) and floats:
        return quantize(array, value.type)
    if isinstance(value.type, Float32) and floats:
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    if isinstance(value.type, Float32):
        raise ValueError(f"input {value.name!r} has dtype {array.dtype}; needed is float32: use x.astype(np.float32)")
    raise ValueError(
        f"input {value.name!r} has dtype {array.dtype}; needed is {value.type.dtype} (integers q that stand for "
        f"q * 2**{-value.type.frac}) or float32 (values, which are quantised): convert it to the one you mean"
    )


def _value(array: np.ndarray, value: Value) -> np.ndarray:
    return dequantize(array, value.type) if isinstance(value.type, FixedPoint) else array


def _channels_first(image: np.ndarray, channels: int) -> np.ndarray:
    """(C, H, W) uint8 with ``channels`` channels, from (H, W) or (H, W, C)."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"the picture is {found}; needed is a uint8 array with pixels 0 to 255")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"the picture has shape {image.shape}; needed is (H, W), (H, W, 1) or (H, W, 3)")
    planes = image.transpose(2, 0, 1)
    if len(planes) == channels:
        return planes
    if channels == 3:
        return np.repeat(planes, 3, axis=0)
    red, green, blue = planes.astype(np.uint32)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16)[None]


__all__ = ["BACKENDS", "Model", "load"]
