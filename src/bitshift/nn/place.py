"""Where activation quantisers go: on values, one for each group of values that must share a grid."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import fx, nn

from bitshift.nn.activations import ActQuant
from bitshift.nn.layers import ShiftEmbedding, ShiftLayer
from bitshift.nn.layers.pointwise import Pointwise
from bitshift.nn.layers.pool import AvgPool
from bitshift.nn.plan import NO_GRAPH
from bitshift.nn.report import Row
from bitshift.nn.trace import Flow, argument

logger = logging.getLogger("bitshift")
INTEGER_MODULES = (ShiftLayer, AvgPool, Pointwise)


class Editor(Protocol):
    """What placement needs of the conversion that owns the graph."""

    traced: fx.GraphModule
    flow: Flow
    kept: set[nn.Module]
    extra: list[Row]
    bits: int

    def add_module(self, name: str, module: nn.Module) -> str:
        """Put a module at a free path; returns the path."""
        ...

    def insert(self, after: fx.Node, path: str, args: tuple[fx.Node, ...]) -> fx.Node:
        """Append a call of a module behind a node."""
        ...


class _Groups:
    """Union-find over values: those of one group share a quantiser. State: parents, and the bits asked for."""

    def __init__(self) -> None:
        self._parent: dict[fx.Node, fx.Node] = {}
        self._bits: dict[fx.Node, int] = {}

    def find(self, node: fx.Node) -> fx.Node:
        """The representative of a node's group."""
        while self._parent[node] is not node:
            node = self._parent[node]
        return node

    def demand(self, nodes: Iterable[fx.Node], bits: int) -> None:
        """Quantise ``nodes``, together, to at most ``bits`` bits."""
        nodes = list(nodes)
        for node in nodes:
            self._parent.setdefault(node, node)
            self._bits[node] = min(bits, self._bits.get(node, bits))
        for node in nodes[1:]:
            self._parent[self.find(node)] = self.find(nodes[0])

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._parent

    def members(self) -> list[tuple[list[fx.Node], int]]:
        """The groups with their bits, in the order in which they were first asked for."""
        groups: dict[fx.Node, list[fx.Node]] = {}
        for node in self._parent:
            groups.setdefault(self.find(node), []).append(node)
        return [(nodes, min(self._bits[n] for n in nodes)) for nodes in groups.values()]


def reads_integers(work: Editor, node: fx.Node) -> bool:
    """Whether ``node`` calls one of our modules that needs quantised input."""
    module = work.flow.module(node)
    return isinstance(module, INTEGER_MODULES) and module not in work.kept


def _demands(work: Editor) -> _Groups:
    """Every value that must be quantised: what integer modules read, table outputs, one of two wide summands."""
    groups = _Groups()
    readers: dict[nn.Module, list[fx.Node]] = {}
    for node in work.traced.graph.nodes:
        if not reads_integers(work, node):
            continue
        module = work.flow.module(node)
        assert module is not None
        if isinstance(module, ShiftEmbedding):
            continue  # ids are integers already
        found = readers.setdefault(module, [])  # a shared module has one input grid, wherever it is called
        found += work.flow.origins(work.flow.source(node))
        groups.demand(found, 8 if isinstance(module, Pointwise) else work.bits)
        if isinstance(module, Pointwise):
            groups.demand([node], work.bits)

    def narrow(nodes: list[fx.Node]) -> bool:
        return all(n in groups or work.flow.kind(n) == "quant" for n in nodes)

    for node in work.traced.graph.nodes:
        if work.flow.kind(node) != "add":
            continue
        a, b = (work.flow.origins(argument(node, i, name)) for i, name in enumerate(("input", "other")))
        if not narrow(a) and not narrow(b):
            groups.demand(b, work.bits)
    return groups


def place_quantisers(work: Editor) -> None:
    """Insert the quantisers and tell each integer module which one it reads."""
    for node in work.traced.graph.nodes:
        if work.flow.kind(node) == "add":  # in place it would round to the first summand's dtype
            node.args, node.kwargs = (argument(node, 0, "input"), argument(node, 1, "other")), {}
            node.op, node.target = "call_function", operator.add
    work.flow.forget()
    placed: dict[fx.Node, ActQuant] = {}
    for members, wish in _demands(work).members():
        existing = [m for m in members if work.flow.kind(m) == "quant"]
        if existing:
            quant, path = work.flow.module(existing[0]), str(existing[0].target)
            assert isinstance(quant, ActQuant)
        else:
            # The network's input keeps 8 bits: it costs no layer anything, and a picture has 8.
            bits = 8 if any(work.flow.kind(m) == "input" for m in members) else wish
            quant = ActQuant(bits, signed=not all(work.flow.never_negative(m) for m in members))
            path = quant.path = work.add_module(f"{members[0].name}_quant", quant)
            names = ", ".join(m.name for m in members)
            work.extra.append(Row(path=path, was=f"value {names}", became="ActQuant", quantiser=quant.describe()))
        for node in members:
            placed[node] = quant
            if work.flow.kind(node) != "quant":
                new = work.insert(node, path, (node,))
                node.replace_all_uses_with(new, delete_user_cb=lambda user, keep=new: user is not keep)
                placed[new] = quant
        work.flow.forget()
    for node in work.traced.graph.nodes:
        module = work.flow.module(node)
        if isinstance(module, ShiftEmbedding):
            module.set_integer()
        elif isinstance(module, (ShiftLayer, Pointwise)) and module not in work.kept:
            module.set_input(placed[work.flow.origins(work.flow.source(node))[0]])


def fence_float_operations(work: Editor) -> None:
    """Give float32 to every operation that is not exact on wide values, and report it."""
    constants = _constants(work)
    for node in list(work.traced.graph.nodes):
        kind, module = work.flow.kind(node), work.flow.module(node)
        in_float = kind == "other" or (kind in ("layer", "norm", "avg_pool") and not reads_integers(work, node))
        if not in_float or node.op == "get_attr" or isinstance(module, nn.Embedding):
            continue  # an embedding reads ids
        factors = _factors(node, constants)
        for source in node.all_input_nodes:
            if work.flow.kind(source) in ("number", "other", "quant") or source.op == "get_attr":
                continue
            with work.traced.graph.inserting_before(node):
                cast = work.traced.graph.call_method("float", (source,))
            node.replace_input_with(source, cast)
        if kind == "other":
            path = str(node.target) if module is not None else node.name
            note = "computed in float; export refuses what integers cannot do"
            if factors is not None:
                inside = next(reversed(node.meta.get("nn_module_stack", {"": None})), "")
                sure = all(factors) and factors[0] != factors[1]  # of one shape it may be a table of one value
                note = f"a product of two activations in module {inside!r} needs a multiplier: export refuses it"
                note += "" if sure else ", unless it is a function of one value"
                if sure:
                    logger.warning("convert: %r: %s (docs/convert.md)", path, note)
            elif isinstance(module, NO_GRAPH):
                note = "computed in float; the graph has no recurrent layers and no attention: export refuses it"
                logger.warning("convert: %r (%s): %s (docs/convert.md)", path, type(module).__name__, note)
            work.extra.append(Row(path=path, was=operation_name(node, module), note=note))
    work.flow.forget()


_PRODUCTS = (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply", "multiply_")


def _constants(work: Editor) -> set[fx.Node]:
    """The nodes that depend on no input: parameters, sizes, and what is computed of these alone."""
    found: set[fx.Node] = set()
    for node in work.traced.graph.nodes:
        alone = node.op not in ("placeholder", "output") and all(n in found for n in node.all_input_nodes)
        if alone or work.flow.kind(node) == "number":
            found.add(node)
    return found


def _factors(node: fx.Node, constants: set[fx.Node]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The shapes (one ``()`` where no sample told) of the two activations that ``node`` multiplies, else None."""
    values = [n for n in node.args if isinstance(n, fx.Node) and n not in constants]
    if node.target not in _PRODUCTS or len(values) != 2:
        return None
    first, second = (tuple(v.meta.get("shape") or ()) for v in values)
    return first, second


def operation_name(node: fx.Node, module: nn.Module | None) -> str:
    """How a report names what a node calls."""
    if module is not None:
        return type(module).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


__all__ = ["fence_float_operations", "operation_name", "place_quantisers", "reads_integers"]
