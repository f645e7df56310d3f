"""Integer layers of a frozen network on the engine's kernels, inside PyTorch on the CPU.

A layer's codes become an engine model of one node, from bytes to int32 sums, the first time that they are used with an
input of some shape; the sums are then scaled as the float path scales them, so the two give the same bits. State: one
entry for each tensor of codes that lives, which goes with it.

Changes of codes, multipliers, offsets and fractions in place are seen by torch's count of them and by their address.
Writes that torch does not count, to ``tensor.data`` or through a numpy view, are not: :func:`forget` after them.

The engine takes the call if ``x * 2**frac_in`` are integers of 8 bits and no sum can leave int32, else the caller
computes with floats. ``BITSHIFT_TORCH_ENGINE=off`` switches it off.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bitshift.backends import engine
from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import get_format
from bitshift.core.graph import Graph, GraphError, Node, Value
from bitshift.core.modelfile import ModelFileError
from bitshift.core.windows import output_length, transposed_length

_MAX_VARIANTS = 8
"""Models that one layer keeps, of different input shapes, ranges and thread counts."""
_TYPES = tuple(FixedPoint(bits, 0, signed) for bits in (6, 7, 8) for signed in (False, True))
_RANGES = tuple((kind.lo, kind.hi) for kind in _TYPES)

_native: Any = None if os.environ.get("BITSHIFT_TORCH_ENGINE") == "off" else engine._engine
train_kernels: Any = getattr(_native, "train", None)
"""The compiled module's kernels of training (``nn/kernels/cpu.py`` calls them); None where there are none."""
_lock = threading.RLock()
_layers: dict[int, _Layer] = {}


@dataclass
class _Layer:
    """What was made of one tensor of codes, valid while none of its four tensors has changed."""

    tensors: tuple[weakref.ref[Tensor], ...]
    states: tuple[tuple[int, int], ...]
    memory: tuple[Any, ...]
    """Where they lay: held, so that no other tensor's address can be one of these."""
    scale: Any
    offset: Any
    lo: int = 0
    hi: int = 0
    """Range of all inputs seen: a frozen activation fills its range soon, so the input's type settles."""
    kind: int | None = 0
    """Index in _TYPES of the narrowest type for that range; None if there is none."""
    models: dict[Any, Any] = field(default_factory=dict)
    """By what else a model depends on, the least recently made first; None where the engine refuses the layer."""


def power_of_two(exponent: Tensor) -> Tensor:
    """``2**exponent`` for integers -1022..1023, exactly, as float64 (``exp2`` and ``ldexp`` may be off by an ulp)."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


def conv(
    x: Tensor,
    codes: Tensor,
    mult: Tensor,
    offset: Tensor,
    frac: Tensor,
    format: str,
    frac_in: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    wide: bool,
) -> Tensor | None:
    """:func:`bitshift.nn.ops.exact_conv` by the engine; None where it cannot take the call."""
    if x.dim() != codes.dim() or codes.dim() not in (3, 4, 5):
        return None
    window = (tuple(stride), tuple(padding), None, tuple(dilation), groups)
    return _run(x, (codes, mult, offset, frac), format, frac_in, tuple(x.shape[1:]), window, wide)


def conv_transpose(
    x: Tensor,
    codes: Tensor,
    mult: Tensor,
    offset: Tensor,
    frac: Tensor,
    format: str,
    frac_in: int,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    wide: bool,
) -> Tensor | None:
    """:func:`bitshift.nn.ops.exact_conv_transpose` by the engine; None where it cannot take the call."""
    if x.dim() != codes.dim() or codes.dim() not in (3, 4, 5):
        return None
    window = (tuple(stride), tuple(padding), tuple(output_padding), tuple(dilation), groups)
    return _run(x, (codes, mult, offset, frac), format, frac_in, tuple(x.shape[1:]), window, wide)


def linear(
    x: Tensor, codes: Tensor, mult: Tensor, offset: Tensor, frac: Tensor, format: str, frac_in: int, wide: bool
) -> Tensor | None:
    """:func:`bitshift.nn.ops.exact_linear` by the engine; None where it cannot take the call."""
    if codes.dim() != 2 or x.dim() < 1:
        return None
    return _run(x, (codes, mult, offset, frac), format, frac_in, tuple(x.shape[-1:]), None, wide)


def quantize(x: Tensor, bits: int, frac: int, signed: bool, rounding: str) -> Tensor | None:
    """:func:`bitshift.nn.ops.exact_quantize` in one pass; None where the engine cannot take the call."""
    array = _array(x)
    if array is None or not 2 <= bits <= 24 or abs(frac) > 63 or rounding not in ("half_up", "floor"):
        return None
    y = torch.empty(x.shape, dtype=torch.float32)
    _native.round_to_grid(array, frac, *_limits(bits, signed), rounding == "half_up", y.numpy())
    return y


def _limits(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def _array(x: Tensor) -> Any:
    """The memory of ``x`` as a contiguous array; None where the engine cannot read it."""
    if _native is None or not x.is_cpu or type(x) not in (Tensor, torch.nn.Parameter) or not x.numel():
        return None
    if x.dtype not in (torch.float32, torch.float64):
        return None
    return x.detach().contiguous().numpy()


def _run(
    x: Tensor, tensors: tuple[Tensor, ...], format: str, frac_in: int, shape: tuple[int, ...], window: Any, wide: bool
) -> Tensor | None:
    array = _array(x)
    found = None if array is None else _native.grid(array, frac_in)
    layer = None if found is None else _layer(tensors)
    kind = None if found is None or layer is None else _type(layer, *found)
    if layer is None or kind is None:
        return None
    key = (shape, kind, format, window, torch.get_num_threads())
    made = layer.models.get(key, layer)  # None is an answer, so the layer stands for "not asked yet"
    if made is layer:
        made = _make(layer, key, tensors[0])
    if made is None:
        return None
    model, out = made
    y = torch.empty([*x.shape[: x.dim() - len(shape)], *out], dtype=torch.float64 if wide else torch.float32)
    model.run_layer(array, frac_in, layer.scale, layer.offset, y.numpy())
    return y


def _layer(tensors: tuple[Tensor, ...]) -> _Layer | None:
    """The entry of ``tensors`` (codes, mult, offset, frac); None for tensors whose changes cannot be seen."""
    codes, mult, offset, frac = tensors
    found = _layers.get(id(codes))
    if found is not None:
        a, b, c, d = found.tensors
        same = a() is codes and b() is mult and c() is offset and d() is frac
        if same and found.states == (_state(codes), _state(mult), _state(offset), _state(frac)):
            return found
    if any(t.is_inference() or not t.is_cpu or type(t) not in (Tensor, torch.nn.Parameter) for t in tensors):
        return None
    with _lock:
        step = power_of_two(-frac)
        scale, shift = ((v * step).detach().contiguous().numpy() for v in (mult, offset))
        place = id(codes)
        # The entry goes when the codes go, so that their id cannot name other codes later.
        first = weakref.ref(codes, lambda gone: _forget(place, gone))
        refs = (first, *(weakref.ref(t) for t in tensors[1:]))
        memory = tuple(t.untyped_storage() for t in tensors)
        _layers[place] = made = _Layer(refs, tuple(map(_state, tensors)), memory, scale, shift)
        return made


def _state(tensor: Tensor) -> tuple[int, int]:
    """What changes with the values: the count of writes, and the address, as ``tensor.data = other`` counts none."""
    return tensor._version, tensor.data_ptr()


def forget() -> None:
    """Drop what was made of all layers; each is packed anew when it is next called.

    For writes to codes, multipliers, offsets or fractions that torch does not count: to ``tensor.data``, or through a
    numpy view.
    """
    with _lock:
        _layers.clear()


def _forget(place: int, gone: weakref.ref[Tensor]) -> None:
    with _lock:
        if place in _layers and _layers[place].tensors[0] is gone:
            del _layers[place]


def _type(layer: _Layer, lo: int, hi: int) -> int | None:
    """Index of the narrowest type for all inputs so far, so that few models are made; else for this input alone."""
    if lo < layer.lo or hi > layer.hi:
        layer.lo, layer.hi = min(lo, layer.lo), max(hi, layer.hi)
        layer.kind = _narrowest(layer.lo, layer.hi)
    return _narrowest(lo, hi) if layer.kind is None else layer.kind


def _narrowest(lo: int, hi: int) -> int | None:
    return next((i for i, (low, high) in enumerate(_RANGES) if low <= lo and hi <= high), None)


def _make(layer: _Layer, key: Any, codes: Tensor) -> Any:
    """The model for ``key`` and its output's shape, filed in ``layer``; None if the engine refuses it."""
    shape, kind, format, window, threads = key
    with _lock:
        if key in layer.models:
            return layer.models[key]
        graph = _graph(codes, shape, _TYPES[kind], format, window)
        try:
            executable = engine.compile(graph, threads=threads)
        except (GraphError, ModelFileError):  # sums beyond int32, or a limit
            made = None
        else:
            made = (executable._model, graph.values["y"].shape)
        while len(layer.models) >= _MAX_VARIANTS:
            del layer.models[next(iter(layer.models))]
        layer.models[key] = made
        return made


def _graph(codes: Tensor, shape: tuple[int, ...], kind: FixedPoint, format: str, window: Any) -> Graph:
    """One node from ``kind`` to the int32 sums."""
    array = codes.detach().contiguous().numpy()
    attrs: dict[str, Any] = {"format": get_format(format).name}
    out: tuple[int, ...] = (array.shape[0],)
    op = "linear"
    if window is not None:
        stride, flat, extra, dilation, groups = window
        op = "conv" if extra is None else "conv_transpose"
        padding = tuple(zip(flat[::2], flat[1::2], strict=True))
        attrs |= {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        axes = zip(shape[1:], array.shape[2:], stride, padding, dilation, strict=True)
        if extra is None:
            out += tuple(output_length(n, k, s, p, d) for n, k, s, p, d in axes)
        else:
            attrs["output_padding"] = extra
            out += tuple(transposed_length(n, k, s, p, e, d) for (n, k, s, p, d), e in zip(axes, extra, strict=True))
    values = {"x": Value("x", shape, kind), "y": Value("y", out, FixedPoint(32, 0))}
    node = Node(op, ("x",), "y", attrs, {"codes": "codes"})
    return Graph(("x",), ("y",), values, (node,), {"codes": array})
