"""A graph as a sequence of C functions: what each reads and writes, and which values share one memory."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from bitshift.backends.c99.layer import Layer, Port
from bitshift.backends.c99.ops import EMITTERS, Site
from bitshift.backends.c99.ops.base import rule4
from bitshift.backends.c99.ops.elementwise import check_powers
from bitshift.core.bounds import check_bounds, input_ranges
from bitshift.core.check import check
from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import get_format
from bitshift.core.graph import Graph, GraphError, Node
from bitshift.core.ops.base import Bound
from bitshift.core.ops.weighted import accumulator_range, levels_of

LAYERS = ("conv", "linear")
NORMED = (*LAYERS, "conv_transpose", "embedding", "rescale")
"""Ops whose constants may hold a multiplier."""

Memory = str | tuple[str, str]
"""A memory's key: the name of its first value; a pair, which no value is called, for what is no value's."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call: ``inputs`` and ``output`` name memories, not values; a layer has a :class:`Layer`, the rest a Site."""

    name: str
    title: str
    inputs: tuple[Memory, ...]
    output: Memory
    ports: tuple[Port, ...]
    layer: Layer | None = None
    site: Site | None = None

    @property
    def y(self) -> Port:
        """What the step writes."""
        if self.layer is not None:
            return self.layer.y
        assert self.site is not None
        return self.site.y


@dataclass(frozen=True, kw_only=True)
class Border:
    """An input or output of the network: its name in the graph, its memory, and how floats become its integers."""

    name: str
    memory: Memory
    port: Port
    rounding: str = "half_up"


@dataclass(frozen=True, kw_only=True)
class Program:
    """Steps in order, the network's borders, and the bytes of every memory."""

    graph: Graph
    inputs: tuple[Border, ...]
    outputs: tuple[Border, ...]
    steps: tuple[Step, ...]
    sizes: dict[Memory, int] = field(default_factory=dict)

    @cached_property
    def external(self) -> frozenset[Memory]:
        """Memories that the caller owns: inputs and outputs."""
        return frozenset(border.memory for border in (*self.inputs, *self.outputs))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Convolutions and linear layers in order."""
        return tuple(step.layer for step in self.steps if step.layer is not None)


def build(graph: Graph) -> Program:
    """The program of ``graph``.

    Raises:
        GraphError: the graph breaks a rule or a bound, or holds what this backend does not write: names the layer, what
            was found, and what would help.
    """
    check(graph)
    return _Builder(graph, check_bounds(graph)).program()


class _Builder:
    """State while a graph is walked: which memory each value lies in, and the ranges of the integers."""

    def __init__(self, graph: Graph, bounds: dict[str, Bound]) -> None:
        self.graph = graph
        self.bounds = bounds
        self.memory: dict[str, Memory] = {name: name for name in graph.inputs}
        self.copies: dict[Memory, Port] = {}
        self.floats = {name: name for name in graph.inputs if not isinstance(graph.values[name].type, FixedPoint)}
        """Float views of an input, by name: what a quantize may read."""
        self.ports: dict[str, Port] = {}
        self.rounding: dict[str, str] = {}
        self.steps: list[Step] = []
        for name, found in input_ranges(graph).items():
            if found is not None:
                self.ports[name] = self._port(name, found)

    def _port(self, name: str, found: tuple[int, int]) -> Port:
        value = self.graph.values[name]
        assert isinstance(value.type, FixedPoint)
        return Port(shape=value.shape, type=value.type, lo=found[0], hi=found[1])

    def program(self) -> Program:
        for node in self.graph.nodes:
            if not self._border(node):
                self._step(node)
        inputs = tuple(self._input(name) for name in self.graph.inputs)
        outputs = self._outputs()
        ports = {self.memory[name]: port for name, port in self.ports.items()} | self.copies
        sizes = {memory: port.size_bytes for memory, port in ports.items()}
        return Program(graph=self.graph, inputs=inputs, outputs=outputs, steps=tuple(self.steps), sizes=sizes)

    def _border(self, node: Node) -> bool:
        """Whether ``node`` only converts at the border, or gives a value another shape: no call is written for it."""
        first = node.inputs[0]
        if node.op == "reshape" and first in self.floats:
            self.floats[node.output] = self.floats[first]
            return True
        if node.op == "quantize" and first in self.floats:
            self._quantize(node, self.floats[first])
            return True
        if node.op == "dequantize":
            readers = self.graph.users(node.output)
            if readers:
                raise self._inexact(readers[0])
            self._alias(node.output, first)
            return True
        if node.op == "reshape":
            self._alias(node.output, first)
            return True
        return False

    def _alias(self, name: str, source: str) -> None:
        self.memory[name] = self.memory[source]
        port = self.ports[source]
        self.ports[name] = Port(shape=self.graph.values[name].shape, type=port.type, lo=port.lo, hi=port.hi)

    def _quantize(self, node: Node, entry: str) -> None:
        """The caller quantises: the network's input is what ``node`` gives."""
        value, rounding = self.graph.values[node.output], node.attrs["rounding"]
        type = value.type
        assert isinstance(type, FixedPoint)
        known = self.ports.get(entry)
        if known is not None and (known.type != type or self.rounding[entry] != rounding):
            raise GraphError(
                f"{title(node)}: quantises the input {entry!r} to {type} ({rounding}), another layer to {known.type} "
                f"({self.rounding[entry]}); a C network takes its input in one type: quantise it once"
            )
        self.rounding[entry] = rounding
        self.ports[entry] = Port(shape=self.graph.values[entry].shape, type=type, lo=type.lo, hi=type.hi)
        self.memory[node.output] = self.memory[entry]
        self.ports[node.output] = Port(shape=value.shape, type=type, lo=type.lo, hi=type.hi)

    def _input(self, name: str) -> Border:
        if name not in self.ports:
            raise GraphError(
                f"input {name!r} is float32 and no layer quantises it; the C network takes integers: "
                "train with activations=8 (or another width)"
            )
        return Border(name=name, memory=name, port=self.ports[name], rounding=self.rounding.get(name, "half_up"))

    def _step(self, node: Node) -> None:
        type = self.graph.values[node.output].type
        floats = [name for name in node.inputs if name not in self.ports]
        if floats or not isinstance(type, FixedPoint):
            raise self._inexact(node, f" ({floats[0] if floats else node.output!r})")
        found = self.bounds[node.output]
        assert found.range is not None
        self.memory[node.output] = node.output
        self.ports[node.output] = self._port(node.output, found.range)
        name = f"s{len(self.steps):02d}_{identifier(node.source or node.output)}"
        xs = tuple(self.ports[x] for x in node.inputs)
        site = Site(
            name=name, title=title(node), node=node, graph=self.graph, xs=xs, y=self.ports[node.output], bound=found
        )
        if node.op in NORMED and "mult" in node.consts:
            check_powers(site, self.graph.const(node, "mult"))
        layer = _layer(site) if node.op in LAYERS else None
        if layer is None and node.op not in EMITTERS:
            raise site.refuse(f"the op {node.op!r} has no C form", f"supported: {', '.join((*LAYERS, *EMITTERS))}")
        self.steps.append(
            Step(
                name=name, title=site.title, inputs=tuple(self.memory[x] for x in node.inputs), output=node.output,
                ports=xs, layer=layer, site=None if layer else site,
            )
        )  # fmt: skip

    def _inexact(self, node: Node, what: str = "") -> GraphError:
        """An error about ``node``, which computes with floats, or, where it quantises some, about what gave them."""
        if node.op == "quantize":
            made = {other.output: other for other in self.graph.nodes}
            node, what = made.get(node.inputs[0], node), ""
        reader = self._reader(node)
        begin = f"{title(node)}: computes with floats{what}"
        weighted = (n for n in self.graph.nodes if n.op in (*LAYERS, "conv_transpose", "embedding"))
        if reader is None or any(not isinstance(self.graph.values[n.output].type, FixedPoint) for n in weighted):
            return GraphError(
                f"{begin}; the C network has integers only: train it with activations=8 (or another width; fixed point "
                "as '16.16' has layers in floats) and without keep='float'"
            )
        return GraphError(
            f"{begin}, which are quantised for {title(reader)}; the C network has integers only, and no op on them "
            f"gives the same: take the {node.op} out of the model, or, before the first layer, leave it to the firmware"
        )

    def _reader(self, node: Node) -> Node | None:
        """What reads ``node``'s floats behind a quantise, if anything does."""
        open_, seen = [node], set[str]()
        while open_:
            at = open_.pop(0)
            for user in self.graph.users(at.output):
                if at.op == "quantize":
                    return user
                if user.output not in seen:
                    seen.add(user.output)
                    open_.append(user)
        return None

    def _outputs(self) -> tuple[Border, ...]:
        """A memory becomes the caller's; one that is an input, or another output already, is copied at the end."""
        taken = {self.memory[name] for name in self.graph.inputs}
        borders = []
        for name in self.graph.outputs:
            if name not in self.ports:
                raise GraphError(f"output {name!r} is float32 as the input is: the network does not compute it")
            memory, port = self.memory[name], self.ports[name]
            if memory in taken:
                memory = self._copy(name, port)
            taken.add(memory)
            borders.append(Border(name=name, memory=memory, port=port))
        return tuple(borders)

    def _copy(self, name: str, port: Port) -> Memory:
        node = Node("reshape", (name,), name, {"shape": port.shape})
        step = f"s{len(self.steps):02d}_copy"
        memory = name, "output"
        site = Site(
            name=step, title=f"output {name!r}", node=node, graph=self.graph, xs=(port,), y=port,
            bound=Bound(range=(port.lo, port.hi)),
        )  # fmt: skip
        self.steps.append(
            Step(
                name=step,
                title=f"output {name!r}",
                inputs=(self.memory[name],),
                output=memory,
                ports=(port,),
                site=site,
            )
        )
        self.copies[memory] = port
        return memory


def title(node: Node) -> str:
    """What messages call ``node``."""
    return f"layer {node.source!r} ({node.op})" if node.source else f"node {node.output!r} ({node.op})"


def identifier(text: str) -> str:
    """``text`` as part of a C name of at most 40 characters."""
    return re.sub(r"\W+", "_", text, flags=re.ASCII)[-40:].strip("_") or "value"


def _layer(site: Site) -> Layer:
    node, graph = site.node, site.graph
    codes, levels = graph.const(node, "codes"), levels_of(node, graph)
    below, above = accumulator_range(levels, site.xs[0].lo, site.xs[0].hi)
    residual = site.xs[1] if len(site.xs) == 2 else None
    rule = rule4(site, len(codes), np.maximum(-below, above), residual)
    attrs, spatial = node.attrs, node.op == "conv"
    return Layer(
        name=site.name, title=site.title, kind=node.op, format=get_format(attrs["format"]), codes=codes, levels=levels,
        x=site.xs[0], y=site.y, residual=residual,
        stride=attrs["stride"] if spatial else (),
        padding=attrs["padding"] if spatial else (),
        dilation=attrs["dilation"] if spatial else (),
        groups=attrs["groups"] if spatial else 1,
        mult=rule.mult, offset=rule.offset, shift=rule.shift, res_shift=rule.res_shift, lo=rule.lo, hi=rule.hi,
        wide=rule.wide,
    )  # fmt: skip


__all__ = ["Border", "Memory", "Program", "Step", "build", "identifier", "title"]
