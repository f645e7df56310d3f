"""Depthwise convolutions in little code: a pass over a channel's pixels for each term of its few weights.

The sums of a channel's output lie in memory, two to a word where the proof allows; a term shifts and adds or
subtracts a shifted view of the channel's image (:mod:`.image`). A byte a term says the shift, the sign and whether it
is the last of its weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bitshift.backends.c99 import cost
from bitshift.backends.c99.kernels import walk
from bitshift.backends.c99.kernels.geometry import Geometry, geometry, rows_of
from bitshift.backends.c99.kernels.image import Image, centred_offset, lanes_across
from bitshift.backends.c99.kernels.planned import Planned
from bitshift.backends.c99.layer import Code, Estimate, Layer
from bitshift.backends.c99.proof import centre, fits, planes
from bitshift.backends.c99.rule4 import Rule4
from bitshift.backends.c99.targets import Target
from bitshift.backends.c99.text import Lines, counter, indent, narrowest, read, stepped, table


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the text is made from; ``terms`` a byte each, ``offset`` that of the stored cells."""

    geo: Geometry
    image: Image
    terms: np.ndarray
    offset: np.ndarray
    word: int

    @property
    def sums(self) -> int:
        """Sums of a channel's output."""
        return self.image.pairs[0] * self.image.pairs[1]

    @property
    def image_words(self) -> int:
        """32-bit words of the image."""
        return self.image.bytes // 4

    @property
    def scratch(self) -> int:
        """Bytes."""
        return 4 * (self.image_words + -(-self.sums * self.word // 32))


class Depthwise(Planned[Plan]):
    """The kernel; one input channel a group."""

    name = "depthwise"

    def make(self, layer: Layer, target: Target) -> Plan | str:
        """The plan; refuses layers that are not depthwise."""
        return _plan(layer, target)

    def estimate(self, layer: Layer, target: Target) -> Estimate:
        """Cost on ``target``."""
        return cost.depthwise(layer, self.plan(layer, target), target)

    def emit(self, layer: Layer, target: Target) -> Code:
        """The C text."""
        return _Emitter(layer, self.plan(layer, target)).code()


def _plan(layer: Layer, target: Target) -> Plan | str:
    geo = geometry(layer)
    if geo is None:
        return "three spatial axes"
    if geo.channels != 1 or layer.kind != "conv":
        return f"{geo.channels} input channels a group: not depthwise"
    if not layer.levels.any():
        return "every weight is zero"
    levels = rows_of(layer.levels.astype(np.int64), geo)
    lo, hi = min(layer.x.lo, 0), max(layer.x.hi, 0)
    small = target.word < 4
    mid = next((m for m in dict.fromkeys((0, centre(lo, hi))) if fits(levels, lo - m, hi - m)), None)
    lanes = 2 if mid is not None and not small and geo.places > 1 else 1
    word = 16 if small and mid is not None else 32
    if mid is None or (lanes == 1 and word == 32):
        mid = 0
    cell = "uint32_t" if lanes == 2 else ("int16_t" if mid else layer.x.ctype)
    across = lanes == 1 or lanes_across(geo)
    image = Image(geo=geo, lanes=lanes, across=across, rows=1, mid=mid, xtype=layer.x.ctype, cell=cell)
    image = replace(image, rows=image.pairs[0])
    return Plan(geo=geo, image=image, terms=_terms(levels), offset=centred_offset(layer, mid), word=word)


def _terms(levels: np.ndarray) -> np.ndarray:
    """Bytes of all weights in order: shift, 32 for a subtraction, 64 for the last term of a weight, 128 for none."""
    found = []
    digits = planes(levels.reshape(-1))
    for weight in digits.T:
        powers = np.flatnonzero(weight)
        if not powers.size:
            found.append(64 + 128)
        for power in powers:
            last = 64 * (power == powers[-1])
            found.append(int(power) + (32 if weight[power] < 0 else 0) + int(last))
    return np.array(found)


class _Emitter:
    def __init__(self, layer: Layer, plan: Plan) -> None:
        self.layer, self.plan, self.geo, self.image = layer, plan, plan.geo, plan.image
        self.rule = Rule4.of(layer, offset=plan.offset)

    def code(self) -> Code:
        """The definitions."""
        layer, plan = self.layer, self.plan
        taps = np.diff(np.array(self.image.taps()), append=0)
        ctype = narrowest(taps)[0]
        text = [
            *self.rule.text, *table(f"{layer.name}_terms", plan.terms, "uint8_t"),
            *(table(f"{layer.name}_taps", taps, ctype) if len(taps) > 1 else []),
            *walk.hidden(self.image.text(f"{layer.name}_image")), *self._pass(),
            *walk.function(layer, plan.scratch, self._body(ctype)),
        ]  # fmt: skip
        return Code(
            text="\n".join(text) + "\n",
            scratch=plan.scratch,
            in_place=frozenset[int]() if self.image.odd else frozenset({1}),
            needs=self.rule.needs,
            table_bytes=self.rule.table_bytes + plan.terms.size + len(taps) * narrowest(taps)[1],
        )

    def _pass(self) -> Lines:
        """The function of one term: all sums of the channel, ``sums += or -= cells << shift``."""
        kind, (rows, columns), (down, right) = f"uint{self.plan.word}_t", self.image.pairs, self.image.step
        wide = next((k for k in (4, 3, 2) if columns % k == 0), 1)
        jump = down - columns * right if rows > 1 else 0

        def loops(sign: str) -> Lines:
            one = [
                f"sums[{i}] = ({kind})(sums[{i}] {sign} (({kind})cells[{i * right}] << shift));" for i in range(wide)
            ]
            inner = [*one, f"sums += {wide};", f"cells += {wide * right};"]
            across = [f"for (n = {columns // wide}; n != 0; n--) {{", *indent(inner), "}"]
            over = [*across, *stepped(("cells", jump))]
            return [f"for (r = {rows}; r != 0; r--) {{", *indent(over), "}"]

        body = [
            f"{counter(max(rows, columns))} r, n;", "const uint_fast8_t shift = term & 31;",
            "if ((term & 32) == 0) {", *indent(loops("+")), "} else {", *indent(loops("-")), "}",
        ]  # fmt: skip
        arguments = f"{kind} *sums, const {self.image.cell} *cells, uint_fast8_t term"
        head = f"BS_SMALL static void {self.layer.name}_pass({arguments})"
        return [head, "{", *indent(walk.hidden(body)), "}"]

    def _body(self, ctype: str) -> Lines:
        layer, image, plan, geo = self.layer, self.image, self.plan, self.geo
        kind = f"uint{plan.word}_t"
        begin = [
            f"{image.cell} *const image = ({image.cell} *)(void *)scratch;",
            f"{kind} *const sums = ({kind} *)(void *)(scratch + {plan.image_words});",
            f"const uint8_t *term = {layer.name}_terms;", "size_t o = 0;", "size_t first = 0;",
        ]  # fmt: skip
        taps = len(image.taps())
        move = f"at_cell += {read(ctype, f'{layer.name}_taps + tap')};" if taps > 1 else ""
        one = [
            "uint_fast8_t code;",
            "do {",
            "    code = (uint8_t)BS_READ8(term);",
            "    term++;",
            f"    if ((code & 128) == 0) {{ {layer.name}_pass(sums, at_cell, code); }}",
            "} while ((code & 64) == 0);",
            *([move] if move else []),
        ]
        walked = one
        if taps > 1:
            walked = [f"{counter(taps)} tap;", f"for (tap = 0; tap < {taps}; tap++) {{", *indent(one), "}"]
        per_output = [
            f"{counter(plan.sums)} n;",
            f"const {image.cell} *at_cell = cells;",
            f"for (n = 0; n < {plan.sums}; n++) {{", "    sums[n] = 0;", "}",
            *walked,
            *self.rule.load("o"),
            *self._finish(),
            "o++;",
        ]  # fmt: skip
        body = [f"{counter(geo.outputs)} count;", "size_t to = out;"]
        body += [
            f"for (count = {geo.outputs}; count != 0; count--) {{",
            *indent(per_output),
            f"    to += {geo.y_step[0]};",
            "}",
        ]
        body.append("(void)todo;")
        return [*begin, *walk.strips(layer, image, body), "(void)first;"]

    def _finish(self) -> Lines:
        image, layer, geo = self.image, self.layer, self.geo
        rows, columns = image.pairs
        word = f"uint{self.plan.word}_t"
        lanes = [("low", "BS_SAR((int32_t)(q << 16), 16)")]
        if image.lanes == 1:
            lanes = [("low", "(int16_t)q" if self.plan.word == 16 else "(int32_t)q")]
        else:
            lanes.insert(0, ("high", "BS_SAR((int32_t)(q + UINT32_C(0x8000)), 16)"))
        residual = "residual[place]" if layer.residual is not None else ""
        each: Lines = [f"const {word} q = *sum++;"]
        for lane, value in lanes:
            place = "at_y"
            if lane == "high":
                place = f"at_y + {image.high_out}"
                if image.odd:
                    last = "column == 1" if image.across else "row == 1"
                    place = f"{last} ? at_y : {place}"
            body = [
                f"const size_t place = {place};",
                f"const int32_t acc = {value};",
                *self.rule.finish("acc", residual),
            ]
            each += ["{", *indent([*body, f"y[place] = ({layer.y.ctype})v;"]), "}"]
        jump = geo.y_step[1] - columns * geo.y_step[2] if rows > 1 else 0
        inner = [
            f"for (column = {columns}; column != 0; column--) {{",
            *indent([*each, f"at_y += {geo.y_step[2]};"]),
            "}",
        ]
        inner += stepped(("at_y", jump))
        inner += walk.settled("at_y", "sum")
        return [
            f"const {word} *sum = sums;", "size_t at_y = to;", f"{counter(max(rows, columns))} row, column;",
            f"for (row = {rows}; row != 0; row--) {{", *indent(inner), "}",
        ]  # fmt: skip


__all__ = ["Depthwise", "Plan"]
