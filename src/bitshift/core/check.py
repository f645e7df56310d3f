"""What a graph must satisfy, besides its bounds, so that no engine can read or write out of range."""

from __future__ import annotations

import math

from bitshift.core.graph import Graph, GraphError, Value
from bitshift.core.ops import get_op

MAX_NODES = 100_000
MAX_RANK = 6
MAX_LENGTH = (1 << 31) - 1


def check(graph: Graph) -> None:
    """Check every value and node of ``graph``.

    Raises:
        GraphError: names the value or node (with its module), what was found and what is allowed.
    """
    if len(graph.nodes) > MAX_NODES:
        raise GraphError(f"{len(graph.nodes)} nodes; allowed: at most {MAX_NODES}")
    for value in graph.values.values():
        _check_value(value)
    roles: dict[str, str] = {}
    for node in graph.nodes:
        try:
            op = get_op(node.op)
        except ValueError as error:
            raise GraphError(f"{node}: {error}") from None
        op.check(node, graph)
        for role, name in node.consts.items():
            if roles.setdefault(name, role) != role:
                raise GraphError(
                    f"{node}: constant {name!r} is {role} here and {roles[name]} elsewhere; allowed: one role"
                )


def _check_value(value: Value) -> None:
    shape = value.shape
    if len(shape) > MAX_RANK or not all(type(n) is int and 1 <= n <= MAX_LENGTH for n in shape):
        raise GraphError(
            f"value {value.name!r}: shape {list(shape)}; "
            f"allowed: at most {MAX_RANK} axes, each an int of 1 to {MAX_LENGTH}"
        )
    if math.prod(shape) > MAX_LENGTH:
        raise GraphError(f"value {value.name!r}: {math.prod(shape)} elements; allowed: at most {MAX_LENGTH}")
