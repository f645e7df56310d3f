"""Transposed convolution: each weight adds its multiple of a whole input channel to the sums of an output channel."""

from __future__ import annotations

import math

import numpy as np

from bitshift.backends.c99.codes import streamed
from bitshift.backends.c99.layer import Code
from bitshift.backends.c99.ops.base import Site, function, rule4, store
from bitshift.backends.c99.proof import planes
from bitshift.backends.c99.text import Lines, advance, indent, loop, pitches, table
from bitshift.core.formats import ShiftFormat, get_format
from bitshift.core.packing import pack

_NONE, _MINUS = 0xFF, 0x80


def conv_transpose(site: Site) -> Code:
    """The sums of one output channel lie in the scratch memory, 32 bits each."""
    attrs = site.node.attrs
    form, codes = get_format(attrs["format"]), site.graph.const(site.node, "codes")
    rule = rule4(site, len(codes), site.bound.acc, site.xs[1] if len(site.xs) == 2 else None)
    packed, (per_code, entries) = pack(codes, form.bits), _digit_table(form)
    plane = math.prod(site.xs[0].shape[1:])
    outputs = math.prod(site.y.shape[1:])
    begin, take = streamed(form.bits, "packed")
    add = [
        "const uint32_t value = (uint32_t)x[{t}];",
        "scratch[{f}] += ((value << left) ^ sign) - sign;",
    ]
    term = [
        "const uint8_t entry = (uint8_t)BS_READ8(digit);",
        "digit++;",
        f"if (entry != {_NONE}) {{",
        "    const uint8_t left = (uint8_t)(entry & 31);",
        f"    const uint32_t sign = (entry & {_MINUS}) != 0 ? UINT32_C(0xFFFFFFFF) : 0;",
        *indent(_inputs(site, add)),
        "}",
    ]
    weight = [
        *take,
        "BS_OPAQUE(packed);",
        "size_t place = (size_t)code;",
        "BS_OPAQUE(place);",
        f"const uint8_t *digit = {site.name}_digits + (place << {per_code.bit_length() - 1});",
        *loop("d", per_code, [], term),
    ]
    channel = _taps(site, codes.shape[2:], weight)
    output = ["const uint32_t acc = scratch[n];", *rule.finish("acc", "x1[at]"), store(site, "at"), "at++;"]
    turns = codes.shape[1]
    per_output = [
        "BS_OPAQUE(at);",
        *rule.load(),
        f"for (size_t n = 0; n < {outputs}; n++) {{", "    scratch[n] = 0;", "}",
        *begin, "ptrdiff_t plane = 0;", *loop("c", turns, [f"plane += {plane}"], channel),
        f"for (size_t n = 0; n < {outputs}; n++) {{", *indent(output), "}",
    ]  # fmt: skip
    per_group = len(codes) // attrs["groups"]
    if per_group == 1:
        per_output = ["{", *indent(per_output), "}"]
    group = [
        *loop("o", per_group, [], per_output),
        *([f"x += {plane * turns};", "BS_OPAQUE(x);"] if attrs["groups"] > 1 else []),
    ]
    body = [f"const uint8_t *packed = {site.name}_codes;", *rule.begin, "size_t at = 0;"]
    body += loop("g", attrs["groups"], [], group)
    tables = [
        *table(f"{site.name}_codes", packed, "uint8_t"), *table(f"{site.name}_digits", entries, "uint8_t"), *rule.text
    ]  # fmt: skip
    return Code(
        text=function(site, body, tables=tables, scratch=True), scratch=4 * outputs, needs=rule.needs,
        table_bytes=packed.size + entries.size + rule.table_bytes, in_place=frozenset({1}),
    )  # fmt: skip


def _digit_table(form: ShiftFormat) -> tuple[int, np.ndarray]:
    """Entries a code (a power of two), and for each code its signed powers of two: shift, minus, or none."""
    digits = planes(np.array(form.levels))
    found = [[power + (_MINUS if code[power] < 0 else 0) for power in np.flatnonzero(code)] for code in digits.T]
    per_code = 1 << (max(map(len, found)) - 1).bit_length()
    return per_code, np.array([entry + [_NONE] * (per_code - len(entry)) for entry in found])


def _taps(site: Site, kernel: tuple[int, ...], body: Lines) -> Lines:
    """``body`` for each weight; ``e`` is where the first input lands by axis, ``h`` the same as an index."""
    attrs, steps = site.node.attrs, pitches(site.y.shape[1:])

    def level(axis: int) -> Lines:
        if axis == len(kernel):
            return body
        before, dilation = attrs["padding"][axis][0], attrs["dilation"][axis]
        names = (f"e{axis}", dilation), (f"h{axis}", dilation * steps[axis])
        begin = [f"ptrdiff_t e{axis} = {-before};", f"ptrdiff_t h{axis} = {-before * steps[axis]};"]
        return [*begin, *loop(f"k{axis}", kernel[axis], advance(*names), level(axis + 1))]

    return level(0)


def _inputs(site: Site, body: Lines) -> Lines:
    """``body`` for each input whose product lands inside the output; ``{t}`` and ``{f}`` are the two indices."""
    sizes, lengths = site.xs[0].shape[1:], site.y.shape[1:]
    inner, outer, stride = pitches(sizes), pitches(lengths), site.node.attrs["stride"]

    def level(axis: int) -> Lines:
        t, p, f = f"t{axis}", f"p{axis}", f"f{axis}"
        begin = [
            f"ptrdiff_t {t} = {f't{axis - 1}' if axis else 'plane'};",
            f"ptrdiff_t {p} = e{axis};",
            f"ptrdiff_t {f} = {f'f{axis - 1} + ' if axis else ''}h{axis};",
        ]
        deeper = level(axis + 1) if axis + 1 < len(sizes) else [line.format(t=t, f=f) for line in body]
        inside = [f"if ({p} >= 0 && {p} < {lengths[axis]}) {{", *indent(deeper), "}"]
        steps = advance((t, inner[axis]), (p, stride[axis]), (f, stride[axis] * outer[axis]))
        return [*begin, *loop(f"q{axis}", sizes[axis], steps, inside)]

    return level(0)
