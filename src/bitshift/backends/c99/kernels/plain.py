"""Any convolution or linear layer, in little code: packed codes, and one sum for each code of the format.

The activations of an output are added up by the code of their weight; only then each sum is multiplied by its level,
by shifts and additions that stand in one function a format. So a weight costs one addition whatever its level is.
"""

from __future__ import annotations

import numpy as np

from bitshift.backends.c99 import cost
from bitshift.backends.c99.codes import streamed
from bitshift.backends.c99.helpers import buckets
from bitshift.backends.c99.layer import Code, Estimate, Layer
from bitshift.backends.c99.rule4 import Rule4
from bitshift.backends.c99.sliding import Windows
from bitshift.backends.c99.targets import Target
from bitshift.backends.c99.text import Lines, indent, loop, table
from bitshift.core.formats import ShiftFormat
from bitshift.core.packing import pack


class Plain:
    """The fallback: slow, small, for every layer."""

    name = "plain"

    def refuses(self, layer: Layer, target: Target) -> str | None:  # noqa: ARG002 - Kernel's interface
        """Never: it is the fallback."""
        return None

    def estimate(self, layer: Layer, target: Target) -> Estimate:
        """Cost on ``target``."""
        cycles, flash = cost.plain(layer, buckets(layer.format), target)
        found = Estimate(cycles=cycles, flash=flash, scratch=_scratch(layer))
        return cost.widened(found, layer, target, lanes=1)

    def emit(self, layer: Layer, target: Target) -> Code:  # noqa: ARG002 - one text for all
        """The C text."""
        rule, packed = Rule4.of(layer), pack(layer.codes, layer.format.bits)
        codes = f"{layer.name}_codes"
        body = _linear(layer, rule) if layer.kind == "linear" else _conv(layer, rule)
        arguments = [f"const {layer.x.ctype} *x"]
        if layer.residual is not None:
            arguments.append(f"const {layer.residual.ctype} *residual")
        arguments.append(f"{layer.y.ctype} *y")
        scratch = _scratch(layer)
        if scratch:
            arguments.append("uint32_t *scratch")
        begin = [f"const uint8_t *packed = {codes};", *rule.begin]
        text = [
            *table(codes, packed, "uint8_t"), *rule.text,
            f"static void {layer.name}({', '.join(arguments)})", "{", *indent([*begin, *body]), "}",
        ]  # fmt: skip
        needs = {f"bs_sum_{layer.format.name}", *rule.needs}
        if scratch:
            needs.add(f"bs_unpack{layer.format.bits}")
        return Code(
            text="\n".join(text) + "\n",
            scratch=scratch,
            needs=frozenset(needs),
            table_bytes=packed.size + rule.table_bytes,
            in_place=frozenset({1}),
        )


def _scratch(layer: Layer) -> int:
    """A convolution unpacks a row of codes once for all outputs of its channel; a linear layer reads them packed."""
    return 0 if layer.kind == "linear" else -(-layer.codes[0].size // 4) * 4


def _clear(form: ShiftFormat) -> Lines:
    count = buckets(form)
    return [f"uint32_t b[{count}];", *loop("k", count, [], ["b[k] = 0;"])]


def _add(form: ShiftFormat, code: str, x: str) -> Lines:
    """Add element ``x`` to the buckets of ``code``, a name."""
    value = f"const uint32_t value = (uint32_t){x};"
    if form.multiplication_free or form.bits <= 4:
        return [value, *_bucket("bucket", code)]
    return [value, *_bucket("bucket", f"({code} & 15)"), *_bucket("upper", f"(16 + ({code} >> 4))")]


def _bucket(name: str, index: str) -> Lines:
    """Add ``value`` at ``index``, of which GCC for AVR must not know that it has 8 bits: it would multiply it by 4."""
    return [f"size_t {name} = (size_t){index};", f"BS_OPAQUE({name});", f"b[{name}] += value;"]


def _finish(layer: Layer, rule: Rule4) -> Lines:
    lines = [f"const uint32_t acc = bs_sum_{layer.format.name}(b);"]
    return [*lines, *rule.finish("acc", "residual[at]"), f"y[at] = ({layer.y.ctype})v;"]


def _conv(layer: Layer, rule: Rule4) -> Lines:
    shape = layer.codes.shape
    windows = Windows(
        size=layer.x.shape[1:], out=layer.y.shape[1:], kernel=shape[2:], stride=layer.stride, padding=layer.padding,
        dilation=layer.dilation,
    )  # fmt: skip
    weights, channels = layer.codes[0].size, shape[1]

    def tap(index: str, weight: str) -> Lines:
        return [f"const uint_fast8_t code = codes[{weight}];", *_add(layer.format, "code", f"x[{index}]")]

    steps = [f"plane += {windows.plane}", f"weight += {windows.count}"]
    sums = [
        "{", *indent([
            f"ptrdiff_t plane = {windows.first};", "size_t weight = 0;",
            *loop("c", channels, steps, windows.taps(tap, "plane", "weight")),
        ]), "}",
    ]  # fmt: skip
    output = [*_clear(layer.format), *sums, "{", *indent(_finish(layer, rule)), "}", "at++;"]
    per_channel = [
        "BS_OPAQUE(at);",
        *rule.load(),
        f"packed = bs_unpack{layer.format.bits}(packed, codes, {weights});",
        "BS_OPAQUE(packed);",
        *windows.positions(output),
    ]
    outputs = shape[0] // layer.groups
    per_group = loop("o", outputs, [], _block(per_channel, outputs))
    if layer.groups > 1:
        per_group = [*per_group, f"x += {windows.plane * channels};", "BS_OPAQUE(x);"]
    return ["uint8_t *const codes = (uint8_t *)scratch;", "size_t at = 0;", *loop("g", layer.groups, [], per_group)]


def _block(body: Lines, turns: int) -> Lines:
    """A scope of its own where :func:`loop` gives none."""
    return body if turns > 1 else ["{", *indent(body), "}"]


def _linear(layer: Layer, rule: Rule4) -> Lines:
    outputs, inputs = layer.codes.shape
    rows = int(np.prod(layer.x.shape[:-1], dtype=np.int64))
    bits = layer.format.bits
    state, take = streamed(bits, "w")
    weight = [*take, *_add(layer.format, "code", "x[i]")]
    output = [
        *_clear(layer.format), "w = packed;", *state,
        f"for (size_t i = 0; i < {inputs}; i++) {{", *indent(weight), "}",
        "{", *indent(_finish(layer, rule)), "}",
    ]  # fmt: skip
    if rows == 1:
        per_channel = [*rule.load(), "const uint8_t *w;", *output, "packed = w;", "BS_OPAQUE(packed);", "at++;"]
        return ["size_t at = 0;", *loop("o", outputs, [], _block(per_channel, outputs))]
    step = [f"x += {inputs}", f"at += {outputs}"]
    per_row = [*loop("r", rows, step, output)]
    per_channel = [
        *rule.load(), "const uint8_t *w = packed;", "size_t at = first;", *per_row, "packed = w;", "BS_OPAQUE(packed);",
        f"x -= {inputs * rows};", "BS_OPAQUE(x);", "first++;",
    ]  # fmt: skip
    return ["size_t first = 0;", *loop("o", outputs, [], _block(per_channel, outputs))]
