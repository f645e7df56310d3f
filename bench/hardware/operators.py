"""The operators that are synthesised: tops around ``operators.v``, with the parameters of each weight format.

A shift format's magnitudes are tables of (k, d): ``2**k`` or ``2**k + 2**(k + d)``. They come from ``core.formats``,
and so do the levels that the proofs compare with.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitshift.core.formats import FORMATS, ShiftFormat

ACTIVATION_BITS = 8
ACCUMULATOR_BITS = 24
LANES = 16
PRODUCTS = ("int8", "int4", "pot3d", "pot4", "pot4d", "pot4x2")
DOTS = ("int8", "int4", "pot3d", "pot4x2")
"""Formats whose bare products and whose dot-product units are shown; multiply-accumulates are of all formats."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One top module: ``case`` names it in the results, ``text`` is its Verilog."""

    top: str
    case: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A module ``top`` whose output ``ok`` must be 1 for each of ``inputs`` inputs; ``case`` names the operator."""

    top: str
    case: str
    text: str
    inputs: int


def formats() -> list[ShiftFormat]:
    """Every format that an integer node may use."""
    return [f for f in FORMATS.values() if not f.float_only]


def operators() -> list[Operator]:
    """All that are synthesised, in the order of the results."""
    made = [_product(FORMATS[name]) for name in PRODUCTS]
    made += [_mac(f) for f in formats()]
    made += [_dot(FORMATS[name]) for name in DOTS]
    made += [
        _plain("requantise: shift", "requantize_shift #(32, 5)", "32 acc", "32 offset", "5 shift", out=8),
        _plain("requantise: 16-bit multiplier", "requantize_mult #(32, 16, 6)", "32 acc", "16 mult",
               "48 offset", "6 shift", out=8),
        _plain("requantise: 31-bit multiplier", "requantize_high #(32, 31, 5)", "32 acc", "31 mult", "5 shift", out=8),
        *(_plain(f"add int{w}", f"add #({w})", f"{w} a", f"{w} b", out=w) for w in (8, 16, 32)),
        _plain("product fp16 x fp16", "mul_half", "16 a", "16 b", out=16),
        _plain("product fp16 x pot3d", "shift_half", "16 a", "1 negative", "2 index", out=16),
    ]  # fmt: skip
    return made


def proofs() -> list[Proof]:
    """Products and multiply-accumulates of every shift format, and the product of a float."""
    shifts = [f for f in formats() if f.multiplication_free]
    return [*(_equal(f, accumulate=accumulate) for accumulate in (False, True) for f in shifts), _half()]


def parameters(f: ShiftFormat, *, product_bits: int) -> str:
    """The parameters of ``magnitude`` and what is built on it for a shift format."""
    size = max(2, len(f.levels) // 2)
    magnitudes = [abs(v) for v in f.levels[: len(f.levels) // 2]]
    magnitudes += [1] * (size - len(magnitudes))
    lows = [(m & -m).bit_length() - 1 if m else 0 for m in magnitudes]
    far = [m.bit_length() - 1 - k if m else 0 for m, k in zip(magnitudes, lows, strict=True)]
    if any(m and m != (1 << k) + (bool(d) << (k + d)) for m, k, d in zip(magnitudes, lows, far, strict=True)):
        raise ValueError(f"format {f.name!r}: a magnitude of {magnitudes} is no sum of at most two powers of two")
    width = max(1, max(lows).bit_length())
    return (
        f".A({ACTIVATION_BITS}), .I({size.bit_length() - 1}), .P({product_bits}), .KB({width}), .FAR({max(far)}), "
        f".ZERO({int(f.has_zero)}), .K({_packed(lows, width)}), .D({_packed(far, 4)})"
    )


def magnitude_bits(f: ShiftFormat) -> int:
    """Bits of an activation times the largest magnitude, before the sign: -128 times it still fits."""
    return ACTIVATION_BITS + (f.max_level - 1).bit_length()


def _packed(values: list[int], width: int) -> str:
    return "{" + ", ".join(f"{width}'d{v}" for v in reversed(values)) + "}"


def _code(f: ShiftFormat, code: str = "code") -> str:
    """Sign and index of a code; a binary weight has no index."""
    if f.bits == 1:
        return f"{code}, 1'b0"
    return f"{code}[{f.bits - 1}], {code}[{f.bits - 2}:0]"


def _product(f: ShiftFormat) -> Operator:
    top = f"product_{f.name}"
    if f.multiplication_free:
        bits = magnitude_bits(f) + 1
        call = f"mul_shift #({parameters(f, product_bits=bits)}) u (a, {_code(f)}, p);"
    else:
        bits = ACTIVATION_BITS + f.bits
        call = f"mul_int #({ACTIVATION_BITS}, {f.bits}) u (a, code, p);"
    ports = f"input signed [{ACTIVATION_BITS - 1}:0] a, input [{f.bits - 1}:0] code, output signed [{bits - 1}:0] p"
    return Operator(top=top, case=f"product int8 x {f.name}", text=_module(top, ports, call))


def _mac(f: ShiftFormat) -> Operator:
    top = f"mac_{f.name}"
    ports = (
        f"input clk, input clear, input signed [{ACTIVATION_BITS - 1}:0] a, input [{f.bits - 1}:0] code, "
        f"output [{ACCUMULATOR_BITS - 1}:0] acc"
    )
    if f.multiplication_free:
        given = f"{parameters(f, product_bits=magnitude_bits(f))}, .ACC({ACCUMULATOR_BITS})"
        call = f"mac_shift #({given}) u (clk, clear, a, {_code(f)}, acc);"
    else:
        call = f"mac_int #({ACTIVATION_BITS}, {f.bits}, {ACCUMULATOR_BITS}) u (clk, clear, a, code, acc);"
    return Operator(top=top, case=f"multiply-accumulate int8 x {f.name}", text=_module(top, ports, call))


def _dot(f: ShiftFormat) -> Operator:
    top = f"dot_{f.name}"
    sign = f"input [{LANES - 1}:0] negative, input [{LANES * (f.bits - 1) - 1}:0] index"
    weights = sign if f.multiplication_free else f"input [{LANES * f.bits - 1}:0] w"
    ports = (
        f"input clk, input clear, input [{LANES * ACTIVATION_BITS - 1}:0] a, {weights}, "
        f"output [{ACCUMULATOR_BITS - 1}:0] acc"
    )
    if f.multiplication_free:
        given = f".N({LANES}), {parameters(f, product_bits=magnitude_bits(f))}, .ACC({ACCUMULATOR_BITS})"
        call = f"dot_shift #({given}) u (clk, clear, a, negative, index, acc);"
    else:
        call = f"dot_int #({LANES}, {ACTIVATION_BITS}, {f.bits}, {ACCUMULATOR_BITS}) u (clk, clear, a, w, acc);"
    return Operator(top=top, case=f"{LANES}-lane dot product int8 x {f.name}", text=_module(top, ports, call))


def _plain(case: str, module: str, *inputs: str, out: int) -> Operator:
    """A top with ``inputs`` ("BITS NAME") in the order of ``module``'s ports, and one output."""
    top = "op_" + "".join(c if c.isalnum() else "_" for c in case)
    pairs = [text.split() for text in inputs]
    ports = ", ".join(f"input [{int(bits) - 1}:0] {name}" for bits, name in pairs)
    names = ", ".join(name for _, name in pairs)
    return Operator(
        top=top, case=case, text=_module(top, f"{ports}, output [{out - 1}:0] y", f"{module} u ({names}, y);")
    )


def _module(top: str, ports: str, body: str) -> str:
    return f"module {top} ({ports});\n    {body}\nendmodule\n"


def _equal(f: ShiftFormat, *, accumulate: bool) -> Proof:
    """The product, or the multiply-accumulate, beside activation times level, for every code that is not reserved."""
    width = f.max_level.bit_length() + 1
    bits = ACCUMULATOR_BITS if accumulate else magnitude_bits(f) + 1
    given = parameters(f, product_bits=magnitude_bits(f) + (not accumulate))
    table = "{" + ", ".join(f"{'-' if v < 0 else ''}{width}'sd{abs(v)}" for v in reversed(f.levels)) + "}"
    body = f"""\
wire [{width * len(f.levels) - 1}:0] levels = {table};
    wire signed [{width - 1}:0] level = levels[{width} * code +: {width}];
    wire signed [{bits - 1}:0] product = a * level;
    wire [{bits - 1}:0] got;
"""
    if accumulate:
        body += f"    wire [{bits - 1}:0] want = acc + product;\n"
        body += f"    add_shift #({given}, .ACC({bits})) u (acc, a, {_code(f)}, got);\n"
    else:
        body += f"    wire [{bits - 1}:0] want = product;\n"
        body += f"    mul_shift #({given}) u (a, {_code(f)}, got);\n"
    body += f"    assign ok = got == want{''.join(f' || code == {code}' for code in f.reserved)};"
    top = f"equal_{'mac' if accumulate else 'product'}_{f.name}"
    ports = f"input signed [{ACTIVATION_BITS - 1}:0] a, input [{f.bits - 1}:0] code, output ok"
    return Proof(
        top=top,
        case=f"{'multiply-accumulate' if accumulate else 'product'} int8 x {f.name}",
        text=_module(top, f"input [{bits - 1}:0] acc, {ports}" if accumulate else ports, body),
        inputs=2**ACTIVATION_BITS * (len(f.levels) - len(f.reserved)) * (2**bits if accumulate else 1),
    )


def _half() -> Proof:
    """The exponent's addition beside the rounded product with +-2^k; infinities and NaN are no inputs."""
    ports = "input [15:0] a, input negative, input [1:0] k, output ok"
    body = (
        "wire [4:0] exponent = 5'd15 + k;\n    wire [15:0] got, want;\n    shift_half u (a, negative, k, got);\n"
        "    mul_half v (a, {negative, exponent, 10'd0}, want);\n    assign ok = a[14:10] == 31 || got == want;"
    )
    text = _module("equal_half", ports, body)
    return Proof(top="equal_half", case="product fp16 x pot3d", text=text, inputs=2 * 31 * 1024 * 8)
