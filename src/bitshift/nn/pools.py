"""Which average a node of a traced model computes, and the :class:`AvgPool` that does it in integers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from bitshift.nn.layers.pool import AvgPool, SplitAvgPool
from bitshift.nn.layers.runs import Window, adaptive_windows, pool_windows
from bitshift.nn.trace import argument

_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_PLAIN = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def pool_of(
    node: fx.Node, module: nn.Module | None, shape: Sequence[int] | None, *, power_of_two: bool
) -> tuple[AvgPool, bool] | str:
    """The pool that replaces ``node``, and whether the spatial axes vanish; or the reason why it must stay in float.

    ``shape`` is that of the input (with the batch) where a sample told it.
    """
    if isinstance(module, _ADAPTIVE):
        axes = 1 + next(i for i, cls in enumerate(_ADAPTIVE) if isinstance(module, cls))
        return _adaptive(module.output_size, axes, shape, power_of_two)
    if isinstance(module, _PLAIN):
        axes = 1 + next(i for i, cls in enumerate(_PLAIN) if isinstance(module, cls))
        over = getattr(module, "divisor_override", None)
        settings = (module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad, over)
        return _windowed(axes, *settings, power_of_two)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name.startswith("adaptive"):
        return _adaptive(argument(node, 1, "output_size"), int(name[-2]), shape, power_of_two)
    if node.target in (F.avg_pool2d, F.avg_pool3d) or name.startswith("avg_pool"):
        window = (argument(node, 1, "kernel_size"), argument(node, 2, "stride"), argument(node, 3, "padding", 0))
        flags = (argument(node, 4, "ceil_mode", False), argument(node, 5, "count_include_pad", True))
        axes = int(name[-2])
        return _windowed(axes, *window, *flags, argument(node, 6, "divisor_override"), power_of_two)
    return _mean(node, shape, power_of_two)


def _pair(value: Any, axes: int) -> list[int]:
    return [int(value)] * axes if isinstance(value, int) else [int(v) for v in value]


def _windowed(
    axes: int, kernel: Any, stride: Any, padding: Any, ceil_mode: Any, count_padding: Any, over: Any, power_of_two: bool
) -> tuple[AvgPool, bool] | str:
    if any(isinstance(v, fx.Node) for v in (kernel, stride, padding)):
        return "its window is computed in forward"
    window, pads = _pair(kernel, axes), _pair(padding, axes)
    steps = _pair(stride, axes) if stride not in (None, [], ()) else window
    if not ceil_mode and over is None and (count_padding or not any(pads)):
        return AvgPool(window, stride=steps, padding=pads, power_of_two=power_of_two), False
    flags = {"ceil_mode": bool(ceil_mode), "count_padding": bool(count_padding)}
    windows = partial(_pool_axis, list(zip(window, steps, pads, strict=True)), flags)
    about = f"kernel={window}, stride={steps}, padding={pads}, ceil_mode={bool(ceil_mode)}" + (
        f", divisor_override={over}" if over is not None else f", count_include_pad={bool(count_padding)}"
    )
    return SplitAvgPool(windows, axes=axes, override=over, power_of_two=power_of_two, about=about), False


def _pool_axis(geometry: list[tuple[int, int, int]], flags: dict[str, bool], axis: int, size: int) -> list[Window]:
    return pool_windows(size, *geometry[axis], **flags)


def _adaptive(size: Any, axes: int, shape: Sequence[int] | None, power_of_two: bool) -> tuple[AvgPool, bool] | str:
    sizes = [size] * axes if not isinstance(size, (tuple, list)) else list(size)
    if all(s == 1 for s in sizes):
        return AvgPool(None, power_of_two=power_of_two), False
    if any(isinstance(s, fx.Node) for s in sizes):
        return "its output size is computed in forward"
    if shape is not None:
        spatial = list(shape[-axes:])
        out = [n if s is None else int(s) for n, s in zip(spatial, sizes, strict=True)]
        if not any(n % o for n, o in zip(spatial, out, strict=True)):
            return AvgPool([n // o for n, o in zip(spatial, out, strict=True)], power_of_two=power_of_two), False
    windows = partial(_adaptive_axis, sizes)
    return SplitAvgPool(windows, axes=axes, power_of_two=power_of_two, about=f"adaptive to {sizes}"), False


def _adaptive_axis(sizes: list[int | None], axis: int, size: int) -> list[Window]:
    out = sizes[axis]
    return adaptive_windows(size, size if out is None else int(out))


def _mean(node: fx.Node, shape: Sequence[int] | None, power_of_two: bool) -> tuple[AvgPool, bool] | str:
    dims = argument(node, 1, "dim")
    if dims is None or argument(node, 3, "dtype") is not None:
        return "mean over everything (or in another dtype) is no pool"
    listed = [dims] if isinstance(dims, int) else list(dims)
    if shape is None and len(listed) == 1:
        return (
            f"mean over axis {listed[0]}: whether that is all of space depends on the axes; give convert(..., sample=)"
        )
    rank = len(shape) if shape is not None else 2 + len(listed)
    if (
        not all(isinstance(d, int) for d in listed)
        or {d % rank for d in listed} != set(range(2, rank))
        or rank not in (3, 4, 5)
    ):
        return (
            f"mean over axes {listed}: only all spatial axes of (N, C, L), (N, C, H, W) or (N, C, D, H, W) are a pool"
        )
    return AvgPool(None, power_of_two=power_of_two), not argument(node, 2, "keepdim", False)


__all__ = ["pool_of"]
