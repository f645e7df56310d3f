"""The C text of the straight-line kernel."""

from __future__ import annotations

from bitshift.backends.c99.kernels import walk
from bitshift.backends.c99.kernels.unrolled_plan import Plan
from bitshift.backends.c99.kernels.unrolled_sums import Sums
from bitshift.backends.c99.layer import Code, Layer
from bitshift.backends.c99.rule4 import Amount, Rule4, rounded
from bitshift.backends.c99.targets import Target
from bitshift.backends.c99.text import Lines, counter, indent, stepped, unsigned

REACH = 31
"""Cells that a Thumb load reaches by a constant offset."""


def write(layer: Layer, plan: Plan, target: Target) -> Code:
    """``layer`` in C as planned."""
    return _Emitter(layer, plan, target).code()


class _Emitter:
    def __init__(self, layer: Layer, plan: Plan, target: Target) -> None:
        self.layer, self.plan, self.geo, self.image, self.target = layer, plan, plan.geo, plan.image, target
        self.tight = target.thumb1 and self.geo.groups == 1
        """Few registers: pointers wait in memory."""
        self.sums = Sums(plan, target)
        self.rule = Rule4.of(layer, offset=plan.offset)

    def code(self) -> Code:
        """The definitions."""
        layer, plan = self.layer, self.plan
        text: Lines = [] if self.image.direct else walk.hidden(self.image.text(f"{layer.name}_image"))
        if self.geo.groups > 1:
            return self._grouped(text)
        text += self._pixel()
        lines: Lines = []
        if not self.image.direct:
            lines.append(f"{self.image.cell} *const image = ({self.image.cell} *)(void *)scratch;")
        body = walk.strips(layer, self.image, self._strip())
        return self._made([*text, *walk.function(layer, plan.scratch, [*lines, *body])])

    def _made(self, text: Lines, table_bytes: int = 0) -> Code:
        # A lone pixel's output is written twice, so its residual must stay.
        place = frozenset[int]() if self.image.odd else frozenset({1})
        return Code(
            text="\n".join(text) + "\n",
            scratch=self.plan.scratch,
            needs=self.rule.needs,
            table_bytes=table_bytes,
            in_place=place,
        )

    def _grouped(self, text: Lines) -> Code:
        """A function a group, which walks the pairs of a strip itself, and a table of them."""
        layer, image, geo = self.layer, self.image, self.geo
        names = [f"{layer.name}_g{group}" for group in range(geo.groups)]
        arguments = self._arguments()
        counts = [f"{counter(image.rows)} rows", "size_t apart"]
        if image.odd and not image.across:
            counts.append("uint_fast16_t single")
        for group, name in enumerate(names):
            text += self._group(group, name, [*arguments, *counts])
        kinds = ", ".join([*(a[: a.rindex("*") + 1] for a in arguments), *(c.split()[0] for c in counts)])
        text.append(f"typedef void {layer.name}_group({kinds});")
        text.append(f"static {layer.name}_group *const {layer.name}_groups[{geo.groups}] BS_FLASH = {{")
        text += [*indent([f"{name}," for name in names]), "};"]
        call = ["cells", "y + out", *(["residual + out"] if layer.residual is not None else [])]
        apart = f"{image.high_out}" if image.lanes == 2 else "0"
        rows = f"{image.rows}"
        last = image.pairs[0] - (image.strips - 1) * image.rows
        if image.strips > 1 and last != image.rows:
            rows = f"strip == {image.strips - 1} ? {last} : {image.rows}"
        call += [rows, apart]
        if image.odd and not image.across:
            call.append(f"strip == {image.strips - 1} ? 1 : 0" if image.strips > 1 else "1")
        one = f"BS_READ_FUNCTION({layer.name}_group, {layer.name}_groups + g)"
        body = ["(void)todo;", f"{one}({', '.join(call)});"]
        lines = [] if image.direct else [f"{image.cell} *const image = ({image.cell} *)(void *)scratch;"]
        lines += ["size_t first = 0;", *walk.strips(layer, image, body), "(void)first;"]
        text += walk.function(layer, self.plan.scratch, lines)
        return self._made(text, table_bytes=geo.groups * self.target.word)

    def _arguments(self) -> list[str]:
        layer = self.layer
        found = [f"const {self.image.cell} *cells", f"{layer.y.ctype} *y"]
        return [*found, f"const {layer.residual.ctype} *r"] if layer.residual is not None else found

    def _group(self, group: int, name: str, arguments: list[str]) -> Lines:
        layer, image, geo = self.layer, self.image, self.geo
        begin, step = [], geo.y_step[2]
        y_down, down, right = geo.y_step[1], *image.step
        columns = image.pairs[1]
        lanes = [0, 1][: image.lanes]
        apart = "apart"
        if image.odd:
            apart = "(column == 1 ? 0 : apart)" if image.across else "(rows == single ? 0 : apart)"
        for lane in lanes:
            begin.append(f"{layer.y.ctype} *y{lane} = y{f' + {apart}' if lane else ''};")
            if layer.residual is not None:
                begin.append(f"const {layer.residual.ctype} *r{lane} = r{f' + {apart}' if lane else ''};")
        body = [*begin]
        first = group * geo.outputs
        for at in range(first, first + geo.outputs, self.plan.joint):
            body += ["{", *indent(self._outputs(range(at, min(at + self.plan.joint, first + geo.outputs)))), "}"]
        body += [f"(void)y{lane};" for lane in lanes]
        if layer.residual is not None:
            body += [f"(void)r{lane};" for lane in lanes]
        body += [f"cells += {right};", f"y += {step};", *([f"r += {step};"] if layer.residual is not None else [])]
        row = [f"for (column = {columns}; column != 0; column--) {{", *indent(body), "}"]
        jumps = {"cells": down - columns * right, "y": y_down - columns * step}
        if layer.residual is not None:
            jumps["r"] = jumps["y"]
        row += stepped(*jumps.items())
        row = walk.hidden(row) + walk.settled("y", *(["r"] if layer.residual is not None else []))
        lines = [f"{counter(columns)} column;", "for (; rows != 0; rows--) {", *indent(row), "}"]
        if image.lanes == 1:
            lines.append("(void)apart;")
        head = f"BS_SMALL static void {name}({', '.join(arguments)})"
        return [head, "{", *indent(lines), "}"]

    def _strip(self) -> Lines:
        image = self.image
        lines: Lines = []
        if image.rows > 1 and image.pairs[1] > 1:
            lines.append(f"{counter(image.pairs[1])} column = {image.pairs[1]};")
        call = ["cells, y + out"]
        lanes = [f"size_t high = {walk.high(image)};"] if image.lanes == 2 else []
        if image.lanes == 2:
            call.append("y + high")
        if self.layer.residual is not None:
            call.append("residual + out")
            if image.lanes == 2:
                call.append("residual + high")
        body = [*lanes, f"{self.layer.name}_pixel({', '.join(call)});", "todo--;", *walk.advance(image)]
        return [*lines, "while (todo != 0) {", *indent(body), "}"]

    def _pixel(self) -> Lines:
        """The function of one cell's outputs: straight-line code."""
        layer, image = self.layer, self.image
        arguments = [f"const {image.cell} *cells", f"{layer.y.ctype} *y0"]
        if image.lanes == 2:
            arguments.append(f"{layer.y.ctype} *y1")
        if layer.residual is not None:
            arguments.append(f"const {layer.residual.ctype} *r0")
            if image.lanes == 2:
                arguments.append(f"const {layer.residual.ctype} *r1")
        body: Lines = []
        for first in range(0, self.geo.outputs, self.plan.joint):
            outputs = range(first, min(first + self.plan.joint, self.geo.outputs))
            body += ["{", *indent(self._outputs(outputs)), "}"]
        if self.tight:
            pairs = [argument.rsplit("*", 1) for argument in arguments[1:]]
            held = [f"{kind}*volatile {name}_at = {name};" for kind, name in pairs]
            body = [f"const {image.cell} *volatile cells_at = cells;", *held, *body]
        head = f"BS_SMALL static void {layer.name}_pixel({', '.join(arguments)})"
        return [head, "{", *indent(body), "}"]

    def _outputs(self, outputs: range) -> Lines:
        rows = self.plan.rows
        ends = sorted({end for o in outputs for end in rows[o].ends})
        lines: Lines = [f"const {self.image.cell} *x = cells{'_at' * self.tight};"]
        names = {name for o in outputs for b in range(len(rows[o].groups)) for name, _ in self.sums.accumulators(o, b)}
        declare = [f"{self.sums.type} {name} = 0;" for name in sorted(names)]
        many = [o for o in outputs if len(rows[o].ends) > 1]
        for o in outputs:
            if o in many or not self.sums.whole(o):
                declare += [f"int32_t t{o}_{lane} = 0;" for lane in range(self.image.lanes)]
        at, places = 0, self.image.taps()
        for k in range(self.geo.inputs):
            used = [o for o in outputs if rows[o].digits[:, k].any()] if len(rows) else []
            if used:
                if not self.target.far and not 0 <= places[k] - at <= REACH:
                    lines += [*stepped(("x", places[k] - at)), "BS_OPAQUE(x);"]
                    if self.tight:
                        lines += [f"BS_OPAQUE({name});" for name in sorted(names)]
                    at = places[k]
                lines += self.sums.weight(k, places[k] - at, used)
            if k + 1 in ends:
                for o in many:
                    if k + 1 in rows[o].ends:
                        lines += self.sums.flush(o, rows[o].ends.index(k + 1))
        for o in outputs:
            lines += self._finish(o)
        lines += ["(void)x;"]
        return [*declare, *lines]

    def _finish(self, output: int) -> Lines:
        row, layer = self.plan.rows[output], self.layer
        lines: Lines = []
        offset = int(self.rule.offset[output])
        if self.sums.whole(output):
            lines += self.sums.hide(output, 0)
            (text,) = [text for text, _ in self.sums.join(output, 0)] or ["0"]
            if row.fused:
                lane = 0x10001 if self.image.lanes == 2 else 1
                if offset:
                    text = f"{text} + {unsigned(offset * lane)}"
                offset = 0
            lines.append(f"const {self.sums.type} q = ({self.sums.type})({text});")
            sums = [self.sums.lane("q", lane) for lane in range(self.image.lanes)]
        else:
            if len(row.ends) == 1:
                lines += self.sums.flush(output, 0)
            sums = [f"t{output}_{lane}" for lane in range(self.image.lanes)]
        step = self.geo.y_step[0]
        for lane in reversed(range(self.image.lanes)):
            y, r = f"y{lane}", f"r{lane}"
            before, after = [], [f"{y} += {step};"]
            if layer.residual is not None:
                after.append(f"{r} += {step};")
            if self.tight:
                before = [f"{layer.y.ctype} *const y = y{lane}_at;"]
                after, y = [f"y{lane}_at = y + {step};"], "y"
                if layer.residual is not None:
                    before.append(f"const {layer.residual.ctype} *const r = r{lane}_at;")
                    after.append(f"r{lane}_at = r + {step};")
                    r = "r"
            terms: list[tuple[str, Amount]] = [("acc", int(self.rule.mult[output]).bit_length() - 1)]
            if layer.residual is not None:
                terms.append((f"*{r}", int(self.rule.res_shift[output])))
            end = rounded(terms, offset, int(self.rule.shift[output]), layer.lo, layer.hi, wide=layer.wide)
            body = [f"const int32_t acc = {sums[lane]};", *before, *end, f"*{y} = ({layer.y.ctype})v;", *after]
            lines += ["{", *indent(body), "}"]
        return ["{", *indent(lines), "}"]


__all__ = ["write"]
