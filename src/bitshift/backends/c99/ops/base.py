"""What an op without weights of a layer is to the generator: a node with its ports, and a function that writes C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bitshift.backends.c99.layer import Code, Port
from bitshift.backends.c99.rule4 import Rule4, simplified
from bitshift.backends.c99.text import Lines, counter, indent
from bitshift.core.arith import limits
from bitshift.core.graph import Graph, GraphError, Node
from bitshift.core.ops.base import Bound
from bitshift.core.ops.rules import clamp_of
from bitshift.core.ops.weighted import vector


@dataclass(frozen=True, kw_only=True)
class Site:
    """A node where its C function is to be written; ``title`` is what messages call it."""

    name: str
    title: str
    node: Node
    graph: Graph
    xs: tuple[Port, ...]
    y: Port
    bound: Bound

    @property
    def wide(self) -> bool:
        """Whether the sums of this node need 64 bits."""
        return not self.bound.fits32

    @property
    def limits(self) -> tuple[int, int]:
        """Clamp and saturation of the output in one."""
        return limits(self.y.type, clamp_of(self.node))

    def refuse(self, found: str, advice: str) -> GraphError:
        """An error that names the layer."""
        return GraphError(f"{self.title}: {found}; {advice}")


def rule4(site: Site, count: int, reach: int | np.ndarray, residual: Port | None = None) -> Rule4:
    """Rule 4 of a node of ``count`` channels whose accumulators reach ``reach``, with the smallest left shifts."""
    mult, offset, shift, res_shift = (
        vector(site.node, site.graph, role, count).astype(np.int64) for role in ("mult", "offset", "shift", "res_shift")
    )
    mult, offset, shift, found = simplified(mult, offset, shift, None if residual is None else res_shift)
    res_shift = np.zeros_like(shift) if found is None else found
    # Python integers: a bound may exceed int64.
    total = reach * mult.astype(object) + abs(offset.astype(object))
    if residual is not None:
        total = total + max(-residual.lo, residual.hi) * (1 << res_shift.astype(object))
    wide = int(total.max()) >= 1 << 31
    return Rule4(site.name, mult, offset, shift, res_shift, *site.limits, wide, residual)


Emitter = Callable[[Site], Code]


def function(site: Site, body: Sequence[str], *, tables: Sequence[str] = (), scratch: bool = False) -> str:
    """The definition ``static void NAME(const X *x, [const X1 *x1, ...] Y *y, [uint32_t *scratch])``."""
    names = ["x", *(f"x{i}" for i in range(1, len(site.xs)))]
    arguments = [f"const {port.ctype} *{name}" for port, name in zip(site.xs, names, strict=True)]
    arguments.append(f"{site.y.ctype} *y")
    if scratch:
        arguments.append("uint32_t *scratch")
    lines = [*tables, f"static void {site.name}({', '.join(arguments)})", "{", *indent(body), "}"]
    return "\n".join(lines) + "\n"


def each(size: int, body: Lines) -> Lines:
    """``body`` for the places ``n`` of ``size`` elements."""
    return [f"for ({counter(size)} n = 0; n < {size}; n++) {{", *indent(body), "}"]


def store(site: Site, at: str = "n") -> str:
    """``y[at] = v``."""
    return f"y[{at}] = ({site.y.ctype})v;"
