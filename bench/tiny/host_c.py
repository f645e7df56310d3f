"""A model file as C on this machine: emitted, compiled into a shared library, called sample by sample."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import numpy as np

from bitshift.backends.c99.export import export_c
from bitshift.backends.c99.program import build
from bitshift.core import modelfile
from bitshift.core.ops.quantize import quantize

FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")


class HostModel:
    """``file`` with one input and one output; the folder of its sources and library lasts as long as the context."""

    def __init__(self, file: Path, *, target: str = "generic") -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        export_c(file, folder, target=target)
        program = build(modelfile.load(file))
        (self._input,), (self._output,) = program.inputs, program.outputs
        library = folder / "model.so"
        command = [*os.environ.get("CC", "cc").split(), *FLAGS, str(folder / "model.c"), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{file}: its C does not compile: {' '.join(command)}\n{done.stderr[:4000]}")
        self._run = ctypes.CDLL(str(library)).model_run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def run_int(self, x: np.ndarray) -> np.ndarray:
        """Output integers (N, *shape) for float or integer samples (N, *shape), as ``runtime.Model.run_int``."""
        port = self._output.port
        found = np.empty((len(x), *port.shape), dtype=port.type.dtype)
        for sample, into in zip(x, found, strict=True):
            given = sample
            if given.dtype.kind == "f":
                given = quantize(given, self._input.port.type, self._input.rounding)
            given = np.ascontiguousarray(given, dtype=self._input.port.type.dtype)
            self._run(given.ctypes.data_as(ctypes.c_void_p), into.ctypes.data_as(ctypes.c_void_p))
        return found
