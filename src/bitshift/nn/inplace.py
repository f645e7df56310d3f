"""Writes in place, in a traced model: torch.fx follows names, and a name may stand for another's memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from bitshift.nn.plan import ConvertError
from bitshift.nn.trace import VIEWS, WRITERS, Flow, argument

_VIEWS: set[Any] = VIEWS | {torch.unbind, "unbind", "expand", "expand_as", "detach"}
_PARTS: set[Any] = {torch.chunk, torch.split, torch.unbind, "chunk", "split", "unbind"}
_VIEW_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten)


def follow_writes(traced: fx.GraphModule) -> None:
    """Let whatever reads a value behind a write into it read the result of the write.

    ``z.add_(y)``, ``z += y`` where ``z`` has two names, and ``act(z)`` with ``inplace=True`` change ``z`` for everybody
    who reads it later. What conversion puts in their place writes nothing, so the graph has to say who reads what.

    Raises:
        ConvertError: a value that is written is read later through a view of it, or of what it is a view of.
    """
    order, flow = {node: place for place, node in enumerate(traced.graph.nodes)}, Flow(traced)
    for node in list(traced.graph.nodes):
        target = _written(traced, node)
        if target is None:
            continue
        if node.op == "call_function":
            node.target = WRITERS.get(node.target, node.target)
        if flow.kind(target) == "number":
            continue
        for other in _sharing(traced, target):
            late = [u for u in other.users if order[u] > order[node] and u is not node]
            if other is not target and [u for u in late if not _is_view(traced, u) or u.users]:
                raise ConvertError(
                    f"{node.name!r} writes into memory that {other.name!r} shares, which is read later, and torch.fx "
                    "cannot follow that; write the line without changing its input in place"
                )
        for user in [u for u in target.users if order[u] > order[node]]:
            user.replace_input_with(target, node)


def _written(traced: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The value that ``node`` changes in place, if it does."""
    first = argument(node, 0, "input")
    if not isinstance(first, fx.Node):
        return None
    if node.op == "call_module":
        writes = getattr(traced.get_submodule(str(node.target)), "inplace", False) is True
    elif node.op in ("call_function", "call_method"):
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        under = name.endswith("_") and not name.endswith("__")
        writes = node.target in WRITERS or under or node.kwargs.get("inplace") is True
    else:
        writes = False
    return first if writes else None


def _is_view(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), _VIEW_MODULES)
    return node.target in _VIEWS


def _sharing(traced: fx.GraphModule, node: fx.Node) -> Iterator[fx.Node]:
    """``node`` and the values that may lie in its memory: its views, and what it is a view of, with its other views."""
    below = [node]
    while below:
        found = below.pop()
        yield found
        below += [user for user in found.users if _is_view(traced, user)]
    child = node
    while _is_view(traced, child) and isinstance(parent := argument(child, 0, "input"), fx.Node):
        yield parent
        if parent.target not in _PARTS:  # whose parts do not overlap
            for user in parent.users:
                if user is not child and _is_view(traced, user):
                    yield user
        child = parent


__all__ = ["follow_writes"]
