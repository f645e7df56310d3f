"""What an op without weights of a layer is to the generator: a node with its ports, and a function that writes C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitshift.backends.c99.layer import Code, Port
from bitshift.backends.c99.text import Lines, counter, indent
from bitshift.core.arith import limits
from bitshift.core.graph import Graph, GraphError, Node
from bitshift.core.ops.base import Bound
from bitshift.core.ops.rules import clamp_of


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


def each(site: Site, size: int, body: Lines) -> Lines:
    """``body`` for the places ``n`` of ``size`` elements."""
    del site
    return [f"for ({counter(size)} n = 0; n < {size}; n++) {{", *indent(body), "}"]


def store(site: Site, at: str = "n") -> str:
    """``y[at] = v``."""
    return f"y[{at}] = ({site.y.ctype})v;"
