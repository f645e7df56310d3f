"""Average pooling with a divisor that integers can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor, log2, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitshift.nn.layers.runs import Run, Window, assemble, runs
from bitshift.nn.ops import exact_avg_pool

_POOLS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def divisor(area: int, *, power_of_two: bool) -> tuple[int, int]:
    """``(mult, shift)`` with ``mult * 2**-shift`` near ``1 / area``.

    With ``power_of_two`` the divisor is the power of two nearest to ``area`` in ratio and ``mult`` is 1; otherwise
    ``mult`` has 16 bits.
    """
    exponent = floor(log2(area))
    if area == 1 << exponent:
        return 1, exponent
    if power_of_two:
        return 1, floor(log2(area) + 0.5)
    shift = 16 + exponent
    return min(65535, floor((1 << shift) / area + 0.5)), shift


class AvgPool(nn.Module):
    """``sum over the window / divisor`` over 1 to 3 spatial axes, zeros of the padding counted.

    The divisor is the window's area, or in a multiplication-free network the power of two nearest to it: training
    sees the same factor, so the layer behind adapts. ``kernel=None`` pools everything (global). ``eval`` is exact, in
    float64.
    """

    def __init__(
        self,
        kernel: Sequence[int] | None,
        *,
        stride: Sequence[int] | None = None,
        padding: Sequence[int] | None = None,
        power_of_two: bool,
    ) -> None:
        super().__init__()
        self.kernel = None if kernel is None else list(kernel)
        self.stride = list(stride) if stride is not None else self.kernel
        self.padding = list(padding) if padding is not None else [0] * len(self.kernel or [])
        self.power_of_two = power_of_two

    def window(self, x: Tensor) -> tuple[list[int], list[int], list[int], int, int]:
        """Kernel, stride, padding ``[before, after]`` per axis, mult and shift for an input like ``x``."""
        if self.kernel is None:
            kernel = [int(n) for n in x.shape[2:]]
            stride, padding = kernel, [0] * (2 * len(kernel))
        else:
            assert self.stride is not None
            kernel, stride, padding = self.kernel, self.stride, [p for p in self.padding for _ in (0, 1)]
        mult, shift = divisor(prod(kernel), power_of_two=self.power_of_two)
        return kernel, stride, padding, mult, shift

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C, *spatial)``."""
        kernel, stride, padding, mult, shift = self.window(input)
        if self.training:
            pool = _POOLS[len(kernel) - 1]
            factor = prod(kernel) * mult * 2.0**-shift
            y = pool(input, kernel, stride, padding[::2])
            return y if factor == 1.0 else y * factor
        return exact_avg_pool(input, kernel, stride, padding, mult, shift, wide=True)

    def extra_repr(self) -> str:
        """The window."""
        kind = (
            "global" if self.kernel is None else f"kernel={self.kernel}, stride={self.stride}, padding={self.padding}"
        )
        return f"{kind}, divisor {'a power of two' if self.power_of_two else '16-bit'}"


Average = Callable[[Tensor, list[int], list[int], int], Tensor]
"""An average over (part of the input, kernel, stride, number to divide the sum by)."""


class SplitAvgPool(AvgPool):
    """An average whose windows are not all alike: adaptive pools, ``ceil_mode``, padding that does not count.

    Parts of the input are pooled for themselves, each with a divisor of its own (a power of two, where
    :class:`AvgPool` has one), and put side by side. ``windows`` gives the windows of one spatial axis, by its index
    and length.
    """

    def __init__(
        self,
        windows: Callable[[int, int], list[Window]],
        *,
        axes: int,
        override: int | None = None,
        power_of_two: bool,
        about: str,
    ) -> None:
        super().__init__(None, power_of_two=power_of_two)
        self.windows, self.axes, self.override, self.about = windows, axes, override, about

    def average(self, x: Tensor, pool: Average) -> Tensor:
        """The whole from its parts; ``pool`` computes one. ``(N, C, *spatial)`` or ``(C, *spatial)``."""
        first = x.dim() - self.axes
        plan = [runs(self.windows(axis, int(x.shape[first + axis]))) for axis in range(self.axes)]

        def part(chosen: Sequence[Run]) -> Tensor:
            piece = x
            for axis, run in enumerate(chosen, start=first):
                if (run.start, run.stop) != (0, x.shape[axis]):
                    piece = piece.narrow(axis, run.start, run.stop - run.start)
            area = prod(run.divisor for run in chosen) if self.override is None else self.override
            return pool(piece, [run.kernel for run in chosen], [run.stride for run in chosen], area)

        return assemble(plan, part, lambda parts, axis: torch.cat(parts, dim=first + axis))

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C, *spatial)``."""
        return self.average(input, self._train if self.training else self._exact)

    def _train(self, x: Tensor, kernel: list[int], stride: list[int], area: int) -> Tensor:
        mult, shift = divisor(area, power_of_two=self.power_of_two)
        return _POOLS[len(kernel) - 1](x, kernel, stride) * (prod(kernel) * mult * 2.0**-shift)

    def _exact(self, x: Tensor, kernel: list[int], stride: list[int], area: int) -> Tensor:
        mult, shift = divisor(area, power_of_two=self.power_of_two)
        return exact_avg_pool(x, kernel, stride, [0] * (2 * len(kernel)), mult, shift, wide=True)

    def extra_repr(self) -> str:
        """What it pools."""
        return f"{self.about}, divisor {'a power of two' if self.power_of_two else '16-bit'}"


__all__ = ["AvgPool", "SplitAvgPool", "divisor"]
