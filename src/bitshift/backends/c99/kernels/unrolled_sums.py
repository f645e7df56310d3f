"""How the straight-line kernel sums: the C text of a weight's terms, and of the end of a block of them."""

from __future__ import annotations

from itertools import zip_longest

from bitshift.backends.c99.kernels.unrolled_plan import Plan
from bitshift.backends.c99.targets import Target
from bitshift.backends.c99.text import Lines, indent


class Sums:
    """Accumulators ``aO_P`` of output O and plane P, and 32-bit sums ``tO_L`` of lane L where one is not enough."""

    def __init__(self, plan: Plan, target: Target) -> None:
        self.plan = plan
        self.type = "uint16_t" if target.word < 4 else "uint32_t"

    def accumulators(self, output: int, block: int) -> list[tuple[str, range]]:
        """Names and planes: one a plane, or one a group."""
        row = self.plan.rows[output]
        if not self.plan.by_plane:
            return [(f"a{output}_{group.start}", group) for group in row.groups[block]]
        return [(f"a{output}_{plane}", range(plane, plane + 1)) for plane in range(len(row.digits))]

    def whole(self, output: int) -> bool:
        """Whether all planes of an output end in one accumulator."""
        row = self.plan.rows[output]
        return len(row.ends) <= 1 and len(row.groups[0]) <= 1 and not (row.groups[0] and row.groups[0][0].start)

    def weight(self, k: int, place: int, used: list[int]) -> Lines:
        """Input ``k``, which lies ``place`` cells from ``x``, into the sums of the outputs ``used``."""
        value = f"x[{place}]"
        lines: Lines = []
        if self.plan.chained:
            return self._chain(k, f"({self.type}){value}", used)
        if len(used) > 1 or self.plan.image.cell != self.type:
            lines, value = [f"const {self.type} v = ({self.type}){value};"], "v"
        for o in used:
            row = self.plan.rows[o]
            block = sum(k >= end for end in row.ends)
            for name, group in self.accumulators(o, block):
                powers = [plane for plane in group if row.digits[plane, k]]
                for plane in powers:
                    digit = int(row.digits[plane, k])
                    if plane != powers[0]:
                        # Two shifts of one value would become a multiplication.
                        lines.append(f"BS_OPAQUE({name});")
                    up = plane - group.start
                    term = f"({value} << {up})" if up else value
                    sign = "+" if digit > 0 else "-"
                    lines.append(f"{name} = ({self.type})({name} {sign} {term});")
        return ["{", *indent(lines), "}"] if value == "v" else lines

    def _chain(self, k: int, value: str, used: list[int]) -> Lines:
        """The value, shifted from plane to plane, for every output that has a digit there."""
        rows = [self.plan.rows[o].digits[:, k].tolist() for o in used]
        lines, last = [f"{self.type} v = {value};"], 0
        for plane, digits in enumerate(zip_longest(*rows, fillvalue=0)):
            if any(digits) and plane > last:
                # Hidden, or two shifts of one value, on AVR that of one byte, would become a multiplication.
                before = ["BS_OPAQUE(v);"] if self.type == "uint16_t" and not last else []
                lines += [*before, f"v = ({self.type})(v << {plane - last});", "BS_OPAQUE(v);"]
                last = plane
            for o, digit in zip(used, digits, strict=True):
                if digit:
                    lines.append(f"a{o}_0 = ({self.type})(a{o}_0 {'+' if digit > 0 else '-'} v);")
        return ["{", *indent(lines), "}"]

    def join(self, output: int, block: int) -> list[tuple[str, range]]:
        """Expressions of the accumulators, planes of a group joined, and the group."""
        groups = self.plan.rows[output].groups[block]
        if not self.plan.by_plane:
            return [(f"a{output}_{group.start}", group) for group in groups]
        joined = []
        for group in groups:
            text = f"a{output}_{group[-1]}"
            for plane in reversed(group[:-1]):
                text = f"(({text} << 1) + a{output}_{plane})"
            joined.append((f"({self.type}){text}" if self.type == "uint16_t" else text, group))
        return joined

    def hide(self, output: int, block: int) -> Lines:
        """Hides on AVR that an accumulator is one extended byte: GCC would make a multiplication of its shift."""
        if self.type != "uint16_t" or not self.plan.by_plane:
            return []
        return [f"BS_OPAQUE(a{output}_{group[-1]});" for group in self.plan.rows[output].groups[block] if group[:-1]]

    def lane(self, word: str, lane: int) -> str:
        """A lane's sum as a signed expression."""
        if self.plan.image.lanes == 2:
            shifted = f"({word} + UINT32_C(0x8000))" if lane else f"({word} << 16)"
            return f"BS_SAR((int32_t){shifted}, 16)"
        return f"(int16_t)({word})" if self.type == "uint16_t" else f"(int32_t)({word})"

    def flush(self, output: int, block: int) -> Lines:
        """Add a block's accumulators to the 32-bit sums, and begin them anew."""
        lines = self.hide(output, block)
        for text, group in self.join(output, block):
            lines.append(f"const {self.type} w{group.start} = {text};")
            for lane in range(self.plan.image.lanes):
                value = self.lane(f"w{group.start}", lane)
                if group.start:
                    value = f"(int32_t)((uint32_t)({value}) << {group.start})"
                lines.append(f"t{output}_{lane} += {value};")
        row = self.plan.rows[output]
        if block + 1 < len(row.ends):
            lines += [f"{name} = 0;" for name, _ in self.accumulators(output, block + 1)]
        return ["{", *indent(lines), "}"]


__all__ = ["Sums"]
