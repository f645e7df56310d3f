"""Backends execute a graph: one module each, with ``NAME``, ``available``, ``unsupported`` and ``compile``."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from bitshift.core.graph import Graph

BACKENDS: tuple[str, ...] = ("reference", "engine")


class Executable(Protocol):
    """A compiled graph."""

    def run_int(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, each (N, *shape) in the dtype of its type."""
        ...


class Backend(Protocol):
    """What a backend's module offers."""

    NAME: str

    def available(self) -> str | None:
        """None if the backend can run here, else the reason why not and what would help."""
        ...

    def unsupported(self, graph: Graph) -> list[str]:
        """What in ``graph`` the backend cannot run, one line each."""
        ...

    def compile(self, graph: Graph, **options: Any) -> Executable:
        """The executable; GraphError for a graph that breaks a rule, a bound or a limit."""
        ...


def get_backend(name: str) -> Backend:
    """The module of the backend called ``name``; ValueError lists the near misses and what exists."""
    if name not in BACKENDS:
        near = difflib.get_close_matches(str(name), BACKENDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown backend {name!r}{hint} Known backends: {', '.join(BACKENDS)}")
    return importlib.import_module(f"bitshift.backends.{name}")  # pyright: ignore[reportReturnType]


__all__ = ["BACKENDS", "Backend", "Executable", "get_backend"]
