"""The C text of the packed kernel: codes, the loop over tiles and blocks, and the function that rounds and stores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from bitshift.backends.c99.kernels import walk
from bitshift.backends.c99.kernels.geometry import rows_of
from bitshift.backends.c99.kernels.packed_plan import Plan
from bitshift.backends.c99.layer import Code, Layer
from bitshift.backends.c99.rule4 import Rule4
from bitshift.backends.c99.text import Lines, Vector, counter, indent, loop, narrowest, read, table


def write(layer: Layer, plan: Plan) -> Code:
    """``layer`` in C as planned."""
    return _Emitter(layer, plan).code()


class _Emitter:
    def __init__(self, layer: Layer, plan: Plan) -> None:
        self.layer, self.plan, self.geo, self.image, self.symbols = layer, plan, plan.geo, plan.image, plan.symbols
        self.rule = Rule4.of(layer, offset=np.zeros_like(plan.offset) if plan.fused else plan.offset)
        self.start = Vector("start", layer.name, plan.offset if plan.fused else np.zeros(1, dtype=np.int64))
        self.tables = 0

    def code(self) -> Code:
        """The definitions, their needs and sizes."""
        layer, plan = self.layer, self.plan
        text = [*self.rule.text, *self.start.text, *self._codes(), *self._column_tables()]
        if not self.image.direct:
            text += walk.hidden(self.image.text(f"{layer.name}_image"))
        text += [*self._put(), *walk.function(layer, plan.scratch, self._body())]
        return Code(
            text="\n".join(text) + "\n",
            scratch=plan.scratch,
            in_place=self._in_place(),
            needs=frozenset({self.symbols.fill, self.symbols.add, *self.rule.needs}),
            table_bytes=self.tables + self.rule.table_bytes + self.start.table_bytes,
        )

    def _in_place(self) -> frozenset[int]:
        """The residual's memory serves if no output is written twice: no lone pixel, no tile filled up with repeats."""
        rows, columns = self.image.pairs
        last = (rows - (self.image.strips - 1) * self.image.rows) * columns
        whole = (self.image.rows * columns) % self.symbols.pairs == 0 and last % self.symbols.pairs == 0
        return frozenset({1}) if whole and not self.image.odd else frozenset()

    def _table(self, name: str, values: np.ndarray, ctype: str = "") -> Lines:
        """A table of the layer, counted."""
        kind = ctype or narrowest(values)[0]
        self.tables += values.size * int(kind.removesuffix("_t").removeprefix("u").removeprefix("int")) // 8
        return table(f"{self.layer.name}_{name}", values, kind)

    @cached_property
    def _packed(self) -> tuple[np.ndarray, np.ndarray]:
        """Full boxes and, where a block leaves some symbols, those, by group of channels, block and output."""
        rows = rows_of(self.layer.codes, self.geo).reshape(self.geo.groups, self.geo.outputs, -1)
        full, rest = [], []
        for group in rows:
            for (first, last), (boxes, tail) in zip(self.plan.blocks, self.plan.lengths, strict=True):
                cut = first + boxes * self.symbols.a_box * self.symbols.codes
                full.append(self.symbols.boxes(group[:, first:cut]).reshape(-1))
                if tail:
                    rest.append(self.symbols.rest(group[:, cut:last]))
        none = np.zeros(0, dtype=np.int64)
        return np.concatenate(full).astype(np.int64), np.concatenate(rest).astype(np.int64) if rest else none

    def _codes(self) -> Lines:
        full, rest = self._packed
        lines = self._table("codes", full, f"uint{self.symbols.box}_t") if full.size else []
        return [*lines, *(self._table("rest", rest) if rest.size else [])]

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """By block: what the loop over them reads; ``place`` and ``cells`` by run of cells."""
        runs, lengths = self.plan.runs(), self.plan.lengths
        columns = {
            "runs": [len(block) for block in runs],
            "place": [place for block in runs for place, _ in block],
            "cells": [count for block in runs for _, count in block],
            "boxes": [boxes for boxes, _ in lengths],
            "tail": [int(tail > 0) for _, tail in lengths],
            "held": [int(held) for held in self.plan.held],
        }
        return {name: np.array(values) for name, values in columns.items()}

    def _varies(self, name: str) -> bool:
        return len(np.unique(self._columns[name])) > 1

    def _column_tables(self) -> Lines:
        if len(self.plan.ends) == 1:
            return []
        return [
            line for name, values in self._columns.items() if self._varies(name) for line in self._table(name, values)
        ]

    def _column(self, name: str, at: str = "block") -> str:
        """The element of a column: a constant where all are equal."""
        values = self._columns[name]
        return read(narrowest(values)[0], f"{self.layer.name}_{name} + {at}") if self._varies(name) else str(values[0])

    def _body(self) -> Lines:
        plan, symbols, image = self.plan, self.symbols, self.image
        full, rest = self._packed
        lines: Lines = []
        if not image.direct:
            lines.append(f"{image.cell} *const image = ({image.cell} *)(void *)scratch;")
        at, places = 0, {"table": plan.image_words, "sums": plan.table_words, "parts": plan.sum_words}
        for name, words in places.items():
            at += words
            kind = "int32_t" if name == "parts" else symbols.type
            if name == "table" or (name == "sums" and plan.sum_words) or (name == "parts" and plan.parts):
                lines.append(f"{kind} *const {name} = ({kind} *)(void *)(scratch{f' + {at}' if at else ''});")
        group: Lines = []
        for name, values in (("codes", full), ("rest", rest)):
            if values.size or name == "codes":
                kind = f"uint{symbols.box}_t" if name == "codes" else narrowest(values)[0]
                lines.append(f"const {kind} *{name} = {f'{self.layer.name}_{name}' if values.size else '0'};")
                group += [f"{name} += {values.size // self.geo.groups};"] if values.size else []
        if self.geo.groups > 1:
            lines.append("size_t first = 0;")
        return [*lines, *walk.strips(self.layer, image, self._strip(), group=group)]

    def _strip(self) -> Lines:
        image, pairs = self.image, self.symbols.pairs
        lines: Lines = []
        if image.rows > 1 and image.pairs[1] > 1:
            lines.append(f"{counter(image.pairs[1])} column = {image.pairs[1]};")
        declare = [f"const {image.cell} *from[{pairs}];", f"size_t place[{pairs * image.lanes}];"]
        step = ["todo--;", *walk.advance(image)]
        if pairs == 1:
            tile = [*declare, *self._take("0", "1"), *step, *self._tile()]
        else:
            take, again = self._take("p", f"p + {pairs}"), ["from[p] = from[p - 1];", "place[p] = place[p - 1];"]
            if image.lanes == 2:
                again.append(f"place[p + {pairs}] = place[p + {pairs - 1}];")
            tile = [
                *declare, "uint_fast8_t p;", f"for (p = 0; p < {pairs}; p++) {{",
                *indent(["if (todo != 0) {", *indent([*take, *step]), "} else {", *indent(again), "}"]), "}",
                *self._tile(),
            ]  # fmt: skip
        return [*lines, "while (todo != 0) {", *indent(tile), "}"]

    def _take(self, low: str, high: str) -> Lines:
        """A pair of pixels joins the tile: where its cells begin, and the places of its outputs."""
        lines = [f"from[{low}] = cells;", f"place[{low}] = out;"]
        return [*lines, f"place[{high}] = {walk.high(self.image)};"] if self.image.lanes == 2 else lines

    def _tile(self) -> Lines:
        full, rest = self._packed
        lines = [f"const uint{self.symbols.box}_t *code = codes;"]
        if rest.size:
            lines.append(f"const {narrowest(rest)[0]} *left_over = rest;")
        if not full.size:
            lines.append("(void)code;")
        return [*lines, *(self._one_block() if len(self.plan.ends) == 1 else self._many_blocks())]

    def _outputs(self, begin: Sequence[str], body: Sequence[str]) -> Lines:
        """``body`` for every output of the group; ``o`` counts over all groups."""
        first = "first" if self.geo.groups > 1 else "0"
        lines = [*begin, f"{counter(self.geo.outputs)} count;", f"size_t o = {first};"]
        inner = [f"for (count = {self.geo.outputs}; count != 0; count--) {{", *indent([*body, "o++;"]), "}", "(void)o;"]
        return ["{", *indent([*lines, *inner]), "}"]

    def _one_block(self) -> Lines:
        symbols = self.symbols
        (runs,), ((boxes, tail),) = self.plan.runs(), self.plan.lengths
        target = "end" if len(runs) > 1 else "table"
        fills = [f"{symbols.type} *end = table;"] if len(runs) > 1 else []
        for place, count in runs:
            call = f"{symbols.fill}({target}, from, {place}, {count});"
            fills.append(f"end = {call}" if len(runs) > 1 else f"(void){call}")
        fills += ["(void)end;"] if len(runs) > 1 else []
        body = [f"{symbols.type} sum[{symbols.pairs}];", *self._begin(), *self._add(str(boxes), "1" if tail else "0")]
        return [*fills, *self._outputs(self._targets(), [*body, *self._finish()])]

    def _many_blocks(self) -> Lines:
        symbols, plan = self.symbols, self.plan
        entries = self.geo.outputs * symbols.pairs
        if self.start.uniform:
            lines, word = self._start()
            begin = [f"{counter(max(entries, plan.parts))} n;", *lines]
            clear = [*begin, f"for (n = 0; n < {entries}; n++) {{", f"    sums[n] = {word};", "}"]
        else:
            clear = self._outputs([f"{symbols.type} *sum = sums;"], [*self._begin(), f"sum += {symbols.pairs};"])
        if plan.parts:
            clear += [f"for (n = 0; n < {plan.parts}; n++) {{", "    parts[n] = 0;", "}"]
        walked = any(map(self._varies, ("place", "cells")))
        fill = [f"end = {symbols.fill}(end, from, {self._column('place', 'run')}, {self._column('cells', 'run')});"]
        fill += ["run++;"] if walked else []
        if self._varies("runs") or self._columns["runs"][0] > 1:
            kind, turns = counter(int(self._columns["runs"].max())), self._column("runs")
            fill = [f"{kind} turn;", f"for (turn = {turns}; turn != 0; turn--) {{", *indent(fill), "}"]
        per_block = [
            f"{symbols.type} *end = table;", *fill, "(void)end;",
            f"const uint_fast16_t boxes = {self._column('boxes')};",
            *self._outputs([f"{symbols.type} *sum = sums;"], [
                *self._add("boxes", self._column("tail")), f"sum += {symbols.pairs};"
            ]),
            *self._spill(),
        ]  # fmt: skip
        last = [*self._finish(), f"sum += {symbols.pairs};"]
        begin = [f"const {symbols.type} *sum = sums;", *self._targets()]
        if plan.parts:
            begin.append("const int32_t *part = parts;")
            last.append(f"part += {symbols.pairs * self.image.lanes};")
        clear += ["size_t run = 0;"] if walked else []
        return [*clear, *loop("block", len(plan.ends), [], per_block), *self._outputs(begin, last)]

    def _begin(self) -> Lines:
        """The sums of output ``o`` as they begin."""
        lines, word = self._start()
        return [*lines, *(f"sum[{p}] = {word};" for p in range(self.symbols.pairs))]

    def _start(self) -> tuple[Lines, str]:
        """What stands before the start of output ``o`` in every lane, and that value."""
        if not self.start.values.any():
            return [], "0"
        lines = self.start.load("o")
        if self.image.lanes == 1:
            return lines, f"({self.symbols.type})start"
        lines += ["uint32_t upper = (uint32_t)start << 16;", "BS_OPAQUE(upper);"]  # GCC for RV32IM: start * 65537
        return lines, "(uint32_t)start + upper"

    def _add(self, boxes: str, tail: str) -> Lines:
        """Add the block to the sums of an output; ``tail`` says whether symbols follow its full boxes."""
        kind, one = f"uint{self.symbols.box}_t", "1"
        lines: Lines = []
        if self._packed[1].size and tail != "0":
            take = read(narrowest(self._packed[1])[0], "left_over")
            one = "left"
            lines = [f"{kind} left = ({kind}){take};", "left_over++;"]
            if tail != "1":
                lines = [
                    f"{kind} left = 1;",
                    f"if ({tail} != 0) {{",
                    f"    left = ({kind}){take};",
                    "    left_over++;",
                    "}",
                ]
        lines.append(f"{self.symbols.add}(table, code, {boxes}, {one}, sum);")
        return [*lines, *([f"code += {boxes};"] if boxes != "0" else [])]

    def _spill(self) -> Lines:
        """Lanes that the next block could overflow go to the 32-bit sums."""
        plan, pairs = self.plan, self.symbols.pairs
        if not plan.spills:
            return []
        steps = [f"part[{pairs if lane == 'high' else 0}] += {value};" for lane, value in self._lanes("q")]
        body = [f"const {self.symbols.type} q = *sum;", *steps, "*sum = 0;", "sum++;", "part++;"]
        if pairs > 1:
            body = [f"for (p = {pairs}; p != 0; p--) {{", *indent(body), "}"]
        body += [f"part += {pairs};"] if self.image.lanes == 2 else []
        lines = self._outputs([f"{self.symbols.type} *sum = sums;", "int32_t *part = parts;"], body)
        return [f"if ({self._column('held')} == 0) {{", *indent(lines), "}"] if self._varies("held") else lines

    def _targets(self) -> Lines:
        """Where the outputs of a channel begin."""
        lines = [f"{self.layer.y.ctype} *to = y;"]
        if self.layer.residual is not None:
            lines.append(f"const {self.layer.residual.ctype} *more = residual;")
        return lines

    def _finish(self) -> Lines:
        step = self.geo.y_step[0]
        call = ["sum", "place", "to", "o", *(["more"] if self.layer.residual is not None else [])]
        call += ["part"] if self.plan.parts else []
        lines = [f"{self.layer.name}_put({', '.join(call)});", f"to += {step};"]
        return [*lines, f"more += {step};"] if self.layer.residual is not None else lines

    def _put(self) -> Lines:
        """The function that rounds and stores an output's sums: few values live, so that registers hold them all."""
        layer, pairs, parts = self.layer, self.symbols.pairs, bool(self.plan.parts)
        arguments = [f"const {self.symbols.type} *sum", "const size_t *place", f"{layer.y.ctype} *to", "size_t o"]
        if layer.residual is not None:
            arguments.append(f"const {layer.residual.ctype} *more")
        arguments += ["const int32_t *part"] if parts else []
        each = [f"const {self.symbols.type} q = *sum;"]
        for lane, value in self._lanes("q"):
            at = pairs if lane == "high" else 0
            finish = self.rule.finish("acc", "more[at]" if layer.residual is not None else "")
            value = f"part[{at}] + {value}" if parts else value
            each += ["{", *indent([
                f"const size_t at = place[{at}];", f"const int32_t acc = {value};", *finish,
                f"to[at] = ({layer.y.ctype})v;",
            ]), "}"]  # fmt: skip
        if pairs > 1:
            each += ["sum++;", "place++;", *(["part++;"] if parts else [])]
            each = ["uint_fast8_t p;", f"for (p = {pairs}; p != 0; p--) {{", *indent(each), "}"]
        lines = [*self.rule.load("o"), *each, "(void)o;"]
        return [f"BS_SMALL static void {layer.name}_put({', '.join(arguments)})", "{", *indent(lines), "}"]

    def _lanes(self, word: str) -> list[tuple[str, str]]:
        """Lanes of a sum, the high one first: where an output has no second pixel, the low one is written last."""
        if self.image.lanes == 2:
            high = f"BS_SAR((int32_t)({word} + UINT32_C(0x8000)), 16)"
            return [("high", high), ("low", f"BS_SAR((int32_t)({word} << 16), 16)")]
        return [("low", f"(int16_t){word}" if self.symbols.word == 16 else f"(int32_t){word}")]


__all__ = ["write"]
