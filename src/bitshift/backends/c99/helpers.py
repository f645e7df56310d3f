"""Shared C functions: each is emitted once, and only where a layer's text needs it."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import numpy as np

from bitshift.backends.c99 import symbols
from bitshift.backends.c99.codes import streamed
from bitshift.backends.c99.proof import planes
from bitshift.backends.c99.text import indent
from bitshift.core.formats import FORMATS, ShiftFormat

PRELUDE = """\
#if defined(__AVR__)
#include <avr/pgmspace.h>
#define BS_FLASH PROGMEM
#define BS_READ8(p) pgm_read_byte(p)
#define BS_READ16(p) pgm_read_word(p)
#define BS_READ32(p) pgm_read_dword(p)
#define BS_READ_FUNCTION(kind, p) ((kind *)pgm_read_word(p))
#else
#define BS_FLASH
#define BS_READ8(p) (*(p))
#define BS_READ16(p) (*(p))
#define BS_READ32(p) (*(p))
#define BS_READ_FUNCTION(kind, p) (*(p))
#endif

#if defined(__GNUC__)
/* Memory is used anew by values of other types: no access may move over the end of a step. */
#define BS_STEP_END() __asm__ volatile("" ::: "memory")
/* Keeps a compiler from turning shifts and additions into a multiplication. */
#define BS_OPAQUE(v) __asm__("" : "+r"(v))
#else
#define BS_STEP_END()
#define BS_OPAQUE(v)
#endif
#if defined(__GNUC__) && !defined(__clang__)
/* Short code is the fast one where registers are few, and additions stay in the order in which they are written. */
#define BS_SMALL __attribute__((noinline, optimize("Os", "no-tree-reassoc", "no-ipa-ra")))
/* Loops stay loops: no calls of memset or memcpy, which a firmware without libc lacks. And callers do not look which
   registers a function leaves alone: GCC 12 for Thumb-1 at -Os then misses those that its epilogue pops over. */
#pragma GCC optimize("no-tree-loop-distribute-patterns", "no-ipa-ra")
#else
#define BS_SMALL
#endif

/* The shift of a negative number is arithmetic on every compiler in use; one where it is not stops here. */
typedef char bs_shift_is_arithmetic[(-1 >> 1) == -1 ? 1 : -1];
#define BS_SAR(v, n) ((v) >> (n))
"""

_WIDE = """\
typedef struct {
    uint32_t lo, hi;
} bs_wide;

/* v * 2**n as 64 bits; n is 0 to 62. */
static bs_wide bs_wide_shl(int32_t v, uint8_t n)
{
    bs_wide w;
    w.lo = (uint32_t)v;
    w.hi = v < 0 ? UINT32_C(0xFFFFFFFF) : 0;
    if (n >= 32) {
        w.hi = w.lo;
        w.lo = 0;
        n = (uint8_t)(n - 32);
    }
    if (n != 0) {
        w.hi = (w.hi << n) | (w.lo >> (32 - n));
        w.lo <<= n;
    }
    return w;
}
"""

_WIDE_ADD = """\
static bs_wide bs_wide_add(bs_wide a, uint32_t hi, uint32_t lo)
{
    a.lo += lo;
    a.hi += hi + (a.lo < lo ? 1u : 0u);
    return a;
}
"""

_WIDE_SAR = """\
/* floor(w / 2**n), saturated to int32; n is 0 to 62. */
static int32_t bs_wide_sar(bs_wide w, uint8_t n)
{
    const uint32_t sign = (w.hi >> 31) != 0 ? UINT32_C(0xFFFFFFFF) : 0;
    if (n >= 32) {
        w.lo = w.hi;
        w.hi = sign;
        n = (uint8_t)(n - 32);
    }
    if (n != 0) {
        w.lo = (w.lo >> n) | (w.hi << (32 - n));
        w.hi = (w.hi >> n) | (sign << (32 - n));
    }
    if (w.hi != sign || ((w.lo ^ sign) >> 31) != 0) {
        w.lo = sign ^ UINT32_C(0x7FFFFFFF);
    }
    return (int32_t)w.lo;
}
"""


def _unpack(bits: int) -> str:
    state, take = streamed(bits, "packed")
    turn = [*take, "*codes++ = (uint8_t)code;"]
    body = "\n".join(indent([*state, "for (; count != 0; count--) {", *indent(turn), "}", "return packed;"]))
    return (
        f"/* A row of {bits}-bit codes, a byte each; returns where the next row begins. */\n"
        f"static const uint8_t *bs_unpack{bits}(const uint8_t *packed, uint8_t *codes, size_t count)\n"
        f"{{\n{body}\n}}\n"
    )


def buckets(form: ShiftFormat) -> int:
    """Sums by code that ``bs_sum_FORMAT`` combines: one a code; of wide codes in two's complement, two sets."""
    return len(form.levels) if form.multiplication_free or form.bits <= 4 else 16 + (1 << (form.bits - 4))


def bucket_levels(form: ShiftFormat) -> list[int]:
    """The level of each bucket: ``level(code)`` is that of one bucket, or of the code's low and high part together."""
    if form.multiplication_free or form.bits <= 4:
        return list(form.levels)
    high = 1 << (form.bits - 4)
    return [*range(16), *(16 * (h if h < high // 2 else h - high) for h in range(high))]


def _sum(form: ShiftFormat) -> str:
    lines: list[str] = []
    for digits in planes(np.array(bucket_levels(form)))[::-1]:
        if lines:
            lines.append("    acc <<= 1;")
        terms = [f"{'-' if digit < 0 else '+'} b[{bucket}]" for bucket, digit in enumerate(digits) if digit]
        lines += [f"    acc = acc {' '.join(terms[i : i + 8])};" for i in range(0, len(terms), 8)]
    body = "\n".join(["    uint32_t acc = 0;", *lines, "    return acc;"])
    return (
        f"/* Sum of level times bucket for {form.name}, modulo 2**32. */\n"
        f"static uint32_t bs_sum_{form.name}(const uint32_t *b)\n{{\n{body}\n}}\n"
    )


@cache
def _helpers() -> dict[str, tuple[str, tuple[str, ...]]]:
    found: dict[str, tuple[str, tuple[str, ...]]] = {
        "bs_wide_shl": (_WIDE, ()),
        "bs_wide_add": (_WIDE_ADD, ("bs_wide_shl",)),
        "bs_wide_sar": (_WIDE_SAR, ("bs_wide_shl",)),
    }
    found |= {f"bs_unpack{bits}": (_unpack(bits), ()) for bits in range(1, 9)}
    found |= {f"bs_sum_{form.name}": (_sum(form), ()) for form in FORMATS.values() if not form.float_only}
    return found


def text_of(needs: Collection[str]) -> str:
    """The C text of the helpers in ``needs`` and of those that these need, each once, in a fixed order."""
    own = {name: text for name in needs if (text := symbols.parse(name)) is not None}
    known = _helpers() | {name: (own[name], ()) for name in sorted(own)}
    wanted, open_ = set(), list(needs)
    while open_:
        name = open_.pop()
        if name not in known:
            raise ValueError(f"no helper {name!r}; there are {', '.join(known)}")
        if name not in wanted:
            wanted.add(name)
            open_ += known[name][1]
    return "\n".join(text for name, (text, _) in known.items() if name in wanted)


__all__ = ["PRELUDE", "bucket_levels", "buckets", "text_of"]
