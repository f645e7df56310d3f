"""Pools whose windows are not all alike, as runs of equal windows: each run is a plain pool of a part of the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """``count`` windows of ``kernel`` elements along one axis, the first at ``start``, ``stride`` apart.

    ``divisor`` is what this axis gives to the number that an average divides by: the window's elements, with those
    of the padding where they count. A single window may stand ``repeat`` times in the output.
    """

    start: int
    kernel: int
    stride: int
    count: int
    divisor: int
    repeat: int = 1

    @property
    def stop(self) -> int:
        """Behind the last element that a window reads."""
        return self.start + (self.count - 1) * self.stride + self.kernel


Window = tuple[int, int, int]
"""First element, the one behind the last, and the axis' part of the divisor."""


def adaptive_windows(size: int, out: int) -> list[Window]:
    """The ``out`` windows of an adaptive pool: from ``floor(i * size / out)`` to ``ceil((i + 1) * size / out)``."""
    ends = [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]
    return [(a, b, b - a) for a, b in ends]


def pool_windows(
    size: int, kernel: int, stride: int, padding: int, *, ceil_mode: bool, count_padding: bool
) -> list[Window]:
    """The windows of torch's average pool; in ``ceil_mode`` the last may hang over the padding, which never counts."""
    total = size + 2 * padding - kernel
    out = (-(-total // stride) if ceil_mode else total // stride) + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    windows = []
    for i in range(out):
        a = i * stride - padding
        b = min(a + kernel, size + padding)
        inside = max(a, 0), min(b, size)
        windows.append((*inside, b - a if count_padding else inside[1] - inside[0]))
    return windows


def runs(windows: Sequence[Window]) -> list[Run]:
    """Neighbours of equal size, divisor and distance together."""
    found: list[Run] = []
    for a, b, divisor in windows:
        last = found[-1] if found else None
        if last is not None and (last.kernel, last.divisor) == (b - a, divisor):
            step = a - (last.start + (last.count - 1) * last.stride)
            if step == 0 and last.count == 1:
                found[-1] = Run(last.start, last.kernel, 1, 1, divisor, last.repeat + 1)
                continue
            if step > 0 and last.repeat == 1 and (last.count == 1 or step == last.stride):
                found[-1] = Run(last.start, last.kernel, step, last.count + 1, divisor)
                continue
        found.append(Run(a, b - a, 1, 1, divisor))
    return found


def assemble(axes: Sequence[Sequence[Run]], pool: Callable[[Sequence[Run]], T], join: Callable[[list[T], int], T]) -> T:
    """The whole pool: ``pool`` for every choice of one run an axis, ``join`` of the parts along a spatial axis."""

    def build(chosen: tuple[Run, ...]) -> T:
        if len(chosen) == len(axes):
            return pool(chosen)
        parts: list[T] = []
        for run in axes[len(chosen)]:
            parts += [build((*chosen, run))] * run.repeat
        return parts[0] if len(parts) == 1 else join(parts, len(chosen))

    return build(())


__all__ = ["Run", "Window", "adaptive_windows", "assemble", "pool_windows", "runs"]
