"""A convolution or linear layer as the C kernels see it, and what a kernel gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bitshift.backends.c99.targets import Target
from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import ShiftFormat


@dataclass(frozen=True, kw_only=True)
class Port:
    """A value that a layer reads or writes, planar ``(C, *spatial)`` or ``(..., I)``, and its range by the bounds."""

    shape: tuple[int, ...]
    type: FixedPoint
    lo: int
    hi: int

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes."""
        return self.size * self.type.dtype.itemsize

    @property
    def ctype(self) -> str:
        """The C type of an element."""
        dtype = self.type.dtype
        return f"{'u' if dtype.kind == 'u' else ''}int{8 * dtype.itemsize}_t"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """``y = clamp((sum x*level)*mult + offset + (residual << res_shift)) >> shift, lo, hi)`` by output channel.

    Args:
        name: C identifier, unique in the program.
        title: what messages call the layer: the node and the module in the user's model.
        kind: ``conv`` or ``linear``; a linear layer's ``x`` is ``(rows, I)``, each row a sample of its own.
        codes, levels: ``(O, I/groups, *kernel)``; of a linear layer ``(O, I)``.
        stride, dilation: a number a spatial axis; padding: zeros (before, after) a spatial axis.
        mult, offset, shift, res_shift: int64 ``(O,)``; every ``mult`` is a power of two in a multiplication-free layer.
        lo, hi: clamp and saturation in one.
        wide: whether rule 4 needs 64 bits for some channel (core.bounds).
    """

    name: str
    title: str
    kind: str
    format: ShiftFormat
    codes: np.ndarray
    levels: np.ndarray
    x: Port
    y: Port
    residual: Port | None = None
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    mult: np.ndarray
    offset: np.ndarray
    shift: np.ndarray
    res_shift: np.ndarray
    lo: int
    hi: int
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Code:
    """A layer in C.

    Args:
        text: definitions; the last is ``static void NAME(const X *x, [const R *residual,] Y *y, [uint32_t *scratch])``,
            the bracketed ones only where the layer has a residual and ``scratch`` is not 0.
        scratch: bytes of working memory, aligned to 4, that live during the call only.
        needs: names of the shared helper functions (``helpers.py``) that the text calls.
        table_bytes: constant data, weights above all.
        in_place: inputs (0: ``x``, 1: the residual) whose memory ``y`` may share where both have elements of one size:
            an element is read before ``y``'s element of the same place is written, and never after.
    """

    text: str
    scratch: int = 0
    needs: frozenset[str] = frozenset()
    table_bytes: int = 0
    in_place: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a kernel costs on a target: the figures that the chooser weighs."""

    cycles: int
    flash: int
    scratch: int


class Kernel(Protocol):
    """A way to compute a layer; one object a file in ``kernels/``, listed in ``kernels/__init__.py``."""

    @property
    def name(self) -> str:
        """What reports and messages call it."""
        ...

    def refuses(self, layer: Layer, target: Target) -> str | None:
        """None, or why this kernel cannot compute ``layer``."""
        ...

    def estimate(self, layer: Layer, target: Target) -> Estimate:
        """Cost on ``target``."""
        ...

    def emit(self, layer: Layer, target: Target) -> Code:
        """The C text."""
        ...


__all__ = ["Code", "Estimate", "Kernel", "Layer", "Port"]
