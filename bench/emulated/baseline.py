"""The int8 baseline of ``int8/``: a layer with 8-bit weights, its driver in C, and its exact result in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bitshift.backends.c99.boards import Board
from bitshift.core.windows import convolve
from emulated.build import Image, build
from emulated.host import HERE, is_avr

FOLDER = HERE / "int8"
FILES = {"naive": "naive.c", "blocked": "blocked.c", "quarter": "quarter.c", "int4": "int4.c"}
"""A file of ``int8/`` by the name of its kernel."""
SMALL_RAM = 2048
"""Bytes under which the quarter kernel's table lies in flash."""


@dataclass(frozen=True, kw_only=True)
class Int8Layer:
    """A same-padded square convolution with random weights; fully connected with ``size`` and ``kernel`` 1.

    Weights have 8 bits, or 4 (-7 to 7) for the kernel ``int4``.
    """

    size: int
    inputs: int
    outputs: int
    kernel: int
    depthwise: bool = False
    bits: int = 8

    @cached_property
    def weights(self) -> np.ndarray:
        """int8 (O, I/groups, k, k)."""
        shape = (self.outputs, 1 if self.depthwise else self.inputs, self.kernel, self.kernel)
        most = (1 << self.bits - 1) - 1
        return np.random.default_rng(3).integers(-most, most + 1, shape).astype(np.int8)

    @cached_property
    def shift(self) -> int:
        """So that outputs of random inputs use their range and some saturate."""
        return round(np.log2(np.sqrt(self.weights[0].size) * 74 * 2.0 ** (self.bits - 8) * 74 / 45))

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
        main.write_text(self._driver(kernel, board), encoding="utf-8")
        if board.ram < SMALL_RAM:
            options = (*options, "-DINT8_TABLE_IN_FLASH")
        return build(
            board, [main, FOLDER / FILES[kernel]], folder, include=[FOLDER], options=options, libraries=("-lgcc",)
        )

    def flash(self, image: Image, kernel: str) -> int:
        """Bytes of weights, offsets, and of those functions of the kernel's file that the image holds."""
        names = {f.name for f in image.objects[FILES[kernel]].functions}
        constants = self.weights.size * self.bits // 8 + 4 * self.outputs
        constants += 1024 if kernel == "quarter" and image.board.ram < SMALL_RAM else 0
        return constants + sum(f.size for f in image.elf.functions if f.name in names)

    def _block(self, words: np.ndarray) -> int:
        """Most words of eight weights (O, K/8, 8) whose products a lane of 16 bits holds, in every run of every row."""
        sums = np.abs(words.astype(np.int64)).sum(axis=2)
        count = words.shape[1]
        for block in range(count, 0, -1):
            runs = np.add.reduceat(sums, range(0, count, block), axis=1)
            if 128 * runs.max() < 1 << 15:
                return block
        raise ValueError(f"{self}: eight weights exceed a lane of 16 bits")

    def _driver(self, kernel: str, board: Board) -> str:
        order = (2, 3, 0, 1) if self.depthwise else (0, 2, 3, 1)
        levels = self.weights.transpose(order)
        block = 0
        if kernel == "int4":
            words = levels.reshape(self.outputs, -1, 8)
            block = self._block(words)
            packed = (words.astype(np.uint32) & 15) << np.arange(28, -4, -4, dtype=np.uint32)
            weights = _array("uint32_t", "weights", np.bitwise_or.reduce(packed, axis=2), "u")
        else:
            weights = _array("int8_t", "weights", levels)
        squares = ""
        if kernel == "quarter" and board.ram < SMALL_RAM:
            squares = "extern const uint16_t int8_squares[512];\n"
            squares += _array("uint16_t", "int8_squares", np.arange(-256, 256) ** 2 // 4, "u", visible=True)
        name = f"int8_{kernel}_depthwise" if self.depthwise else f"int8_{kernel}"
        size = self._scratch(kernel, board)
        scratch = f"static uint64_t scratch[{(size + 7) // 8}];" if size else "#define scratch 0"
        pixels = self.size * self.size
        return f"""#include "feed.h"
#include "int8.h"

{squares}{weights}{_array("int32_t", "offset", self.offset)}{scratch}
static int8_t x[{pixels * self.inputs}], y[{pixels * self.outputs}];

int main(void) {{
    const struct int8_layer layer = {{
        {self.size}, {self.size}, {self.inputs}, {self.outputs}, {self.kernel}, {self.shift},
        (const int8_t *)weights, offset, scratch, {block}}};
    while (feed_read(x, sizeof x)) {{
        region_begin();
        {name}(&layer, x, y);
        region_end();
        feed_write(y, sizeof y);
    }}
    return 0;
}}
"""

    def _scratch(self, kernel: str, board: Board) -> int:
        """Bytes of the kernel's working memory."""
        pointer, column = 2 if is_avr(board) else 4, self.kernel * self.kernel * self.inputs
        if kernel == "naive":
            return 0
        if kernel == "int4":
            return 16 * column
        if self.depthwise:
            return pointer * (self.size + 2) ** 2
        return 2 * pointer * column if kernel == "quarter" else 4 * column


def _array(ctype: str, name: str, values: np.ndarray, suffix: str = "", *, visible: bool = False) -> str:
    """A constant of C in flash."""
    text = ", ".join(f"{value}{suffix}" for value in values.reshape(-1))
    return f"{'' if visible else 'static '}const {ctype} {name}[{values.size}] INT8_FLASH = {{{text}}};\n"


LAYERS = {
    "linear 256-32": Int8Layer(size=1, inputs=256, outputs=32, kernel=1),
    "conv 1x1 8x8 32-32": Int8Layer(size=8, inputs=32, outputs=32, kernel=1),
    "conv 3x3 8x8 16-16": Int8Layer(size=8, inputs=16, outputs=16, kernel=3),
    "depthwise 3x3 8x8 32": Int8Layer(size=8, inputs=32, outputs=32, kernel=3, depthwise=True),
    "linear 32-16": Int8Layer(size=1, inputs=32, outputs=16, kernel=1),
    "conv 3x3 5x5 4-4": Int8Layer(size=5, inputs=4, outputs=4, kernel=3),
}
"""The shapes of ``graphs.LAYERS`` and ``graphs.TINY``."""
