"""What a graph costs for one sample: operations by kind, weights, activations, energy."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitshift.core.constants import energies, source
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, GraphError, Node
from bitshift.core.ops import Cost, get_op
from bitshift.core.ops.weighted import memory

ENERGY_SOURCE = source("ShiftAddLLM")
ENERGY_PJ: dict[str, float] = {name: energy.pj for name, energy in energies().items()}
"""Energy of one operation in pJ. All that this module uses stand in :data:`ENERGY_SOURCE`."""

MAX_OPERATIONS = 1 << 50
MAX_ACTIVATION_BYTES = 2 << 30


@dataclass(frozen=True)
class NodeCost:
    """The row of one node."""

    node: Node
    cost: Cost

    @property
    def place(self) -> str:
        """Module of the node, or its output."""
        return self.node.source or self.node.output


@dataclass(frozen=True)
class CostTable:
    """One row a node, in execution order, and the peak of live activations."""

    rows: tuple[NodeCost, ...]
    peak_activation_bytes: int

    @property
    def total(self) -> Cost:
        """The sum over all nodes; constants that nodes share are counted once."""
        return sum((row.cost for row in self.rows), Cost())

    @property
    def multiplication_free(self) -> bool:
        """Whether nothing multiplies, see :func:`multiplication_free`."""
        return multiplication_free(self.total)

    def multiplications(self) -> tuple[NodeCost, ...]:
        """The nodes that still multiply."""
        return tuple(r for r in self.rows if not multiplication_free(r.cost))

    @property
    def energy_pj(self) -> float:
        """Energy of all operations of one sample, see :func:`energy_pj`."""
        return energy_pj(self.total)


def multiplication_free(cost: Cost) -> bool:
    """Whether ``cost`` has no multiplication of integers or floats, nor a function of floats, which multiplies too."""
    return not (cost.multiplications or cost.float_multiplications or cost.float_functions)


def count(graph: Graph) -> CostTable:
    """Cost of every node of a checked ``graph`` for one sample."""
    seen: set[str] = set()
    rows = []
    for node in graph.nodes:
        cost = get_op(node.op).cost(node, graph)
        if again := {role: name for role, name in node.consts.items() if name in seen}:
            held = memory(replace(node, consts=again), graph)
            cost = replace(
                cost,
                weight_bits=cost.weight_bits - held.weight_bits,
                constant_bytes=cost.constant_bytes - held.constant_bytes,
            )
        seen.update(node.consts.values())
        rows.append(NodeCost(node, cost))
    return CostTable(tuple(rows), peak_activation_bytes(graph))


def energy_pj(cost: Cost) -> float:
    """Estimate in pJ with the constants of :data:`ENERGY_PJ`: arithmetic only, no memory traffic.

    Sums are int32 additions, comparisons cost an addition, a float times a power of two costs an int8 addition to the
    exponent, a non-linear function of a float is taken as one fp32 multiplication and one addition (a lower bound).
    """
    e = ENERGY_PJ
    return (
        (cost.shifts - cost.narrow_shifts) * e["shift_int32"]
        + cost.narrow_shifts * e["shift_int16"]
        + (cost.adds + cost.comparisons) * e["add_int32"]
        + (cost.multiplications - cost.narrow_multiplications) * e["mult_int32"]
        + cost.narrow_multiplications * e["mult_int8"]
        + cost.lookups * e["lookup_int8"]
        + cost.float_shifts * e["add_int8"]
        + cost.float_adds * e["add_fp32"]
        + cost.float_multiplications * e["mult_fp32"]
        + cost.float_functions * (e["mult_fp32"] + e["add_fp32"])
    )


def float_twin(table: CostTable) -> Cost:
    """The same sums of products in float32: what a network of float weights of the same shape would do.

    A product is one float multiplication and one float addition, however many terms its weight has here; a mean
    multiplies once an output. The shifts, multipliers and limits of requantising fall away (also those of a relu that
    is folded into it); other comparisons stay, and all other additions: of biases, with which a half step for rounding
    is one offset.
    """
    return sum((_float_row(row) for row in table.rows), Cost())


def _float_row(row: NodeCost) -> Cost:
    node, cost = row.node, row.cost
    form = FORMATS.get(node.attrs.get("format", ""))
    further = cost.products * max(0, form.terms - 1) if form else 0
    means = cost.requantisations if node.op == "avg_pool" else 0  # in integers a shift, if the window's area allows it
    return Cost(
        float_multiplications=cost.products or means + cost.float_multiplications,
        float_adds=cost.adds + cost.float_adds - further,
        float_functions=cost.lookups + cost.float_functions,
        comparisons=cost.comparisons - 2 * cost.requantisations,  # two limits a value
    )


def peak_activation_bytes(graph: Graph) -> int:
    """Largest sum of bytes a sample of the values alive at one time, without any reuse in place."""
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    last.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
    ends: dict[int, list[str]] = {}
    for name, i in last.items():
        ends.setdefault(i, []).append(name)
    live = sum(graph.values[name].size_bytes for name in graph.inputs)
    peak = live
    for i, node in enumerate(graph.nodes):
        live += graph.values[node.output].size_bytes
        peak = max(peak, live)
        live -= sum(graph.values[name].size_bytes for name in ends.get(i, ()))
        if node.output not in last:
            live -= graph.values[node.output].size_bytes
    return peak


def check_limits(graph: Graph, *, max_activation_bytes: int = MAX_ACTIVATION_BYTES) -> None:
    """Refuse a graph whose activations or operations exceed the limits of docs/model-file.md, section 6.

    Raises:
        GraphError: says which limit, the figure found, and how to raise it.
    """
    peak = peak_activation_bytes(graph)
    if peak > max_activation_bytes:
        raise GraphError(
            f"the activations of one sample need {peak:_} bytes; "
            f"allowed: {max_activation_bytes:_} (max_activation_bytes raises it)"
        )
    operations = sum(get_op(node.op).cost(node, graph).operations for node in graph.nodes)
    if operations > MAX_OPERATIONS:
        raise GraphError(f"one sample needs {operations:_} operations; allowed: 2**50")
