"""The index of the first maximum along the last axis."""

from __future__ import annotations

from bitshift.backends.c99.layer import Code
from bitshift.backends.c99.ops.base import Site, function
from bitshift.backends.c99.text import indent, loop


def argmax(site: Site) -> Code:
    """One pass a row."""
    length, rows = site.xs[0].shape[-1], site.y.size
    search = [
        f"{site.xs[0].ctype} best = x[0];",
        "int32_t found = 0;",
        f"for (int32_t i = 1; i < {length}; i++) {{",
        "    if (x[i] > best) {",
        "        best = x[i];",
        "        found = i;",
        "    }",
        "}",
        "*y = found;",
    ]
    if length == 1:
        search = ["(void)x;", "*y = 0;"]
    body = loop("r", rows, ["y++", f"x += {length}"], search)
    return Code(text=function(site, body if rows > 1 else ["{", *indent(body), "}"]))
