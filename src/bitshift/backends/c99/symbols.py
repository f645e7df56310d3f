"""Sums by table: each product that a code may mean is made once for all outputs; a weight is a look-up and an add.

A *symbol* is one code, or a few codes of two or one bits side by side; the table has a row of ``2**bits`` entries for
each symbol of a block of weights, an entry is the symbol's sum for each of ``pairs`` cells. Two shared C functions do
the work: one fills rows, one adds entries along a row of codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bitshift.backends.c99 import thumb1
from bitshift.backends.c99.proof import planes
from bitshift.backends.c99.text import Lines, indent
from bitshift.core.formats import FORMATS, ShiftFormat


@dataclass(frozen=True)
class Symbols:
    """How codes lie in memory and what the table holds.

    Args:
        codes: codes of one symbol, the first lowest.
        pairs: cells that share a look-up; a power of two.
        cell: C type of a cell; word: bits of a table entry, 32 or 16; box: bits of a unit of packed symbols, 32 or 8.
        far: whether a load reaches all rows of a box by a constant offset.
    """

    format: str
    codes: int
    pairs: int
    cell: str
    word: int
    box: int
    far: bool = True

    @property
    def form(self) -> ShiftFormat:
        """The format of a code."""
        return FORMATS[self.format]

    @property
    def bits(self) -> int:
        """Bits of a symbol."""
        return self.form.bits * self.codes

    @property
    def a_box(self) -> int:
        """Symbols of a unit."""
        return self.box // self.bits

    @property
    def type(self) -> str:
        """C type of an entry."""
        return f"uint{self.word}_t"

    @property
    def row(self) -> int:
        """Bytes of a table row."""
        return (1 << self.bits) * self.pairs * self.word // 8

    @property
    def fill(self) -> str:
        """Name of the function that makes rows; it takes table, cells, place, how many; it returns the table's end."""
        return f"bs_fill_{self.format}_{self.codes}_{self.pairs}_{self.word}_{self.cell.removesuffix('_t')}"

    @property
    def add(self) -> str:
        """Name of the function that adds entries; it takes table, codes, full boxes, the rest (1: none), sums."""
        return f"bs_add_{self.bits}_{self.pairs}_{self.word}_{self.box}{'_far' * self.far}"

    def boxes(self, codes: np.ndarray) -> np.ndarray:
        """``codes`` (O, n), n a multiple of ``self.codes``, as packed units (O, ceil)."""
        rows, count = codes.shape
        wide = codes.astype(np.uint64).reshape(rows, count // self.codes, self.codes)
        values = (wide << (np.arange(self.codes, dtype=np.uint64) * np.uint64(self.form.bits))).sum(axis=2)
        values = np.pad(values, ((0, 0), (0, -values.shape[1] % self.a_box))).reshape(rows, -1, self.a_box)
        return (values << (np.arange(self.a_box, dtype=np.uint64) * np.uint64(self.bits))).sum(axis=2)

    def rest(self, codes: np.ndarray) -> np.ndarray:
        """The symbols of ``codes`` (O, n) behind the full boxes, fewer than a box has, with a 1 above the last."""
        values = self.boxes(codes).reshape(-1)
        return values | (1 << np.uint64(codes.shape[1] // self.codes * self.bits))

    def text(self, name: str) -> str:
        """The C text of the shared function ``name``, :attr:`fill` or :attr:`add`."""
        return "\n".join(_fill(self) if name == self.fill else _add(self)) + "\n"


def parse(name: str) -> str | None:
    """The C text of a shared function by its name alone; None for a name of another kind."""
    kind, *parts = name.split("_")[1:] if name.startswith("bs_") else [""]
    if kind == "fill" and len(parts) == 5:
        form, codes, pairs, word, cell = parts
        return Symbols(form, int(codes), int(pairs), f"{cell}_t", int(word), 32).text(name)
    if kind == "add" and len(parts) in (4, 5):
        bits, pairs, word, box = map(int, parts[:4])
        return "\n".join(_adds(bits, pairs, word, box, far=parts[4:] == ["far"])) + "\n"
    return None


@lru_cache
def _products(form: ShiftFormat, of: str, word: int) -> tuple[Lines, list[str]]:
    """Definitions, and the expression of ``level * of`` for every code."""
    levels = np.abs(np.array(form.levels, dtype=np.int64))
    digits, lines = planes(levels), []
    names, made = {0: "0"}, {}
    for power in range(len(digits)):
        name = f"{of}{1 << power}" if power else of
        if power:
            lines.append(f"uint{word}_t {name} = (uint{word}_t)({made[power - 1]} << 1);")
            lines.append(f"BS_OPAQUE({name});")
        made[power] = name
        names[1 << power] = name
    for level in sorted(set(levels.tolist()) - set(names)):
        ups = [made[p] for p in range(len(digits)) if digits[p][levels == level][0] > 0]
        downs = [made[p] for p in range(len(digits)) if digits[p][levels == level][0] < 0]
        name = f"{of}{level}"
        lines.append(
            f"const uint{word}_t {name} = (uint{word}_t)({' + '.join(ups)}{''.join(f' - {d}' for d in downs)});"
        )
        names[level] = name
    return lines, [names[level] if level >= 0 else f"(uint{word}_t)(0 - {names[-level]})" for level in form.levels]


def _fill(symbols: Symbols) -> Lines:
    form, pairs, word, count = symbols.form, symbols.pairs, symbols.word, symbols.codes
    lines, sums = [], [""]
    for position in range(count):
        of = "vwgh"[position]
        made, values = _products(form, of, word)
        lines += [f"uint{word}_t {of} = (uint{word}_t)*s;", "s++;", *([f"BS_OPAQUE({of});"] if made else []), *made]
        sums = [(s, v) for v in values for s in sums] if position else values
        if position:
            sums = [f"(uint{word}_t)({a} + {b})" if "0" not in (a, b) else (b if a == "0" else a) for a, b in sums]
    lines += [f"t[{code * pairs}] = {value};" for code, value in enumerate(sums)]
    lines += [f"t += {len(sums) * pairs};", "BS_OPAQUE(t);", "BS_OPAQUE(s);"]
    body = [
        f"const {symbols.cell} *s = *cells + at;",
        f"const {symbols.cell} *const stop = s + n;",
        f"uint{word}_t *t = table;",
        "do {", *indent(lines), "} while (s != stop);",
    ]  # fmt: skip
    if pairs > 1:
        body = [
            f"for (p = 0; p < {pairs}; p++) {{",
            *indent([*body, "end = t;", "table++;", "cells++;"]), "}", f"return end - {pairs - 1};",
        ]  # fmt: skip
        counters = ["uint_fast8_t p;", f"uint{word}_t *end = table;"]
    else:
        counters, body = [], [*body, "return t;"]
    head = (
        f"BS_SMALL static uint{word}_t *{symbols.fill}(\n"
        f"    uint{word}_t *table, const {symbols.cell} *const *cells, ptrdiff_t at, size_t n)"
    )
    return [head, "{", *indent([*counters, *body]), "}"]


def _add(symbols: Symbols) -> Lines:
    return _adds(symbols.bits, symbols.pairs, symbols.word, symbols.box, far=symbols.far)


def _adds(bits: int, pairs: int, word: int, box: int, *, far: bool) -> Lines:
    entry = pairs * word // 8
    low = entry.bit_length() - 1
    mask, row = ((1 << bits) - 1) << low, (1 << bits) * pairs
    kind, unit = f"uint{word}_t", f"uint{box}_t"

    def look(code: str, index: int = 0) -> Lines:
        adds = [f"a{p} = ({kind})(a{p} + e[{index * row + p}]);" for p in range(pairs)]
        place = f"e = (const {kind} *)(const void *)((const uint8_t *)table + ((size_t){code} & {mask}));"
        return [place, *(["BS_OPAQUE(e);"] if pairs > 1 else []), *adds]

    def moved(at: int) -> str:
        return f"(c << {low - at})" if at < low else (f"(c >> {at - low})" if at > low else "c")

    count = box // bits
    fetch = [f"c = ({unit})BS_READ{box}(codes);", "codes++;"]
    following = [f"table += {row};", "BS_OPAQUE(table);"]
    rolled = [*look(f"({moved(0)})"), *following, f"c = ({unit})(c >> {bits});"]
    if box == 8:
        # Shifts by one place only: others become a multiplication on cores that have one.
        one = [f"c = ({unit})(c >> 1);", "BS_OPAQUE(c);"] * bits
        rolled = [f"a0 = ({kind})(a0 + table[c & {(1 << bits) - 1}]);", *following, *one]
        steps = (rolled * count)[: -len(one)]
    elif far:
        steps = [line for at in range(count) for line in look(moved(at * bits), at)]
        steps += [f"table += {count * row};", "BS_OPAQUE(table);"]
    else:
        steps = [line for at in range(count) for line in (*look(moved(at * bits)), *following)]
    tight = pairs == 4 and not far
    held = [
        f"const {unit} *volatile next = codes;",
        f"{kind} *volatile sum_at = sum;",
        f"volatile {unit} rest_at = rest;",
    ]
    if tight:
        fetch = [f"const {unit} *now = next;", f"c = ({unit})BS_READ{box}(now);", "next = now + 1;"]
    body = [
        *(held if tight else []),
        *(f"{kind} a{p} = sum[{p}];" for p in range(pairs)),
        f"{unit} c;",
        *([f"const {kind} *e;"] if box != 8 else []),
        "for (; boxes != 0; boxes--) {", *indent([*fetch, *steps]), "}",
        f"for (c = {'rest_at' if tight else 'rest'}; c != 1;) {{", *indent(rolled), "}",
        *(["sum = sum_at;"] if tight else []),
        *(f"sum[{p}] = a{p};" for p in range(pairs)),
    ]  # fmt: skip
    name = f"bs_add_{bits}_{pairs}_{word}_{box}{'_far' * far}"
    arguments = f"const {kind} *table, const {unit} *codes, uint_fast16_t boxes, {unit} rest, {kind} *sum"
    lines = [f"BS_SMALL static void {name}(", f"    {arguments})", "{", *indent(body), "}"]
    if pairs == 4 and not far:
        lines = [f"#if {thumb1.CONDITION}", *thumb1.add(name, bits), "#else", *lines, "#endif"]
    return lines


__all__ = ["Symbols", "parse"]
