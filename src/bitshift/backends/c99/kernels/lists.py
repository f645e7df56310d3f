"""Linear layers by lists: for each output, plane by plane, the indices of the inputs that it adds and subtracts.

A weight costs a byte for each of its terms (two where a row is longer than 256), and nothing if it is zero; no code is
decoded. It needs no working memory, so it also serves processors with little of it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bitshift.backends.c99 import cost
from bitshift.backends.c99.kernels import walk
from bitshift.backends.c99.kernels.key import Key
from bitshift.backends.c99.layer import Code, Estimate, Layer
from bitshift.backends.c99.proof import planes
from bitshift.backends.c99.rule4 import Rule4
from bitshift.backends.c99.targets import Target
from bitshift.backends.c99.text import indent, loop, narrowest, read, table


class Lists:
    """The kernel, for linear layers."""

    name = "lists"

    def refuses(self, layer: Layer, target: Target) -> str | None:  # noqa: ARG002 - Kernel's interface
        """Layers that are not linear."""
        if layer.kind != "linear":
            return "not a linear layer"
        return None if layer.levels.any() else "every weight is zero"

    def estimate(self, layer: Layer, target: Target) -> Estimate:
        """Cost on ``target``."""
        counts, places = _lists(Key(layer))
        return cost.lists(layer, counts, places, target)

    def emit(self, layer: Layer, target: Target) -> Code:  # noqa: ARG002 - one text for all
        """The C text."""
        counts, places = _lists(Key(layer))
        rule = Rule4.of(layer)
        name, (outputs, inputs) = layer.name, layer.codes.shape
        rows = int(np.prod(layer.x.shape[:-1], dtype=np.int64))
        (count_type, count_bytes), (place_type, place_bytes) = narrowest(counts), narrowest(places)

        def run(sign: str) -> list[str]:
            return [
                f"for (n = {read(count_type, 'count')}; n != 0; n--) {{",
                f"    const uint32_t value = (uint32_t)x[{read(place_type, 'place')}];",
                f"    acc {sign}= value;",
                "    place++;",
                "}",
                "count++;",
            ]

        output = [
            *rule.load("o"),
            "uint32_t acc = 0;",
            f"for (plane = {counts.shape[1]}; plane != 0; plane--) {{",
            *indent(["acc <<= 1;", *run("+"), *run("-")]),
            "}",
            *rule.finish("acc", "*residual"),
            f"*y++ = ({layer.y.ctype})v;",
            *(["residual++;"] if layer.residual is not None else []),
            "o++;",
        ]
        row = [
            f"const {count_type} *count = {name}_counts;",
            f"const {place_type} *place = {name}_places;",
            "uint_fast16_t left_o, n;",
            "uint_fast8_t plane;",
            "size_t o = 0;",
            f"for (left_o = {outputs}; left_o != 0; left_o--) {{",
            *indent(output),
            "}",
        ]
        body = loop("row", rows, [], [*row, f"x += {inputs};"]) if rows > 1 else row
        text = [
            *rule.text,
            *table(f"{name}_counts", counts, count_type),
            *table(f"{name}_places", places, place_type),
            *walk.function(layer, 0, body),
        ]
        return Code(
            text="\n".join(text) + "\n",
            needs=rule.needs,
            table_bytes=rule.table_bytes + counts.size * count_bytes + places.size * place_bytes,
            in_place=frozenset({1}),
        )


@lru_cache(maxsize=64)
def _lists(key: Key) -> tuple[np.ndarray, np.ndarray]:
    """How many inputs each output adds and subtracts (O, planes, 2), the highest plane first; and which, in order."""
    digits = planes(key.layer.levels)[::-1]
    lists = [
        np.flatnonzero(plane == sign) for row in digits.transpose(1, 0, 2) for plane in row for sign in (1, -1)
    ]  # fmt: skip
    counts = np.array([len(found) for found in lists]).reshape(len(key.layer.levels), len(digits), 2)
    return counts, np.concatenate(lists)


__all__ = ["Lists"]
