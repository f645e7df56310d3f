"""What one sample of an integer network costs in gates and energy, beside the same network with int8 and int4 weights.

The estimate is of arithmetic and memory of an accelerator with 8-bit activations and 24-bit accumulators:

- a multiply-accumulate of int8 weights costs the published 8-bit multiplication and 32-bit addition; one of another
  format that, times the ratio of the powers of the two synthesised units. The accumulator is most of a unit, so this
  ratio is far from that of the bare products;
- all other operations cost the published energies (:func:`bitshift.core.cost.energy_pj`);
- each bit of weights, constants and activations that is read or written costs a small memory's. How often a weight is
  read depends on the design, so there are two bounds: everything once, and everything anew for every product.

Every column has the requantiser, the activations and the other operations of the network itself: only weights differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bitshift.core.constants import Operator, operators
from bitshift.core.cost import ENERGY_PJ, NodeCost, count, energy_pj
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, GraphError
from bitshift.core.ops import Cost
from bitshift.core.ops.base import result, source

BORDER = ("quantize", "dequantize")
SHIFT_REQUANTISER, MULTIPLYING_REQUANTISER = "requantise: shift", "requantise: 16-bit multiplier"
USUAL_REQUANTISER = "requantise: 31-bit multiplier"
"""What engines of int8 networks use, because their scales are no powers of two."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """The network with one choice of weights; energies in pJ a sample.

    ``products`` are 8-bit multiply-accumulates by format of the weight, ``weight_bits`` the bits of all weights that a
    sample reads. ``gates`` is one multiply-accumulate unit of each format in ``products``, ``delay_ns`` the slowest.
    """

    name: str
    products: Mapping[str, int]
    weight_bits: int
    gates: int
    delay_ns: float
    product_pj: float
    other_pj: float
    weights_once_pj: float
    activations_once_pj: float
    weights_anew_pj: float
    activations_anew_pj: float

    @property
    def once_pj(self) -> float:
        """All energy when each weight and activation is read once: the most reuse there can be."""
        return self.product_pj + self.other_pj + self.weights_once_pj + self.activations_once_pj

    @property
    def anew_pj(self) -> float:
        """All energy when every product reads its weight and its activation: no reuse."""
        return self.product_pj + self.other_pj + self.weights_anew_pj + self.activations_anew_pj


@dataclass(frozen=True, kw_only=True)
class HardwareEstimate:
    """Counts of one sample (``total``), the columns (the network, int8, int4), and the unit that requantises."""

    total: Cost
    columns: tuple[Column, ...]
    requantiser: str
    usual_requantiser_pj: float
    """What the multiplications of :data:`USUAL_REQUANTISER` would add to a column."""


def product_pj(format: str) -> float:
    """Energy of one multiply-accumulate of an 8-bit activation and a weight of ``format``."""
    return (ENERGY_PJ["mult_int8"] + ENERGY_PJ["add_int32"]) * unit(format).power / unit("int8").power


def unit(format: str) -> Operator:
    """The synthesised multiply-accumulate unit of a format."""
    return operators()[f"multiply-accumulate int8 x {format}"]


def estimate(graph: Graph) -> HardwareEstimate:
    """The estimate of a checked ``graph``.

    Raises:
        GraphError: a node computes in float32; names the node and the next step.
    """
    layers = []
    for row in count(graph).rows:
        _refuse_float(row, graph)
        if row.node.op not in BORDER:
            layers.append(_layer(row, graph))
    total = sum((layer.cost for layer in layers), Cost())
    multiplies = any(layer.other.multiplications for layer in layers)
    to_int4 = {name: "int4" for name, f in FORMATS.items() if f.multiplication_free or f.bits < 4}
    columns = (
        _column("this network", layers, {}),
        _column("int8 weights", layers, dict.fromkeys(FORMATS, "int8")),
        _column("int4 weights", layers, to_int4),
    )
    return HardwareEstimate(
        total=total,
        columns=columns,
        requantiser=MULTIPLYING_REQUANTISER if multiplies else SHIFT_REQUANTISER,
        usual_requantiser_pj=total.requantisations * ENERGY_PJ["mult_int32"],
    )


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One node: what it counts, what of it are products with ``format``, and its traffic."""

    cost: Cost
    other: Cost
    format: str
    products: int
    weights: int
    constant_bits: int
    activation_bits: int
    anew_bits: int


def _layer(row: NodeCost, graph: Graph) -> _Layer:
    node, cost = row.node, row.cost
    form = FORMATS.get(node.attrs.get("format", ""))
    inputs = [8 * graph.values[name].size_bytes for name in node.inputs]
    traffic = sum(inputs) + 8 * result(node, graph).size_bytes if node.op != "reshape" else 0
    products, other, weights, anew = 0, cost, 0, traffic
    if form is not None:
        weights = result(node, graph).size if node.op == "embedding" else cost.weight_bits // form.bits
        n, terms = cost.products, form.terms
        other = replace(
            cost, shifts=cost.shifts - n * terms, narrow_shifts=0, adds=cost.adds - n * max(1, terms),
            multiplications=cost.multiplications - (0 if terms else n), narrow_multiplications=0,
        )  # fmt: skip
        x = source(node, graph)
        bits = x.type.bits if isinstance(x.type, FixedPoint) else 8
        products = n * -(-bits // 8)
        if n:
            anew = traffic - inputs[0] + n * 8 * x.type.dtype.itemsize
    return _Layer(
        cost=replace(cost, weight_bits=weights * form.bits if form else 0),
        other=other,
        format=form.name if form else "",
        products=products,
        weights=weights,
        constant_bits=8 * cost.constant_bytes,
        activation_bits=traffic,
        anew_bits=anew,
    )


def _column(name: str, layers: list[_Layer], renamed: Mapping[str, str]) -> Column:
    products: dict[str, int] = {}
    weight_bits = read_anew = 0
    for layer in (x for x in layers if x.format):
        format = renamed.get(layer.format, layer.format)
        bits = FORMATS[format].bits
        weight_bits += layer.weights * bits
        read_anew += (layer.products or layer.weights) * bits
        if layer.products:
            products[format] = products.get(format, 0) + layer.products
    constants = sum(layer.constant_bits for layer in layers)
    bit = ENERGY_PJ["sram_bit"]
    return Column(
        name=name,
        products=products,
        weight_bits=weight_bits,
        gates=sum(unit(format).gates for format in products),
        delay_ns=max((unit(format).delay_ns for format in products), default=0.0),
        product_pj=sum(n * product_pj(format) for format, n in products.items()),
        other_pj=sum(energy_pj(layer.other) for layer in layers),
        weights_once_pj=(weight_bits + constants) * bit,
        activations_once_pj=sum(layer.activation_bits for layer in layers) * bit,
        weights_anew_pj=(read_anew + constants) * bit,
        activations_anew_pj=sum(layer.anew_bits for layer in layers) * bit,
    )


def _refuse_float(row: NodeCost, graph: Graph) -> None:
    node = row.node
    values = [graph.values[name] for name in (*node.inputs, node.output)]
    if node.op not in BORDER and any(isinstance(value.type, Float32) for value in values):
        raise GraphError(
            f"{row.place!r} [{node.op}] computes in float32; the hardware estimate is of networks whose values are "
            "integers: train or convert with --activations 8 and export anew (inspect without --hardware counts its "
            "operations)"
        )
