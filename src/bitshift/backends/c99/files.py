"""The text of the generated files: model.h, model.c and model_selftest.c."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitshift.backends.c99.helpers import PRELUDE, text_of
from bitshift.backends.c99.layer import Code, Port
from bitshift.backends.c99.memory import Plan, scratch_of
from bitshift.backends.c99.program import Border, Memory, Program
from bitshift.backends.c99.text import indent, table

AVR_ARRAY = 0x7FFF
"""Most bytes of one array of avr-gcc."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """What the files say about the network: C prefix, what made it (:func:`readable`), the hash of the model file."""

    name: str
    origin: str
    version: str
    hash: str
    target: str

    @property
    def upper(self) -> str:
        """The prefix of macros."""
        return self.name.upper()

    @property
    def made(self) -> str:
        """What made the file, for its first line."""
        return f"{self.origin}, written by bitshift {self.version} emit-c for {self.target}"


@dataclass(frozen=True)
class Argument:
    """A parameter of ``NAME_run``, the prefix of its macros, and whether it is an input."""

    variable: str
    macro: str
    border: Border
    given: bool

    @property
    def port(self) -> Port:
        """Shape and type."""
        return self.border.port


def arguments(program: Program, upper: str) -> tuple[list[Argument], list[Argument]]:
    """Inputs and outputs in order; with more than one of a kind their names end in 0, 1, ..."""

    def named(kind: str, variable: str, borders: Sequence[Border]) -> list[Argument]:
        numbers = [""] if len(borders) == 1 else [str(i) for i in range(len(borders))]
        given = kind == "INPUT"
        return [
            Argument(f"{variable}{n}", f"{upper}_{kind}{n}", b, given) for n, b in zip(numbers, borders, strict=True)
        ]

    return named("INPUT", "x", program.inputs), named("OUTPUT", "y", program.outputs)


def prototype(program: Program, label: Label) -> str:
    """``void NAME_run(const X *x, Y *y)``."""
    inputs, outputs = arguments(program, label.upper)
    parameters = [f"const {a.port.ctype} *{a.variable}" for a in inputs]
    parameters += [f"{a.port.ctype} *{a.variable}" for a in outputs]
    return f"void {label.name}_run({', '.join(parameters)})"


def header(program: Program, label: Label, plan: Plan) -> str:
    """model.h: the interface, and everything about the network that a firmware may ask for."""
    up = label.upper
    inputs, outputs = arguments(program, up)
    lines = [
        f"/* {label.name}.h: {label.made}. */",
        f"#ifndef {up}_H", f"#define {up}_H", "", "#include <stdint.h>", "",
        "#ifdef __cplusplus", 'extern "C" {', "#endif", "",
        f'#define {up}_VERSION "{label.version}"',
        f'#define {up}_HASH "{label.hash}" /* SHA-256 of the model file, its first 16 digits */',
        "",
        "/* Bytes of working memory. It lies in a static array; with -D" + f"{up}_ARENA=NAME the array",
        f"   `uint32_t NAME[{up}_ARENA_BYTES / 4]`, which the firmware defines, is used instead. */",
        f"#define {up}_ARENA_BYTES {plan.size}",
        "",
    ]  # fmt: skip
    lines += [f"#define {up}_INPUTS {len(inputs)}", f"#define {up}_OUTPUTS {len(outputs)}"]
    for argument in (*inputs, *outputs):
        lines += ["", *_port_macros(argument)]
    lines += ["", *_meta(program, up, inputs)]
    lines += [
        "/* Runs the network once: reads the inputs, writes the outputs, keeps nothing. Not reentrant: one arena. */",
        f"{prototype(program, label)};",
        "",
        "/* 0 if the stored inputs give the stored outputs, else 1 + the number of the first that does not;",
        f"   in {label.name}_selftest.c, which a firmware may leave out. */",
        f"int {label.name}_selftest(void);",
        "",
        "#ifdef __cplusplus", "}", "#endif", "#endif",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def readable(text: str) -> str:
    """``text`` as part of one line, where it neither ends nor begins a comment."""
    return "".join(c if c.isprintable() else "?" for c in text).replace("*/", "* /").replace("/*", "/ *")


def _port_macros(argument: Argument) -> list[str]:
    port, macro = argument.port, argument.macro
    reading = "stands for the value q * 2**-FRAC"
    if argument.given:
        how = "floor(value * 2**FRAC)" if argument.border.rounding == "floor" else "floor(value * 2**FRAC + 0.5)"
        reading = f"q = {how}, limited to {port.lo} to {port.hi}"
    return [
        f"/* {readable(argument.border.name)}: {list(port.shape)}, {port.ctype}; {reading}. */",
        f"#define {macro}_SIZE {port.size}",
        f"#define {macro}_BYTES {port.size_bytes}",
        f"#define {macro}_SHAPE {{{', '.join(map(str, port.shape)) or '1'}}}",
        f"#define {macro}_BITS {port.type.bits}",
        f"#define {macro}_FRAC {port.type.frac if port.type.frac >= 0 else f'({port.type.frac})'}",
        f"#define {macro}_SIGNED {int(port.type.signed)}",
    ]


def _meta(program: Program, up: str, inputs: Sequence[Argument]) -> list[str]:
    lines = []
    labels = program.graph.meta.get("labels")
    if labels:
        quoted = ", ".join(_string(text) for text in labels)
        lines += [f"#define {up}_LABEL_COUNT {len(labels)}", f"#define {up}_LABELS {{{quoted}}}", ""]
    pixels = program.graph.meta.get("preprocess")
    if pixels:
        size, mean, scale = " x ".join(map(str, pixels["size"])), _numbers(pixels["mean"]), _numbers(pixels["scale"])
        lines += [
            f"/* A picture: {pixels['channels']} channels of {size} pixels (0..255), planes one after the other;",
            f"   value = (pixel - mean) * scale, by channel mean {mean} and scale {scale}{_exact(pixels, inputs)}. */",
            "",
        ]
    return lines


def _exact(pixels: Mapping[str, Any], inputs: Sequence[Argument]) -> str:
    """What that makes of a pixel where it is a subtraction and nothing else."""
    port, mean = inputs[0].port, pixels["mean"][0]
    steps = {scale * 2.0**port.type.frac for scale in pixels["scale"]}
    if len(inputs) > 1 or steps != {1.0} or set(pixels["mean"]) != {mean} or not float(mean).is_integer():
        return ""
    return f": q = pixel - {mean:.0f}" if port.lo <= -mean and 255 - mean <= port.hi else ""


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.9g}" for v in values)


def _string(text: str) -> str:
    """A C string literal: bytes beyond printable ASCII as octal escapes, no trigraph."""
    out = ""
    for byte in text.encode():
        plain = 32 <= byte < 127 and chr(byte) not in '"\\?'
        out += chr(byte) if plain else f"\\{byte:03o}"
    return f'"{out}"'


def source(program: Program, label: Label, plan: Plan, codes: Mapping[str, Code]) -> str:
    """model.c: helpers, a function a step, and ``NAME_run``."""
    up = label.upper
    needs = sorted({need for code in codes.values() for need in code.needs})
    begin = (
        f"/* {label.name}.c: {label.made}.\n"
        "   Integers only; no multiplication, no division, no libc, no malloc. */\n"
        f'#include "{label.name}.h"\n\n#include <stddef.h>\n#include <stdint.h>\n'
    )
    parts = [begin, PRELUDE, text_of(needs)]
    parts += [f"/* {readable(step.title)} */\n{codes[step.name].text}" for step in program.steps]
    if plan.size:
        parts.append(_arena(up, plan.size))
    parts.append("\n".join([prototype(program, label), "{", *indent(_calls(program, label, plan, codes)), "}"]) + "\n")
    return "\n".join(part for part in parts if part)


def _arena(up: str, size: int) -> str:
    lines = [f"#ifdef {up}_ARENA", f"extern uint32_t {up}_ARENA[];"]
    if size > AVR_ARRAY:
        lines += [
            f"#elif defined(__AVR__) /* avr-gcc takes no array of more than {AVR_ARRAY:,} bytes; the linker does */",
            "extern uint32_t bs_arena[];",
            f'__asm__(".local bs_arena\\n\\t.comm bs_arena, {size}, 4");',
            f"#define {up}_ARENA bs_arena",
        ]
    lines += ["#else", f"static uint32_t bs_arena[{up}_ARENA_BYTES / 4];", f"#define {up}_ARENA bs_arena", "#endif"]
    return "\n".join(lines) + "\n"


def _calls(program: Program, label: Label, plan: Plan, codes: Mapping[str, Code]) -> list[str]:
    inputs, outputs = arguments(program, label.upper)
    outside = {a.border.memory: a.variable for a in (*inputs, *outputs)}

    def place(memory: Memory, ctype: str, *, constant: bool) -> str:
        if memory in outside:
            return outside[memory]
        pointer = f"({'const ' if constant else ''}{ctype} *)"
        return f"{pointer}(arena + {plan.offsets[memory] // 4})"

    lines = [f"uint32_t *const arena = {label.upper}_ARENA;"] if plan.size else []
    used = {memory for step in program.steps for memory in (*step.inputs, step.output)}
    lines += [f"(void){a.variable};" for a in inputs if a.border.memory not in used]
    for step in program.steps:
        names = [place(m, p.ctype, constant=True) for m, p in zip(step.inputs, step.ports, strict=True)]
        names.append(place(step.output, step.y.ctype, constant=False))
        if codes[step.name].scratch:
            names.append(f"arena + {plan.offsets[scratch_of(step)] // 4}")
        lines += [f"{step.name}({', '.join(names)});", "BS_STEP_END();"]
    return lines


def selftest(
    program: Program, label: Label, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> str:
    """model_selftest.c: each stored sample through ``NAME_run``, every output compared."""
    up = label.upper
    ins, outs = arguments(program, up)
    tables, begin, copies, checks = [], [], [], []
    count = len(next(iter(inputs.values())))
    for a in ins:
        stored = f"{a.variable}_stored"
        tables += table(stored, inputs[a.border.name], a.port.ctype)
        begin += _buffer(a, stored)
        copies += [
            f"for (i = 0; i < {a.macro}_SIZE; i++) {{",
            f"    {a.variable}[i] = ({a.port.ctype}){_read(a.port)}({a.variable}_at);", f"    {a.variable}_at++;", "}",
        ]  # fmt: skip
    for a in outs:
        stored = f"{a.variable}_stored"
        tables += table(stored, outputs[a.border.name], a.port.ctype)
        begin += _buffer(a, stored)
        checks += [
            f"for (i = 0; i < {a.macro}_SIZE; i++) {{",
            f"    if ({a.variable}[i] != ({a.port.ctype}){_read(a.port)}({a.variable}_at)) {{ return sample; }}",
            f"    {a.variable}_at++;", "}",
        ]  # fmt: skip
    call = ", ".join(a.variable for a in (*ins, *outs))
    body = [
        *begin, "int sample;", "size_t i;",
        f"for (sample = 1; sample <= {count}; sample++) {{",
        *indent([*copies, f"{label.name}_run({call});", *checks]), "}", "return 0;",
    ]  # fmt: skip
    macros = PRELUDE.partition("#if defined(__GNUC__)")[0]
    return "\n".join([
        f"/* {label.name}_selftest.c: {label.made}.",
        f"   {count} inputs, and the outputs that the reference gives for them. */",
        f'#include "{label.name}.h"', "", "#include <stddef.h>", "#include <stdint.h>", "", macros,
        *tables, "", f"int {label.name}_selftest(void)", "{", *indent(body), "}", "",
    ])  # fmt: skip


def _buffer(a: Argument, stored: str) -> list[str]:
    return [
        f"static {a.port.ctype} {a.variable}[{a.macro}_SIZE];",
        f"const {a.port.ctype} *{a.variable}_at = {stored};",
    ]


def _read(port: Port) -> str:
    return f"BS_READ{8 * port.type.dtype.itemsize}"


__all__ = ["Label", "arguments", "header", "prototype", "readable", "selftest", "source"]
