"""The frame of a kernel that reads lane images: groups, strips, and the cells of a strip in tiles."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bitshift.backends.c99.kernels.image import Image
from bitshift.backends.c99.layer import Layer
from bitshift.backends.c99.text import Lines, counter, indent, loop, stepped


def hidden(lines: Sequence[str]) -> Lines:
    """``lines`` with what walks along hidden from the compiler after each step, so that no step becomes a product."""
    found: Lines = []
    for line in lines:
        found.append(line)
        step = re.fullmatch(r"( *)(\w+) [+-]= (\w+);", line)
        if step and step[3] != "1" and step[2] not in ("u", "v", "w"):
            found.append(f"{step[1]}BS_OPAQUE({step[2]});")
    return found


def settled(*names: str) -> Lines:
    """What ends a row whose cells ``names`` walked by ones: else GCC counts the rows and multiplies."""
    return [f"BS_OPAQUE({name});" for name in names]


def arguments(layer: Layer, scratch: int) -> str:
    """The parameters of the layer's function."""
    parts = [f"const {layer.x.ctype} *x"]
    if layer.residual is not None:
        parts.append(f"const {layer.residual.ctype} *residual")
    parts.append(f"{layer.y.ctype} *y")
    return ", ".join([*parts, *(["uint32_t *scratch"] if scratch else [])])


def function(layer: Layer, scratch: int, body: Sequence[str]) -> Lines:
    """The layer's function."""
    return [f"static void {layer.name}({arguments(layer, scratch)})", "{", *indent(hidden(body)), "}"]


def strips(layer: Layer, image: Image, body: Sequence[str], *, group: Sequence[str] = ()) -> Lines:
    """``body`` for every strip, its image filled: ``cells`` is its first cell, ``out`` the first output of channel
    ``first``, ``todo`` the pairs of the strip. ``group`` closes each group of channels.
    """
    geo, (rows, columns) = image.geo, image.pairs
    full, last = image.rows * columns, (rows - (image.strips - 1) * image.rows) * columns
    down, start = image.rows * geo.stride[0], -geo.before[0]
    place = start * geo.x_step[1]
    cells = "x" if image.direct else "image"
    lines = [f"const {image.cell} *cells = {cells};", "size_t out = start;"]
    if image.strips > 1 and last != full:
        lines.append(f"{counter(full)} todo = strip == {image.strips - 1} ? {last} : {full};")
    else:
        lines.append(f"{counter(full)} todo = {full};")
    if not image.direct:
        lines = [f"{layer.name}_image(image, x, top, at);", *lines]
    lines = [*lines, *body]
    begin = ["size_t start = 0;"]
    if not image.direct:
        begin += [f"ptrdiff_t top = {start};", f"ptrdiff_t at = {place};"]
    if image.strips > 1:
        lines += [f"top += {down};", f"at += {down * geo.x_step[1]};", f"start += {image.rows * geo.y_step[1]};"]
        lines = [*begin, *loop("strip", image.strips, [], lines)]
    else:
        lines = [*begin, *lines]
    if geo.groups == 1:
        return ["{", *indent(lines), "}"]
    lines += [f"x += {geo.channels * geo.x_step[0]};", f"y += {geo.outputs * geo.y_step[0]};"]
    if layer.residual is not None:
        lines.append(f"residual += {geo.outputs * geo.y_step[0]};")
    return loop("g", geo.groups, [], [*lines, f"first += {geo.outputs};", *group])


def advance(image: Image) -> Lines:
    """From one pair to the next: ``cells`` and ``out``, with ``column`` the pairs left in the row.

    Nothing where a strip is one pair: GCC sees a step that leaves a smaller image, and warns.
    """
    geo, (_, columns) = image.geo, image.pairs
    if image.rows == 1 and columns == 1:
        return []
    down, right = image.step
    y_down, y_right = geo.y_step[1], geo.y_step[2]
    step = [f"cells += {right};", f"out += {y_right};"]
    if image.rows == 1 or columns == 1:
        return step if image.rows == 1 else [f"cells += {down};", f"out += {y_down};"]
    jump = stepped(("cells", down - columns * right), ("out", y_down - columns * y_right))
    more = ["column--;", "if (column == 0) {", *indent([f"column = {columns};", *jump]), "}"]
    return [*step, *more]


def high(image: Image) -> str:
    """The place of the high lane's output; the low one's where there is no second pixel."""
    plain = f"out + {image.high_out}"
    if not image.odd:
        return plain
    if not image.across:
        return f"out >= {(image.pairs[0] - 1) * image.geo.y_step[1]} ? out : {plain}"
    if image.rows == 1:
        return f"todo == 1 ? out : {plain}"
    return f"column == 1 ? out : {plain}"


__all__ = ["advance", "arguments", "function", "hidden", "high", "settled", "strips"]
