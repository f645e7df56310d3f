"""Linear layers by lists: for each output, plane by plane, the indices of the inputs that it adds and subtracts.

A weight costs a byte for each of its terms (two where a row is longer than 256), and nothing if it is zero; no code is
decoded. It needs no working memory, so it also serves processors with little of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitshift.backends.c99 import cost
from bitshift.backends.c99.kernels import walk
from bitshift.backends.c99.kernels.planned import Planned
from bitshift.backends.c99.layer import Code, Estimate, Layer
from bitshift.backends.c99.proof import planes
from bitshift.backends.c99.rule4 import Rule4
from bitshift.backends.c99.targets import Target
from bitshift.backends.c99.text import counter, indent, loop, narrowest, read, table

BURST = 8
"""A power of two: no library divides."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many inputs each output adds and subtracts (O, planes, 2), the highest plane first; and which, in order."""

    counts: np.ndarray
    places: np.ndarray

    @property
    def burst(self) -> int:
        """Inputs a turn of the loop, where lists are several times as long; the rest goes one by one."""
        return BURST if self.counts.mean() >= 2 * BURST else 1


class Lists(Planned[Plan]):
    """The kernel, for linear layers."""

    name = "lists"

    def make(self, layer: Layer, target: Target) -> Plan | str:  # noqa: ARG002 - one plan for all
        """The lists; refuses layers that are not linear."""
        if layer.kind != "linear":
            return "not a linear layer"
        if not layer.levels.any():
            return "every weight is zero"
        digits = planes(layer.levels)[::-1]
        lists = [
            np.flatnonzero(plane == sign) for row in digits.transpose(1, 0, 2) for plane in row for sign in (1, -1)
        ]  # fmt: skip
        counts = np.array([len(found) for found in lists]).reshape(len(layer.levels), len(digits), 2)
        return Plan(counts=counts, places=np.concatenate(lists))

    def estimate(self, layer: Layer, target: Target) -> Estimate:
        """Cost on ``target``."""
        plan = self.plan(layer, target)
        return cost.lists(layer, plan, target)

    def emit(self, layer: Layer, target: Target) -> Code:
        """The C text."""
        plan = self.plan(layer, target)
        counts, places = plan.counts, plan.places
        rule = Rule4.of(layer)
        name, (outputs, inputs) = layer.name, layer.codes.shape
        rows = int(np.prod(layer.x.shape[:-1], dtype=np.int64))
        (count_type, count_bytes), (place_type, place_bytes) = narrowest(counts), narrowest(places)

        burst = plan.burst

        def take(sign: str, step: int) -> list[str]:
            where = [read(place_type, f"place + {at}" if at else "place") for at in range(step)]
            taken = [f"{{ const uint32_t value = (uint32_t)x[{at}]; acc {sign}= value; }}" for at in where]
            return [*taken, f"place += {step};"]

        def run(sign: str) -> list[str]:
            head = f"n = {read(count_type, 'count')};"
            if burst == 1:
                return [head, "for (; n != 0; n--) {", *indent(take(sign, 1)), "}", "count++;"]
            whole = [
                f"for (bursts = n >> {burst.bit_length() - 1}; bursts != 0; bursts--) {{",
                *indent(take(sign, burst)),
                "}",
            ]
            rest = [f"for (n &= {burst - 1}; n != 0; n--) {{", *indent(take(sign, 1)), "}"]
            return [head, *whole, *rest, "count++;"]

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
            f"{counter(max(outputs, int(counts.max())))} left_o, n{', bursts' if burst > 1 else ''};",
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


__all__ = ["Lists"]
