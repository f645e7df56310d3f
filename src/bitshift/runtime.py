"""Run an exported model: numpy in, numpy out. The door for people who only deploy; needs no PyTorch."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bitshift.backends import BACKENDS, Executable, engine, get_backend
from bitshift.backends.profiling import Profile, Step
from bitshift.core import modelfile
from bitshift.core.container import ModelFileError
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph, GraphError, Value
from bitshift.core.ops.dequantize import dequantize
from bitshift.core.ops.quantize import quantize

_log = logging.getLogger("bitshift")

Arrays = Any
"""One array, or arrays by name."""
_SPEED = ("threads", "isa", "tune")
"""Options that say how the engine computes, never what: other backends ignore them."""
_INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")
"""Dtypes that token ids may have."""
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Model:
    """A graph and the backend that runs it.

    Inputs are batches (N, *shape). A fixed-point input takes its own integer dtype unchanged, or float32/float64
    values, which are quantised by the rule of the op ``quantize``; token ids (an input with frac 0 of more than 8
    bits) may have any width of integers. One array stands for the only input or output of
    a graph; where there are several, they are given and returned by name.

    Arrays are numpy's, or objects that lend their memory by ``__dlpack__`` (torch tensors on the CPU). The engine
    reads contiguous ones where they lie. ``out`` are arrays that a run writes its outputs to, of the shapes and dtypes
    that it would else allocate; they are what it returns then. They share no memory with inputs or with each other: a
    large batch runs in chunks, and the outputs of one would overwrite the inputs of the next.
    """

    backend: str
    """Name of the backend that runs the graph."""
    inputs: tuple[Value, ...]
    """Name, shape of a sample and type of each input."""
    outputs: tuple[Value, ...]

    def __init__(self, graph: Graph, *, backend: str = "auto", **options: Any) -> None:
        """Compile ``graph``; ``options`` go to the backend.

        Raises:
            ValueError: an unknown backend, or one that cannot run here or cannot run this graph (the message says why).
        """
        self.backend = _choose(graph) if backend == "auto" else backend
        self._executable = _compile(graph, self.backend, options)
        self._file: _File | None = None
        self._graph: Graph | None = graph
        self._describe(graph.meta, *(tuple(graph.values[n] for n in names) for names in (graph.inputs, graph.outputs)))

    @classmethod
    def _open(cls, path: str | os.PathLike[str], options: Mapping[str, Any]) -> Model:
        """The engine reads the file itself; nothing of it is decoded in Python."""
        self = cls.__new__(cls)
        file = _File(path)
        self._executable = engine.load(path, **options)
        self.backend, self._file, self._graph = engine.NAME, file, None
        self._describe(file.meta(), self._executable.inputs, self._executable.outputs)
        return self

    def _describe(self, meta: Mapping[str, Any], inputs: tuple[Value, ...], outputs: tuple[Value, ...]) -> None:
        self._meta, self.inputs, self.outputs = meta, inputs, outputs

    @property
    def graph(self) -> Graph:
        """The graph; after :func:`load` with the engine it is read from the file when it is first asked for.

        Raises:
            ModelFileError: the file has changed since.
            OSError: the file is gone.
        """
        if self._graph is None:
            assert self._file is not None
            self._graph = self._file.graph()
        return self._graph

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, if the file holds them."""
        labels = self._meta.get("labels")
        return None if labels is None else tuple(labels)

    def run(self, x: Arrays, *, out: Arrays | None = None) -> Any:
        """Outputs as float32 values, ``q * 2**-frac``: an array, or arrays by name if the graph has several outputs.

        Raises:
            ValueError: a wrong dtype, shape or name of an array, or an output that shares memory with an input or with
                another output; says what is needed.
        """
        return self._run(x, out, values=True)

    def run_int(self, x: Arrays, *, out: Arrays | None = None) -> Any:
        """Like :meth:`run`, but the integers that the graph computes (float32 where it ends in floats)."""
        return self._run(x, out, values=False)

    @property
    def steps(self) -> tuple[Step, ...]:
        """What a run does, in order: kernel, instruction set, operations and bytes of each step.

        Raises:
            ValueError: another backend than the engine runs this model.
        """
        return self._engine().steps

    def profile(self, x: Arrays, *, repeats: int = 10) -> Profile:
        """Times of every step in ``repeats`` runs of ``x``, behind one run to warm up.

        Raises:
            ValueError: as :meth:`run`, or another backend than the engine runs this model.
        """
        given = zip(self._listed(x, self.inputs, "input"), self.inputs, strict=True)
        return self._engine().profile({value.name: _lent(array, value) for array, value in given}, repeats=repeats)

    def _engine(self) -> engine.Executable:
        if not isinstance(self._executable, engine.Executable):
            raise ValueError(f"the backend {self.backend!r} runs this model; only the engine knows its steps")
        return self._executable

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """One picture, uint8 of shape (H, W) or (H, W, C), as the network's input: float32 of shape (1, C, H, W).

        Computes ``(pixel - mean) * scale`` in float32, as training does, with the numbers of the file. Grey becomes RGB
        by repetition; RGB becomes grey by the luma of ITU-R 601 (as Pillow's ``convert("L")``).

        Raises:
            ValueError: the file holds no preprocessing, or the picture has another dtype, size or number of channels.
        """
        found = self._meta.get("preprocess")
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
        ends = (f"{v.name}: {list(v.shape)} {v.type}" for v in (*self.inputs, *self.outputs))
        return f"Model({', '.join(ends)}, backend={self.backend!r})"

    def _run(self, x: Arrays, out: Arrays | None, *, values: bool) -> Any:
        given = self._listed(x, self.inputs, "input")
        written = None if out is None else self._listed(out, self.outputs, "output")
        if written is not None:
            _check_outputs(written, self.outputs, values=values)
        if isinstance(self._executable, engine.Executable):
            arrays = [_lent(array, value) for array, value in zip(given, self.inputs, strict=True)]
            if written is None:
                written = engine.empty(self.outputs, arrays[0], values=values)
            self._executable.run(arrays, written, values=True)
        else:
            arrays = [_as_numpy(array, v) for array, v in zip(given, self.inputs, strict=True)]
            read = {v.name: _border(array, v) for array, v in zip(arrays, self.inputs, strict=True)}
            places = [_as_numpy(array, v, "output") for array, v in zip(written or (), self.outputs, strict=False)]
            _check_apart(places, self.outputs, arrays, self.inputs)
            integers = self._executable.run_int(read)
            results = [_value(integers[v.name], v) if values else integers[v.name] for v in self.outputs]
            if written is None:
                written = results
            else:
                for result, array, value in zip(results, places, self.outputs, strict=True):
                    _write(result, array, value)
        return written[0] if len(written) == 1 else dict(zip((v.name for v in self.outputs), written, strict=True))

    def _listed(self, x: Any, ends: tuple[Value, ...], kind: str) -> list[Any]:
        """The arrays of ``x`` in the order of ``ends``."""
        if isinstance(x, Mapping):
            names = [value.name for value in ends]
            if set(x) != set(names):
                verb = "takes" if kind == "input" else "gives"
                raise ValueError(f"{kind}s {sorted(map(str, x))} given; this model {verb} {sorted(names)}")
            return [x[name] for name in names]
        if len(ends) != 1:
            names = ", ".join(value.name for value in ends)
            raise ValueError(f"this model has the {kind}s {names}: give a dict of arrays by name")
        return [x]


class _File:
    """A model file, as it was when it was opened."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._state = self._now()

    def _now(self) -> tuple[int, ...]:
        found = self.path.stat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _unchanged(self, found: Any) -> Any:
        """``found``, which was just read."""
        if self._now() != self._state:
            raise ModelFileError(f"{self.path}: the file has changed since the model was loaded from it; load it again")
        return found

    def meta(self) -> dict[str, Any]:
        return self._unchanged(modelfile.read_meta(self.path))

    def graph(self) -> Graph:
        return self._unchanged(modelfile.load(self.path))


def load(path: str | os.PathLike[str], *, backend: str = "auto", **options: Any) -> Model:
    """The model in the file ``path``, ready to run.

    ``backend`` is ``engine`` (compiled), ``reference`` (numpy) or ``auto``: the engine if it was built, else the
    reference with one warning in the log. Options: ``max_activation_bytes``; ``threads``, ``isa`` and ``tune`` of the
    engine (:func:`bitshift.backends.engine.load`), which change no result.

    Raises:
        OSError: the file cannot be read.
        ModelFileError: it is not a valid model file.
        GraphError: its bounds or limits are exceeded.
        ValueError: the backend does not exist, is not available, or cannot run this graph.
    """
    if backend in (engine.NAME, "auto") and engine.available() is None:
        return Model._open(path, options)
    return Model(modelfile.load(path), backend=backend, **options)


def _compile(graph: Graph, backend: str, options: Mapping[str, Any]) -> Executable:
    module = get_backend(backend)
    reason = module.available()
    if reason is not None:
        raise ValueError(f"backend {backend!r} is not available: {reason}")
    missing = module.unsupported(graph)
    if missing:
        raise GraphError(f"backend {backend!r} cannot run this graph: {'; '.join(missing)}")
    if "max_activation_bytes" in options:
        options = {**options, "max_activation_bytes": engine.memory_limit(options["max_activation_bytes"])}
    if backend != engine.NAME:
        options = {key: value for key, value in options.items() if key not in _SPEED}
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


def plain_integers(array: Any, value: Value) -> Any:
    """``array`` in the integers of an input that holds plain ones (frac 0), as token ids are; all else unchanged.

    Raises:
        ValueError: integers beyond the input's type.
    """
    type, dtype = value.type, getattr(array, "dtype", "")
    name = str(dtype.newbyteorder("=") if isinstance(dtype, np.dtype) else dtype).removeprefix("torch.")
    if not isinstance(type, FixedPoint) or type.frac != 0 or type.bits <= 8 or name not in _INTEGERS:
        return array
    found = _as_numpy(array, value)
    if not isinstance(found, np.ndarray) or found.dtype == type.dtype:
        return array
    if found.size and not type.lo <= int(found.min()) <= int(found.max()) <= type.hi:
        lo, hi = int(found.min()), int(found.max())
        raise ValueError(f"input {value.name!r} holds {lo} to {hi}; {type} goes from {type.lo} to {type.hi}")
    return found.astype(type.dtype)


def _lent(array: Any, value: Value) -> Any:
    """``array`` as the engine reads it: as it is, but for numpy arrays that are not contiguous, aligned and native."""
    array = plain_integers(_settled(array), value)
    if isinstance(array, np.ndarray):
        _check_input(array, value)
        flags = array.flags
        if flags.c_contiguous and flags.aligned and array.dtype.isnative:
            return array
        return np.require(array, array.dtype.newbyteorder("="), ["C", "A"])
    if not hasattr(array, "__dlpack__"):
        _check_input(array, value)
    return array if hasattr(array, "shape") else _as_numpy(array, value)


def _settled(array: Any) -> Any:
    """``array``; of a tensor of torch, its values without autograd and with every negation done."""
    if getattr(array, "requires_grad", False):
        array = array.detach()
    # DLPack lends the memory and not the bit that says to negate what is read.
    return array.resolve_neg() if hasattr(array, "resolve_neg") else array


def _as_numpy(array: Any, value: Value, kind: str = "input") -> Any:
    """``array`` where it lies, for numpy; what does not lend its memory by DLPack stays as it is.

    Raises:
        ValueError: memory that numpy cannot read.
    """
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__"):
        return array
    try:
        return np.from_dlpack(_settled(array))
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{kind} {value.name!r} is a {type(array).__name__} that numpy cannot read ({error}); "
            "give a dense array in the memory of the CPU, of a dtype that numpy has"
        ) from None


def _check_input(array: Any, value: Value) -> None:
    """Refuse what is no array of numpy, and a wrong shape or dtype."""
    if not isinstance(array, np.ndarray):
        raise ValueError(f"input {value.name!r} is a {type(array).__name__}; a numpy array is needed: use np.asarray")
    if array.shape[1:] != value.shape or array.ndim != len(value.shape) + 1:
        hint = ": add the batch axis with x[np.newaxis]" if array.shape == value.shape else ""
        wanted = ", ".join(map(str, ("N", *value.shape)))
        raise ValueError(f"input {value.name!r} has shape {array.shape}; needed is ({wanted}){hint}")
    dtype = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")
    if dtype == value.type.dtype or dtype in _FLOATS:
        return
    if isinstance(value.type, Float32):
        raise ValueError(f"input {value.name!r} has dtype {array.dtype}; needed is float32: use x.astype(np.float32)")
    raise ValueError(
        f"input {value.name!r} has dtype {array.dtype}; needed is {value.type.dtype} (integers q that stand for "
        f"q * 2**{-value.type.frac}) or float32 (values, which are quantised): convert it to the one you mean"
    )


def _border(array: Any, value: Value) -> np.ndarray:
    """``array`` in the dtype of ``value``, quantised if it holds floats for a fixed-point input; refuses all else."""
    array = plain_integers(array, value)
    _check_input(array, value)
    dtype = array.dtype.newbyteorder("=")
    if dtype == value.type.dtype:
        return np.ascontiguousarray(array, dtype=dtype)
    if isinstance(value.type, FixedPoint):
        return quantize(array, value.type)
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _check_outputs(arrays: list[Any], ends: tuple[Value, ...], *, values: bool) -> None:
    """Refuse other dtypes than the outputs would be allocated with, and tensors of torch that would not hold what is
    written; who writes to them checks the rest.
    """
    for array, value in zip(arrays, ends, strict=True):
        wanted = "float32" if values else str(value.type.dtype)
        found = str(getattr(array, "dtype", "")).removeprefix("torch.")
        if found != wanted:
            raise ValueError(f"output {value.name!r} has dtype {found or type(array).__name__}; needed is {wanted}")
        if getattr(array, "requires_grad", False):
            raise ValueError(f"output {value.name!r} requires grad; use out.detach()")
        if hasattr(array, "is_neg") and array.is_neg():
            raise ValueError(f"output {value.name!r} is a negated view (is_neg()); use out.resolve_neg()")


def _check_apart(outputs: list[Any], ends: tuple[Value, ...], inputs: list[Any], begins: tuple[Value, ...]) -> None:
    """Refuse outputs that may share memory with an input or with each other, by the ends of what they lie in.

    The engine looks at what it reads, which of a strided input is a copy.
    """
    others = [("input", value, array) for value, array in zip(begins, inputs, strict=True)]
    for value, array in zip(ends, outputs, strict=False):
        for kind, other, found in others:
            if np.may_share_memory(array, found):
                raise ValueError(
                    f"output {value.name!r} shares memory with {kind} {other.name!r}; an output needs memory of its own"
                )
        others.append(("output", value, array))


def _write(result: np.ndarray, array: Any, value: Value) -> None:
    """Copy ``result`` to an array of the caller."""
    if array.shape != result.shape or not array.flags.writeable or not array.flags.c_contiguous:
        raise ValueError(
            f"output {value.name!r} has shape {array.shape}; needed is a writable C-contiguous array of {result.shape}"
        )
    array[...] = result


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
