"""Rows of a table by number."""

from __future__ import annotations

import numpy as np

from bitshift.backends.c99.codes import streamed
from bitshift.backends.c99.layer import Code
from bitshift.backends.c99.ops.base import Site, function, rule4, store
from bitshift.backends.c99.text import indent, narrowest, read, table
from bitshift.core.formats import get_format
from bitshift.core.packing import pack, row_bytes


def embedding(site: Site) -> Code:
    """Rule 4 of each level of the row; the row's place is a sum of shifts of its number."""
    form, codes = get_format(site.node.attrs["format"]), site.graph.const(site.node, "codes")
    rows, width = codes.shape
    rule = rule4(site, rows, form.max_level)
    packed, pitch = pack(codes, form.bits), row_bytes(width, form.bits)
    levels = np.array(form.levels)
    ctype, size = narrowest(levels)
    terms = [f"id << {bit}" if bit else "id" for bit in range(pitch.bit_length()) if pitch >> bit & 1]
    place = [f"size_t row = {terms[0]};"]
    for term in terms[1:]:
        place += ["BS_OPAQUE(row);", f"row += {term};"]
    begin, take = streamed(form.bits, "w")
    element = [
        *take, "size_t place = (size_t)code;", "BS_OPAQUE(place);",
        f"const int32_t level = (int32_t){read(ctype, f'{site.name}_levels + place')};",
        *rule.finish("level"), store(site, "at"), "at++;",
    ]  # fmt: skip
    per_id = [
        "size_t id = (size_t)x[n];", "BS_OPAQUE(id);", "BS_OPAQUE(at);", *rule.load("id"), *place,
        f"const uint8_t *w = {site.name}_codes + row;", *begin,
        f"for (size_t e = 0; e < {width}; e++) {{", *indent(element), "}",
    ]  # fmt: skip
    body = ["size_t at = 0;", f"for (size_t n = 0; n < {site.xs[0].size}; n++) {{", *indent(per_id), "}"]
    tables = [
        *table(f"{site.name}_codes", packed, "uint8_t"), *table(f"{site.name}_levels", levels, ctype), *rule.text
    ]  # fmt: skip
    return Code(
        text=function(site, body, tables=tables), needs=rule.needs,
        table_bytes=packed.size + size * levels.size + rule.table_bytes,
    )  # fmt: skip
