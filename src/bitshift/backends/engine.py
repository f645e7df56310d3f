"""The compiled engine: the same integers as the reference, much faster, and no torch.

A model reaches the engine as the bytes of its file, so that what runs is what the file says; ``cpp/`` has a
reader of its own, which checks everything again.
"""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bitshift.backends.profiling import Event, Profile, Step, steps_of
from bitshift.core.container import ModelFileError
from bitshift.core.cost import MAX_ACTIVATION_BYTES, MAX_OPERATIONS
from bitshift.core.graph import Graph, GraphError, Value
from bitshift.core.modelfile import dumps, parse_type
from bitshift.core.ops import OPS

_engine: Any
try:
    from bitshift import _engine  # pyright: ignore[reportAttributeAccessIssue]
except ImportError as error:
    _engine = None
    _reason: str | None = (
        f"bitshift._engine cannot be imported ({error}): it was not built; "
        "install a C and C++ compiler, then reinstall bitshift"
    )
else:
    _reason = None

NAME = "engine"
_MAX_THREADS = 1024
"""kMaxThreads of cpp/src/settings.cpp."""


def available() -> str | None:
    """None if the compiled module is there, else why not and what would help."""
    return _reason


def unsupported(graph: Graph) -> list[str]:
    """One line for each op that the engine lacks; none, unless the graph names an op that does not exist."""
    return sorted({f"unknown op {node.op!r}" for node in graph.nodes if node.op not in OPS})


class Executable:
    """A model in the engine's memory. Any number of threads may run it at once; a run holds no Python lock.

    ``inputs`` and ``outputs`` describe its ends in the order of the graph. Made by :func:`compile` and :func:`load`.
    """

    def __init__(self, native: Any) -> None:
        self._model = native
        ends = native.ends()
        self.inputs, self.outputs = (
            tuple(Value(name, shape, parse_type(kind, name)) for name, shape, kind in described) for described in ends
        )

    @property
    def arena_bytes(self) -> int:
        """Bytes of activations and scratch memory that one running thread needs."""
        return self._model.arena_bytes

    @property
    def isa(self) -> str:
        """The instruction set whose kernels it runs, ``portable`` if none fits."""
        return self._model.isa

    @property
    def threads(self) -> int:
        """Threads that a run may use."""
        return self._model.threads

    @property
    def steps(self) -> tuple[Step, ...]:
        """What a run does, in order."""
        return steps_of(self._model.steps())

    def run_int(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, each (N, *shape) in the dtype of its type.

        C-contiguous inputs are read where they lie; other numpy arrays are copied first.

        Raises:
            ValueError: names the bad input.
        """
        arrays = self._listed(inputs)
        outputs = empty(self.outputs, arrays[0])
        self.run(arrays, outputs)
        return {value.name: array for value, array in zip(self.outputs, outputs, strict=True)}

    def profile(self, inputs: Mapping[str, Any], *, repeats: int = 10) -> Profile:
        """Times of ``repeats`` runs of ``inputs`` (as :meth:`run_int`, or floats), behind one run to warm up."""
        if repeats < 1:
            raise ValueError(f"repeats={repeats}: at least 1 is needed")
        arrays = self._listed(inputs)
        outputs = empty(self.outputs, arrays[0])
        self.run(arrays, outputs, values=True)
        events, runs = [], []
        for turn in range(repeats):
            begin = time.perf_counter()
            found = self._model.trace(arrays, outputs, values=True)
            runs.append(time.perf_counter() - begin)
            events += [Event(turn, *event) for event in found]
        return Profile(self.steps, tuple(events), tuple(runs), len(outputs[0]), self.threads, self.isa)

    def _listed(self, inputs: Mapping[str, Any]) -> list[Any]:
        """The arrays of ``inputs`` in the order of the graph."""
        if set(inputs) != {value.name for value in self.inputs}:
            raise ValueError(
                f"inputs {sorted(map(str, inputs))} given; "
                f"the graph takes {sorted(value.name for value in self.inputs)}"
            )
        return [contiguous(inputs[value.name]) for value in self.inputs]

    def run(self, inputs: Sequence[Any], outputs: Sequence[Any], *, values: bool = False) -> None:
        """Run ``inputs`` (N, *shape), writing to the arrays in ``outputs``; both in the order of the graph.

        Arrays are numpy's or whatever lends memory by ``__dlpack__`` (torch tensors on the CPU), C-contiguous; no
        element is copied. They hold what the graph computes with; with ``values``, float32 or float64 inputs are
        quantised by the rule of the op ``quantize``, and float32 outputs get ``q * 2**-frac``. An output shares no
        memory with an input or another output.

        Raises:
            ValueError: names the bad array.
        """
        try:
            self._model.run(inputs, outputs, values=values)
        except TypeError as error:
            raise ValueError(str(error)) from None


def contiguous(array: Any) -> Any:
    """``array``, copied if it is a numpy array that is not C-contiguous."""
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) and array.ndim else array


def empty(outputs: Sequence[Value], like: Any, *, values: bool = False) -> list[np.ndarray]:
    """Arrays for ``outputs`` of as many samples as ``like`` has; float32 with ``values``."""
    shape = getattr(like, "shape", None)
    count = shape[0] if shape is not None and len(shape) else 0
    return [np.empty((count, *v.shape), np.float32 if values else v.type.dtype) for v in outputs]


def compile(
    graph: Graph,
    *,
    max_activation_bytes: int = MAX_ACTIVATION_BYTES,
    threads: int | None = None,
    isa: str | None = None,
    tune: str | None = None,
) -> Executable:
    """Check ``graph`` and its bounds and limits in the engine; GraphError or ModelFileError names what is refused.

    The options are those of :func:`load`.
    """
    create = partial(_module().Model, dumps(graph))
    return _make(create, "", max_activation_bytes, threads, isa, tune)


def load(
    path: str | os.PathLike[str],
    *,
    max_activation_bytes: int = MAX_ACTIVATION_BYTES,
    threads: int | None = None,
    isa: str | None = None,
    tune: str | None = None,
) -> Executable:
    """The model in the file ``path``, read by the engine alone.

    ``threads`` is how many threads a run may use (None: ``BITSHIFT_THREADS``, else all processors), ``isa`` an
    instruction set (None: ``BITSHIFT_ISA``, else the best one here), ``tune`` whether layers are measured when they
    are loaded: ``auto``, ``off`` or ``force`` (None: ``BITSHIFT_TUNE``, else ``auto``). No option changes a result.

    Raises:
        OSError: the file cannot be read.
        ModelFileError: it is not a valid model file.
        GraphError: a limit is exceeded.
        ValueError: an unknown instruction set or way to tune, or an option of another type; names the option.
    """
    with Path(path).open("rb"):  # Python's own errors for a file that is not there
        create = partial(_module().Model.open, os.fsencode(path))
    return _make(create, f"{os.fspath(path)}: ", max_activation_bytes, threads, isa, tune)


def _module() -> Any:
    if _engine is None:
        raise GraphError(f"backend {NAME!r} is not available: {_reason}")
    return _engine


def memory_limit(found: Any) -> int:
    """``found`` as ``max_activation_bytes``; ValueError for what is no integer from 0 to 2**64 - 1."""
    return _whole("max_activation_bytes", found, 0, (1 << 64) - 1, "integers")


def _whole(name: str, found: Any, lo: int, hi: int, allowed: str) -> int:
    try:
        number = None if isinstance(found, bool) else operator.index(found)
    except TypeError:
        number = None
    if number is None or not lo <= number <= hi:
        raise ValueError(f"{name}={found!r}: allowed are {allowed} from {lo} to {hi}")
    return number


def _word(name: str, found: Any) -> str:
    if found is not None and not isinstance(found, str):
        raise ValueError(f"{name}={found!r}: allowed are None and a word, such as {name}='auto'")
    return found or ""


def _make(create: Any, where: str, memory: int, threads: int | None, isa: str | None, tune: str | None) -> Executable:
    options = {
        "memory_limit": memory_limit(memory),
        "threads": 0 if threads is None else _whole("threads", threads, 1, _MAX_THREADS, "None and integers"),
        "isa": _word("isa", isa),
        "tune": _word("tune", tune),
    }
    try:
        native = create(op_limit=MAX_OPERATIONS, **options)
    except _engine.EngineUsageError as error:
        hint = " (max_activation_bytes raises the memory limit)" if "memory limit" in str(error) else ""
        raise GraphError(f"{where}{error}{hint}") from None
    except _engine.EngineFileError as error:
        raise ModelFileError(f"{where}{error}") from None
    return Executable(native)
