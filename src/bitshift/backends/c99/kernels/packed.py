"""Packed codes, decoded once for several pixels: two to a word, up to four words a look-up.

A tile of cells (:mod:`.image`) meets the weights in blocks. For a block, every product that a code may mean is made
once (:mod:`~bitshift.backends.c99.symbols`); then each output's codes pick theirs. A block is as long as its lanes
provably hold its sums; with more than one block, 32-bit sums of the tile wait in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from bitshift.backends.c99 import cost
from bitshift.backends.c99.kernels import walk
from bitshift.backends.c99.kernels.geometry import Geometry, geometry, rows_of
from bitshift.backends.c99.kernels.image import Image, centred_offset, lanes_across
from bitshift.backends.c99.kernels.planned import Planned
from bitshift.backends.c99.layer import Code, Estimate, Layer
from bitshift.backends.c99.proof import centre, cut, starts_at
from bitshift.backends.c99.rule4 import Rule4
from bitshift.backends.c99.symbols import Symbols
from bitshift.backends.c99.targets import Target
from bitshift.backends.c99.text import Lines, Vector, indent, loop, narrowest, read, table


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the text is made from."""

    geo: Geometry
    image: Image
    symbols: Symbols
    ends: tuple[int, ...]
    offset: np.ndarray
    """Rule 4's, for the image's cells."""
    fused: bool
    """Whether lanes begin at the offset, so that nothing is added behind them."""

    @property
    def longest(self) -> int:
        """Weights of the longest block."""
        return max(b - a for a, b in pairwise((0, *self.ends)))

    @property
    def table_words(self) -> int:
        """32-bit words of the table."""
        return -(-self.longest // self.symbols.codes) * self.symbols.row // 4

    @property
    def image_words(self) -> int:
        """32-bit words of the image."""
        return 0 if self.image.direct else self.image.bytes // 4

    @property
    def sums(self) -> int:
        """Sums of an output in a tile."""
        return self.symbols.pairs * self.image.lanes

    @property
    def scratch(self) -> int:
        """Bytes."""
        parts = self.geo.outputs * self.sums if len(self.ends) > 1 else 0
        return 4 * (self.image_words + self.table_words + parts)

    def runs(self) -> list[list[tuple[int, int]]]:
        """For each block: places of the cells that lie side by side, and how many."""
        taps, blocks = self.image.taps(), []
        for start, end in pairwise((0, *self.ends)):
            runs: list[tuple[int, int]] = []
            for k in range(start, end):
                if runs and taps[k] == sum(runs[-1]):
                    runs[-1] = (runs[-1][0], runs[-1][1] + 1)
                else:
                    runs.append((taps[k], 1))
            blocks.append(runs)
        return blocks


class Packed(Planned[Plan]):
    """The kernel with ``pairs`` cells a look-up: more are faster and need more memory."""

    def __init__(self, pairs: int) -> None:
        self.pairs = pairs
        self.name = "packed" if pairs == 4 else f"packed-{pairs}"

    def make(self, layer: Layer, target: Target) -> Plan | str:
        """The plan; refuses wide formats, three spatial axes, depthwise layers, and tiles larger than the output."""
        return _plan(layer, target, self.pairs)

    def estimate(self, layer: Layer, target: Target) -> Estimate:
        """Cost on ``target``."""
        return cost.packed(layer, self.plan(layer, target), target)

    def emit(self, layer: Layer, target: Target) -> Code:
        """The C text."""
        return _Emitter(layer, self.plan(layer, target)).code()


TABLE = {4: 4096, 2: 2560, 1: 1280}
"""Most bytes of a table by pairs on cores with 32-bit registers; a quarter of it on others."""


def _plan(layer: Layer, target: Target, pairs: int) -> Plan | str:
    geo = geometry(layer)
    if geo is None:
        return "three spatial axes"
    if layer.format.bits > 5:
        return f"codes of {layer.format.bits} bits: a table would have {1 << layer.format.bits} entries for each input"
    if geo.outputs < 4:
        return f"{geo.outputs} outputs a group: the table of products would serve too few"
    places = geo.places
    if pairs > 1 and places < pairs * 2:
        return f"{places} pixels: too few for {pairs} pairs at a time"
    small = target.word < 4
    if small and pairs > 1:
        return f"{pairs} pairs a look-up need 32-bit registers"
    found = []
    for lanes in (1,) if small or places < 2 else (2, 1):
        for mid in dict.fromkeys((0, centre(min(layer.x.lo, 0), max(layer.x.hi, 0)))):
            made = _blocks(layer, geo, pairs, lanes, mid, small=small, far=target.far)
            if made is not None:
                found.append(made)
    if not found:
        return "the table of one input is too large"
    return min(found, key=lambda plan: (cost.packed(layer, plan, target).cycles, plan.scratch))


def _blocks(layer: Layer, geo: Geometry, pairs: int, lanes: int, mid: int, *, small: bool, far: bool) -> Plan | None:
    narrow = small or lanes == 2
    if not narrow and mid:
        return None
    word, box = (16, 8) if small else (32, 32)
    lo, hi = min(layer.x.lo, 0) - mid, max(layer.x.hi, 0) - mid
    cell = layer.x.ctype if not mid and lanes == 1 else ("int16_t" if small else "uint32_t")
    across = lanes == 1 or lanes_across(geo)
    image = Image(geo=geo, lanes=lanes, across=across, rows=1, mid=mid, xtype=layer.x.ctype, cell=cell)
    image = replace(image, rows=_strip(image))
    levels = rows_of(layer.levels.astype(np.int64), geo)
    codes = _codes_a_symbol(layer, image)
    symbols = Symbols(layer.format.name, codes, pairs, cell, word, box, far)
    room = TABLE[pairs] // (4 if small else 1) // symbols.row * codes
    most = max(codes, room)
    unit = symbols.a_box * codes if most >= symbols.a_box * codes else codes
    bits = 16 if narrow else 32
    ends = cut(levels, lo, hi, most=geo.inputs, bits=bits) if geo.inputs <= most else None
    if ends is None or len(ends) > 1:
        ends = cut(levels, lo, hi, most=most, unit=unit, bits=bits)
    if ends is None and unit > codes:
        ends = cut(levels, lo, hi, most=most, unit=codes, bits=bits)
    if ends is None:
        return None
    offset = centred_offset(layer, mid)
    left = bool((layer.mult != 1).any())
    fused = narrow and len(ends) == 1 and not left and not layer.wide
    if fused:
        fused = bool((abs(offset) < 1 << 20).all()) and starts_at(levels, lo, hi, offset)
    return Plan(geo=geo, image=image, symbols=symbols, ends=tuple(ends), offset=offset, fused=fused)


def _strip(image: Image) -> int:
    """Rows of a strip: as few as keep the copies of shared rows cheap, and at least a tile's cells."""
    rows, columns = image.pairs
    if image.direct or image.geo.kernel[0] == 1:
        want = max(1, -(-8 // columns))
    else:
        want = max(2, -(-8 // columns))
    strips = max(1, rows // want)
    return -(-rows // strips)


def _codes_a_symbol(layer: Layer, image: Image) -> int:
    """As many codes as fit 4 bits and never straddle cells that do not lie side by side."""
    taps = np.array(image.taps())
    for count in (4, 2):
        if layer.format.bits * count > 4 or len(taps) % count:
            continue
        groups = taps.reshape(-1, count)
        if (groups == groups[:, :1] + np.arange(count)).all():
            return count
    return 1


class _Emitter:
    def __init__(self, layer: Layer, plan: Plan) -> None:
        self.layer, self.plan, self.geo, self.image, self.symbols = layer, plan, plan.geo, plan.image, plan.symbols
        self.rule = Rule4.of(layer, offset=np.zeros_like(plan.offset) if plan.fused else plan.offset)
        lane = 0x10001 if self.image.lanes == 2 else 1
        self.start = Vector("start", layer.name, plan.offset * lane % (1 << 32), "uint32_t") if plan.fused else None
        self.tables = 0

    def code(self) -> Code:
        """The definitions, their needs and sizes."""
        layer, plan = self.layer, self.plan
        text = [*self.rule.text, *(self.start.text if self.start else []), *self._codes(), *self._blocks()]
        if not self.image.direct:
            text += walk.hidden(self.image.text(f"{layer.name}_image"))
        body = self._body()
        text += walk.function(layer, plan.scratch, body)
        return Code(
            text="\n".join(text) + "\n",
            scratch=plan.scratch,
            in_place=self._in_place(),
            needs=frozenset({self.symbols.fill, self.symbols.add, *self.rule.needs}),
            table_bytes=self.tables + self.rule.table_bytes + (self.start.table_bytes if self.start else 0),
        )

    def _in_place(self) -> frozenset[int]:
        """The residual's memory serves if no output is written twice: no lone pixel, no tile filled up with repeats."""
        rows, columns = self.image.pairs
        last = (rows - (self.image.strips - 1) * self.image.rows) * columns
        whole = (self.image.rows * columns) % self.symbols.pairs == 0 and last % self.symbols.pairs == 0
        return frozenset({1}) if whole and not self.image.odd else frozenset()

    def _codes(self) -> Lines:
        rows = rows_of(self.layer.codes, self.geo).reshape(self.geo.groups, self.geo.outputs, -1)
        parts = []
        for group in rows:
            for start, end in pairwise((0, *self.plan.ends)):
                block = group[:, start:end]
                block = np.pad(block, ((0, 0), (0, -block.shape[1] % self.symbols.codes)))
                parts.append(self.symbols.boxes(block).reshape(-1))
        values = np.concatenate(parts).astype(np.int64)
        self.tables += values.size * self.symbols.box // 8
        return table(f"{self.layer.name}_codes", values, f"uint{self.symbols.box}_t")

    def _lengths(self) -> list[tuple[int, int]]:
        """Full units and symbols of the last one, by block."""
        counts = np.diff(np.array([0, *self.plan.ends])) // self.symbols.codes
        return [divmod(int(n), self.symbols.a_box) for n in counts]

    def _blocks(self) -> Lines:
        """What the loop over blocks reads: runs of cells, lengths of codes."""
        if len(self.plan.ends) == 1:
            return []
        lines: Lines = []
        for name, values in self._columns.items():
            if name == "runs" and values.max() == 1:
                continue
            ctype, size = narrowest(values)
            self.tables += size * values.size
            lines += table(f"{self.layer.name}_{name}", values, ctype)
        return lines

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """Runs and lengths of the blocks: what the loop over them reads."""
        runs, lengths = self.plan.runs(), self._lengths()
        columns = {
            "runs": [len(block) for block in runs],
            "place": [place for block in runs for place, _ in block],
            "cells": [count // self.symbols.codes for block in runs for _, count in block],
            "boxes": [boxes for boxes, _ in lengths],
            "tail": [tail for _, tail in lengths],
        }
        return {name: np.array(values) for name, values in columns.items()}

    def _column(self, name: str, at: str) -> str:
        return read(narrowest(self._columns[name])[0], f"{self.layer.name}_{name} + {at}")

    def _body(self) -> Lines:
        plan, symbols, image = self.plan, self.symbols, self.image
        lines: Lines = []
        if not image.direct:
            lines.append(f"{image.cell} *const image = ({image.cell} *)(void *)scratch;")
        begin = f"scratch + {plan.image_words}" if plan.image_words else "scratch"
        lines.append(f"{symbols.type} *const table = ({symbols.type} *)(void *)({begin});")
        if len(plan.ends) > 1:
            lines.append(
                f"int32_t *const parts = (int32_t *)(void *)(scratch + {plan.image_words + plan.table_words});"
            )
        lines.append(f"const uint{symbols.box}_t *codes = {self.layer.name}_codes;")
        if self.geo.groups > 1:
            lines.append("size_t first = 0;")
        per_group = sum(self._units()) * self.geo.outputs
        return [*lines, *walk.strips(self.layer, image, self._strip(), group=[f"codes += {per_group};"])]

    def _units(self) -> list[int]:
        return [boxes + (tail > 0) for boxes, tail in self._lengths()]

    def _strip(self) -> Lines:
        image, pairs = self.image, self.symbols.pairs
        lines: Lines = []
        if image.rows > 1 and image.pairs[1] > 1:
            lines.append(f"uint_fast16_t column = {image.pairs[1]};")
        take = ["from[p] = cells;", "place_0[p] = out;"]
        declare = [f"const {image.cell} *from[{pairs}];", f"size_t place_0[{pairs}];"]
        if image.lanes == 2:
            declare.append(f"size_t place_1[{pairs}];")
            take.append(f"place_1[p] = {walk.high(image)};")
        step = ["todo--;", *walk.advance(image)]
        if pairs == 1:
            take = [line.replace("[p]", "[0]") for line in [*take, *step]]
            tile = [*declare, *take, *self._tile()]
        else:
            again = ["from[p] = from[p - 1];", "place_0[p] = place_0[p - 1];"]
            if image.lanes == 2:
                again.append("place_1[p] = place_1[p - 1];")
            tile = [
                *declare, "uint_fast8_t p;", f"for (p = 0; p < {pairs}; p++) {{",
                *indent(["if (todo != 0) {", *indent([*take, *step]), "} else {", *indent(again), "}"]), "}",
                *self._tile(),
            ]  # fmt: skip
        return [*lines, "while (todo != 0) {", *indent(tile), "}"]

    def _tile(self) -> Lines:
        return self._one_block() if len(self.plan.ends) == 1 else self._many_blocks()

    @property
    def _first(self) -> str:
        return "first" if self.geo.groups > 1 else "0"

    def _outputs(self, body: Lines, begin: Lines) -> Lines:
        """``body`` for every output of the group; ``o`` counts over all groups."""
        lines = [*begin, "uint_fast16_t count;", f"size_t o = {self._first};"]
        return [*lines, f"for (count = {self.geo.outputs}; count != 0; count--) {{", *indent([*body, "o++;"]), "}"]

    def _one_block(self) -> Lines:
        symbols = self.symbols
        (runs,), (lengths,) = self.plan.runs(), self._lengths()
        fills = [f"{symbols.type} *end = table;"] if len(runs) > 1 else []
        target = "end" if len(runs) > 1 else "table"
        for place, count in runs:
            call = f"{symbols.fill}({target}, from, {place}, {count // symbols.codes});"
            fills.append(f"end = {call}" if len(runs) > 1 else f"(void){call}")
        if len(runs) > 1:
            fills.append("(void)end;")
        body = [
            f"{symbols.type} sum[{symbols.pairs}];",
            f"{symbols.add}(table, code, {lengths[0]}, {lengths[1]}, sum);",
            f"code += {self._units()[0]};",
            *self.rule.load("o"),
            *(self.start.load("o") if self.start else []),
        ]
        each: Lines = []
        for lane, value in self._lanes("sum[p]"):
            each += self._store(value, lane)
        body += self._over_pairs(each)
        body += self._next_output()
        return [*fills, *self._outputs(body, [f"const uint{symbols.box}_t *code = codes;", *self._places()])]

    def _many_blocks(self) -> Lines:
        symbols, plan = self.symbols, self.plan
        blocks = len(plan.ends)
        clear = [
            "uint_fast16_t n;",
            f"for (n = 0; n < {self.geo.outputs * plan.sums}; n++) {{",
            "    parts[n] = 0;",
            "}",
        ]
        per_run = [
            f"end = {symbols.fill}(end, from, {self._column('place', 'run')}, {self._column('cells', 'run')});",
            "run++;",
        ]
        most = max(len(block) for block in plan.runs())
        fill = [f"{symbols.type} *end = table;"]
        if most == 1:
            fill += per_run
        else:
            fill += ["uint_fast16_t turn;", f"for (turn = {self._column('runs', 'block')}; turn != 0; turn--) {{"]
            fill += [*indent(per_run), "}"]
        fill.append("(void)end;")
        add: Lines = []
        for lane, value in self._lanes("sum[p]"):
            place = f"part[{'p' if lane == 'low' else f'p + {symbols.pairs}'}]"
            add.append(f"{place} += {value};")
        body = [
            f"{symbols.type} sum[{symbols.pairs}];",
            f"{symbols.add}(table, code, boxes, tail, sum);",
            "code += units;",
            *self._over_pairs(add),
            f"part += {plan.sums};",
        ]
        per_block = [
            *fill,
            f"const uint_fast16_t boxes = {self._column('boxes', 'block')};",
            f"const uint_fast8_t tail = {self._column('tail', 'block')};",
            "const uint_fast16_t units = (uint_fast16_t)(boxes + (tail != 0));",
            "int32_t *part = parts;",
            "uint_fast16_t count;",
            f"for (count = {self.geo.outputs}; count != 0; count--) {{", *indent(body), "}",
        ]  # fmt: skip
        begin = [*clear, f"const uint{symbols.box}_t *code = codes;", "size_t run = 0;"]
        last: Lines = [*self.rule.load("o")]
        each: Lines = []
        for lane in ("high", "low")[2 - self.image.lanes :]:
            each += self._store(f"part[{'p' if lane == 'low' else f'p + {symbols.pairs}'}]", lane)
        last += [*self._over_pairs(each), f"part += {plan.sums};", *self._next_output()]
        return [
            *begin, *loop("block", blocks, [], per_block),
            *self._outputs(last, ["const int32_t *part = parts;", *self._places()]),
        ]  # fmt: skip

    def _lanes(self, word: str) -> list[tuple[str, str]]:
        """Lanes of a sum, the high one first: where an output has no second pixel, the low one is written last."""
        if self.image.lanes == 2:
            word = f"({word} + start)" if self.start else word
            high = f"BS_SAR((int32_t)({word} + UINT32_C(0x8000)), 16)"
            return [("high", high), ("low", f"BS_SAR((int32_t)({word} << 16), 16)")]
        word = f"({self.symbols.type})({word} + start)" if self.start else word
        return [("low", f"(int16_t){word}" if self.symbols.word == 16 else f"(int32_t){word}")]

    def _over_pairs(self, body: Lines) -> Lines:
        if self.symbols.pairs == 1:
            return [line.replace("[p]", "[0]").replace("[p + 1]", "[1]") for line in body]
        return [f"for (p = 0; p < {self.symbols.pairs}; p++) {{", *indent(body), "}"]

    def _store(self, value: str, lane: str) -> Lines:
        y, residual = self.layer.y.ctype, "more[at]" if self.layer.residual is not None else ""
        lines = [
            f"const size_t at = place_{int(lane == 'high')}[p];",
            f"const int32_t acc = {value};",
            *self.rule.finish("acc", residual),
        ]
        return ["{", *indent([*lines, f"to[at] = ({y})v;"]), "}"]

    def _places(self) -> Lines:
        lines = [f"{self.layer.y.ctype} *to = y;"]
        if self.layer.residual is not None:
            lines.append(f"const {self.layer.residual.ctype} *more = residual;")
        return lines

    def _next_output(self) -> Lines:
        step = self.geo.y_step[0]
        lines = [f"to += {step};"]
        return [*lines, f"more += {step};"] if self.layer.residual is not None else lines


__all__ = ["Packed", "Plan"]
