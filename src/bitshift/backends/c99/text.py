"""Pieces of C text: literals, constant tables, loops whose indices advance by constants and are never multiplied."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Lines = list[str]

TABLE_TYPES: tuple[tuple[str, int, int, int], ...] = (
    ("uint8_t", 8, 0, 0xFF),
    ("int8_t", 8, -0x80, 0x7F),
    ("uint16_t", 16, 0, 0xFFFF),
    ("int16_t", 16, -0x8000, 0x7FFF),
    ("int32_t", 32, -0x8000_0000, 0x7FFF_FFFF),
    ("uint32_t", 32, 0, 0xFFFF_FFFF),
)
"""C type, bits, least and largest value, the first that fits is taken."""


def indent(lines: Sequence[str], by: int = 1) -> Lines:
    """``lines`` four blanks further in, empty ones left empty."""
    return [" " * (4 * by) + line if line else line for line in lines]


def literal(value: int) -> str:
    """``value`` as an int32_t or, beyond it, uint32_t constant, right also where int has 16 bits."""
    if value == -(1 << 31):
        return "(-INT32_C(2147483647) - 1)"
    if -(1 << 15) < value < 1 << 15:
        return str(value)
    return f"UINT32_C({value})" if value >= 1 << 31 else f"INT32_C({value})"


def unsigned(value: int) -> str:
    """``value`` modulo 2**32 as a uint32_t constant."""
    return f"UINT32_C({value % (1 << 32)})"


def narrowest(values: np.ndarray) -> tuple[str, int]:
    """C type and bytes of the narrowest table that holds ``values``."""
    lo, hi = int(values.min()), int(values.max())
    for ctype, bits, least, largest in TABLE_TYPES:
        if least <= lo and hi <= largest:
            return ctype, bits // 8
    raise ValueError(f"{lo} to {hi} fit no 32-bit type")


def table(name: str, values: np.ndarray, ctype: str) -> Lines:
    """``static const CTYPE NAME[] BS_FLASH = {...};``, lines within 120 columns."""
    flat = [int(v) for v in np.asarray(values).reshape(-1)]
    lines, line = [f"static const {ctype} {name}[{len(flat)}] BS_FLASH = {{"], "   "
    for value in flat:
        item = f" {literal(value)},"
        if len(line) + len(item) > 116:
            lines.append(line)
            line = "   "
        line += item
    return [*lines, line, "};"]


def read(ctype: str, pointer: str) -> str:
    """The element that ``pointer`` into a table of ``ctype`` names."""
    bits = ctype.removesuffix("_t").removeprefix("u").removeprefix("int")
    return f"({ctype})BS_READ{bits}({pointer})"


@dataclass(frozen=True)
class Vector:
    """A constant by channel: a literal where all agree, else the narrowest table and a pointer that walks it."""

    name: str
    owner: str
    values: np.ndarray
    ctype: str = "int32_t"

    @property
    def uniform(self) -> bool:
        """Whether all channels agree."""
        return bool((self.values == self.values[0]).all())

    @property
    def table_bytes(self) -> int:
        """Bytes of the table."""
        return 0 if self.uniform else narrowest(self.values)[1] * self.values.size

    @property
    def text(self) -> Lines:
        """The table's definition."""
        return [] if self.uniform else table(f"{self.owner}_{self.name}", self.values, narrowest(self.values)[0])

    @property
    def begin(self) -> Lines:
        """Before the loop over channels."""
        if self.uniform:
            return []
        return [f"const {narrowest(self.values)[0]} *{self.name}_at = {self.owner}_{self.name};"]

    def load(self, index: str = "") -> Lines:
        """In the loop: defines ``name``; with ``index`` the element there, else the pointer's, which then advances."""
        first = int(self.values[0])
        if self.uniform:
            value = unsigned(first) if self.ctype == "uint32_t" else literal(first)
            return [f"const {self.ctype} {self.name} = {value};"]
        at = f"{self.owner}_{self.name} + {index}" if index else f"{self.name}_at"
        value = read(narrowest(self.values)[0], at)
        step = [] if index else [f"{self.name}_at++;"]
        return [f"const {self.ctype} {self.name} = ({self.ctype}){value};", *step]


def counter(count: int) -> str:
    """A type that counts to ``count``."""
    return "uint_fast16_t" if count <= 0xFFFF else "uint32_t"


def loop(index: str, count: int, updates: Sequence[str], body: Sequence[str]) -> Lines:
    """``body`` ``count`` times; ``updates`` advance what walks along. A single turn needs no loop.

    What advances by more than one is hidden from the compiler, which else may compute it from ``index`` by a
    multiplication (GCC for Arm at -Os did). Where ``body`` itself advances a variable, it hides it likewise.
    """
    if count == 1:
        return list(body)
    steps = ", ".join([f"{index}++", *updates])
    walks = [re.fullmatch(r"(\w+) [+-]= (\d+)", update) for update in updates]
    body = [*(f"BS_OPAQUE({w[1]});" for w in walks if w and int(w[2]) > 1), *body]
    return [f"for ({counter(count)} {index} = 0; {index} < {count}; {steps}) {{", *indent(body), "}"]


def advance(*steps: tuple[str, int]) -> Lines:
    """``name += step`` for every step that is not 0."""
    return [f"{name} += {step}" if step > 0 else f"{name} -= {-step}" for name, step in steps if step]


def pitches(shape: Sequence[int]) -> tuple[int, ...]:
    """Elements from one index to the next along each axis of a row-major array."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def stepped(*steps: tuple[str, int]) -> Lines:
    """:func:`advance` as statements."""
    return [f"{step};" for step in advance(*steps)]


Dim = tuple[int, int, int]
"""Turns, and the elements that x and y advance in each."""


def merged(dims: Sequence[Dim]) -> list[Dim]:
    """``dims``, outermost first, without turns of one and with neighbours that walk as one made one."""
    out: list[Dim] = []
    for count, x, y in dims:
        if count == 1:
            continue
        if out and out[-1][1] == count * x and out[-1][2] == count * y:
            out[-1] = (out[-1][0] * count, x, y)
        else:
            out.append((count, x, y))
    return out


def walk(dims: Sequence[Dim], body: Callable[[str, str], Lines], *, x: int = 0, y: int = 0) -> Lines:
    """Nested loops over ``dims``; ``body(a, b)`` gets the indices into x and y, which begin at ``x`` and ``y``."""
    dims = merged(dims)

    def level(depth: int) -> Lines:
        a, b = f"a{depth}", f"b{depth}"
        starts = (str(x), str(y)) if not depth else (f"a{depth - 1}", f"b{depth - 1}")
        begin = [f"ptrdiff_t {a} = {starts[0]};", f"ptrdiff_t {b} = {starts[1]};"]
        if depth == len(dims) - 1 or not dims:
            inner = body(a, b)
        else:
            inner = level(depth + 1)
        if not dims:
            return [*begin, *inner]
        count, dx, dy = dims[depth]
        return [*begin, *loop(f"n{depth}", count, advance((a, dx), (b, dy)), inner)]

    return level(0)
