"""The int8 baseline of ``int8/``: a layer with 8-bit weights, its driver in C, and its exact result in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bitshift.backends.c99.boards import Board
from bitshift.core.windows import convolve
from emulated.build import Image, build
from emulated.host import HERE

FOLDER = HERE / "int8"
FILES = {"naive": "naive.c", "blocked": "blocked.c", "quarter": "quarter.c"}
"""A file of ``int8/`` by the name of its kernel."""


@dataclass(frozen=True, kw_only=True)
class Int8Layer:
    """A same-padded square convolution with random int8 weights; fully connected with ``size`` and ``kernel`` 1."""

    size: int
    inputs: int
    outputs: int
    kernel: int
    depthwise: bool = False

    @cached_property
    def weights(self) -> np.ndarray:
        """int8 (O, I/groups, k, k)."""
        shape = (self.outputs, 1 if self.depthwise else self.inputs, self.kernel, self.kernel)
        return np.random.default_rng(3).integers(-127, 128, shape).astype(np.int8)

    @cached_property
    def shift(self) -> int:
        """So that outputs of random inputs use their range and some saturate."""
        return round(np.log2(np.sqrt(self.weights[0].size) * 74 * 74 / 45))

    @cached_property
    def offset(self) -> np.ndarray:
        """Bias and half a step."""
        return np.random.default_rng(4).integers(-500, 500, self.outputs) + (1 << self.shift) // 2

    def inputs_of(self, samples: int) -> np.ndarray:
        """int8 (N, I, size, size)."""
        shape = (samples, self.inputs, self.size, self.size)
        return np.random.default_rng(5).integers(-128, 128, shape).astype(np.int8)

    def expected(self, x: np.ndarray) -> np.ndarray:
        """int8 (N, O, size, size), exact."""
        pad = self.kernel // 2
        groups = self.inputs if self.depthwise else 1
        sums = convolve(
            x.astype(np.float64), self.weights.astype(np.float64), (1, 1), ((pad, pad),) * 2, (1, 1), groups
        )
        total = sums.astype(np.int64) + self.offset[:, None, None]
        return np.clip(total >> self.shift, -128, 127).astype(np.int8)

    def build(self, board: Board, kernel: str, folder: Path, *, options: tuple[str, ...] = ("-O2",)) -> Image:
        """The image that runs the kernel called ``kernel`` of ``FILES`` on inputs from the feed, channels last."""
        folder.mkdir(parents=True, exist_ok=True)
        main = folder / "main.c"
        main.write_text(self._driver(kernel), encoding="utf-8")
        return build(
            board, [main, FOLDER / FILES[kernel]], folder, include=[FOLDER], options=options, libraries=("-lgcc",)
        )

    def flash(self, image: Image, kernel: str) -> int:
        """Bytes of weights, offsets, and of those functions of the kernel's file that the image holds."""
        names = {f.name for f in image.objects[FILES[kernel]].functions}
        return self.weights.size + 4 * self.outputs + sum(f.size for f in image.elf.functions if f.name in names)

    def _driver(self, kernel: str) -> str:
        order = (2, 3, 0, 1) if self.depthwise else (0, 2, 3, 1)
        weights = ", ".join(map(str, self.weights.transpose(order).reshape(-1)))
        offset = ", ".join(map(str, self.offset))
        name = f"int8_{kernel}_depthwise" if self.depthwise else f"int8_{kernel}"
        column = self.kernel * self.kernel * self.inputs
        scratch = max(8 * column, 4 * (self.size + 2) ** 2)
        pixels = self.size * self.size
        return f"""#include "feed.h"
#include "int8.h"

static const int8_t weights[{self.weights.size}] = {{{weights}}};
static const int32_t offset[{self.outputs}] = {{{offset}}};
static uint64_t scratch[{(scratch + 7) // 8}];
static int8_t x[{pixels * self.inputs}], y[{pixels * self.outputs}];

int main(void) {{
    const struct int8_layer layer = {{
        {self.size}, {self.size}, {self.inputs}, {self.outputs}, {self.kernel}, {self.shift},
        weights, offset, scratch}};
    while (feed_read(x, sizeof x)) {{
        region_begin();
        {name}(&layer, x, y);
        region_end();
        feed_write(y, sizeof y);
    }}
    return 0;
}}
"""


LAYERS = {
    "linear 256-32": Int8Layer(size=1, inputs=256, outputs=32, kernel=1),
    "conv 1x1 8x8 32-32": Int8Layer(size=8, inputs=32, outputs=32, kernel=1),
    "conv 3x3 8x8 16-16": Int8Layer(size=8, inputs=16, outputs=16, kernel=3),
    "depthwise 3x3 8x8 32": Int8Layer(size=8, inputs=32, outputs=32, kernel=3, depthwise=True),
}
"""The shapes of ``graphs.LAYERS``."""
