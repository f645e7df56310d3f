"""Windows in C: loops over the outputs, and over those elements of a window that lie inside the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitshift.backends.c99.text import Lines, advance, indent, loop, pitches


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The geometry of a convolution or pool over one channel: lengths of input and output by axis, and the window."""

    size: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    @property
    def axes(self) -> int:
        """Spatial axes."""
        return len(self.size)

    def _padded(self, axis: int) -> bool:
        return any(self.padding[axis])

    def positions(self, body: Sequence[str]) -> Lines:
        """``body`` for every output in order; ``f`` of the last axis is the window's first index in the channel."""
        pitch = pitches(self.size)

        def level(axis: int) -> Lines:
            if axis == self.axes:
                return list(body)
            before, stride = self.padding[axis][0], self.stride[axis]
            outer = f"f{axis - 1}" if axis else "0"
            start = -before * pitch[axis]
            begin = [f"ptrdiff_t f{axis} = {outer}{f' - {-start}' if start else ''};"]
            steps = [(f"f{axis}", stride * pitch[axis])]
            if self._padded(axis):
                begin.append(f"ptrdiff_t p{axis} = {-before};")
                steps.append((f"p{axis}", stride))
            return [*begin, *loop(f"o{axis}", self.out[axis], advance(*steps), level(axis + 1))]

        return level(0)

    @property
    def first(self) -> str:
        """The index of the window's first element in its channel, inside :meth:`positions`."""
        return f"f{self.axes - 1}"

    def taps(self, body: Callable[[str, str], Lines], start: str, weight: str = "") -> Lines:
        """``body(index, weight)`` for each element of the window inside the input, in the kernel's order.

        ``start`` is the index of the window's first element; ``weight``, if given, that of the kernel's first weight.
        """
        pitch, inner = pitches(self.size), pitches(self.kernel)

        def level(axis: int) -> Lines:
            t, w = f"t{axis}", f"w{axis}"
            begin = [f"ptrdiff_t {t} = {f't{axis - 1}' if axis else start};"]
            steps = [(t, self.dilation[axis] * pitch[axis])]
            if weight:
                begin.append(f"size_t {w} = {f'w{axis - 1}' if axis else weight};")
                steps.append((w, inner[axis]))
            deeper = level(axis + 1) if axis + 1 < self.axes else body(t, w if weight else "")
            if self._padded(axis):
                q = f"q{axis}"
                begin.append(f"ptrdiff_t {q} = p{axis};")
                steps.append((q, self.dilation[axis]))
                deeper = [f"if ({q} >= 0 && {q} < {self.size[axis]}) {{", *indent(deeper), "}"]
            if self.kernel[axis] == 1:
                return [*begin, *deeper]
            return [*begin, *loop(f"k{axis}", self.kernel[axis], advance(*steps), deeper)]

        return level(0)

    @property
    def count(self) -> int:
        """Elements of the window."""
        return math.prod(self.kernel)

    @property
    def plane(self) -> int:
        """Elements of a channel of the input."""
        return math.prod(self.size)
