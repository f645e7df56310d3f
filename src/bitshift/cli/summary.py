"""What is in a graph, as plain values for `inspect` and the report: layers, operations, bytes, multiplications."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitshift.core.cost import count, energy_pj, multiplication_free
from bitshift.core.fixed import FixedPoint, is_power_of_two
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, Node
from bitshift.core.ops import Cost
from bitshift.core.packing import packed_size
from bitshift.core.roles import stored


@dataclass(frozen=True, kw_only=True)
class WeightLayer:
    """One node with weights: its format, packed bytes and how often each level occurs."""

    name: str
    op: str
    format: str
    shape: tuple[int, ...]
    packed_bytes: int
    levels: tuple[int, ...]
    counts: tuple[int, ...]
    """Weights at each of ``levels``; both empty for plain float weights."""
    shared: bool = False
    """Whether an earlier node has the same stored weights, so that these take no bytes of their own."""

    @property
    def weights(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class NodeOperations:
    """The operations of one node for one sample; ``output`` is shape and type, ``where`` names its multiplications."""

    name: str
    op: str
    output: str
    cost: Cost
    where: str


def node_name(node: Node) -> str:
    """The module path, or the value's name when the node comes from no module."""
    return node.source or node.output


def weight_layers(graph: Graph) -> list[WeightLayer]:
    """Every node that has weights, in execution order."""
    layers: list[WeightLayer] = []
    seen: set[str] = set()
    for node in graph.nodes:
        stored_as = node.consts.get("codes") or node.consts.get("weight") or ""
        shared = stored_as in seen
        seen.add(stored_as)
        if "codes" in node.consts:
            fmt = FORMATS[node.attrs["format"]]
            codes = graph.const(node, "codes")
            by_code = np.bincount(codes.reshape(-1), minlength=len(fmt.levels))
            pairs = sorted((level, int(by_code[c])) for c, level in enumerate(fmt.levels) if c not in fmt.reserved)
            layers.append(
                WeightLayer(
                    name=node_name(node), op=node.op, format=fmt.name, shape=tuple(codes.shape),
                    packed_bytes=packed_size(codes.shape, fmt.bits),
                    levels=tuple(p[0] for p in pairs), counts=tuple(p[1] for p in pairs), shared=shared,
                )
            )  # fmt: skip
        elif "weight" in node.consts:
            weight = graph.const(node, "weight")
            layers.append(
                WeightLayer(
                    name=node_name(node), op=node.op, format="float32", shape=tuple(weight.shape),
                    packed_bytes=weight.nbytes, levels=(), counts=(), shared=shared,
                )
            )  # fmt: skip
    return layers


def own_layers(graph: Graph) -> list[WeightLayer]:
    """:func:`weight_layers` with every stored array of weights once: what sums of bytes are taken over."""
    return [layer for layer in weight_layers(graph) if not layer.shared]


def sample_operations(graph: Graph) -> tuple[list[NodeOperations], Cost]:
    """What one sample costs, and the sum: making its picture, if that multiplies, then every node in order."""
    picture = picture_operations(graph)
    found = [picture] if picture else []
    for row in count(graph).rows:
        value = graph.values[row.node.output]
        shape = "x".join(map(str, value.shape)) or "1"
        found.append(
            NodeOperations(
                name=row.place, op=row.node.op, output=f"{shape} {value.type}", cost=row.cost,
                where=_where(graph, row.node, row.cost),
            )
        )  # fmt: skip
    return found, sum((o.cost for o in found), Cost())


def picture_operations(graph: Graph) -> NodeOperations | None:
    """What making the input of one picture multiplies, in front of the graph: ``(pixel - mean) * scale``.

    None where it multiplies nothing: no picture, or scales that are powers of two, which are shifts of the exponent.
    The ``quantize`` rule of the border behind it is such a shift, too.
    """
    pre = graph.meta.get("preprocess")
    if pre is None:
        return None
    odd = sum(float(np.frexp(abs(scale))[0]) != 0.5 for scale in pre["scale"])
    height, width = pre["size"]
    if not odd:
        return None
    where = (
        f"(pixel - mean) * scale, {odd} of {len(pre['scale'])} scales are no powers of two: train or convert with "
        "--normalise pixel (and --pretrained-normalise for weights of other pixels)"
    )
    pixels = height * width
    cost = Cost(float_multiplications=odd * pixels, float_adds=len(pre["scale"]) * pixels)
    return NodeOperations(name="picture", op="preprocess", output="float32", cost=cost, where=where)


def _where(graph: Graph, node: Node, cost: Cost) -> str:
    """What the multiplications of ``node`` are, and what would remove them; "" when there are none."""
    if not cost.multiplications + cost.float_multiplications + cost.float_functions:
        return ""
    reasons = []
    name = node.attrs.get("format")
    if name is not None and not FORMATS[name].multiplication_free:
        reasons.append(f"weights of {name}: integer products (give the layer a shift format)")
    if "weight" in node.consts:
        reasons.append("weights kept float")
    if "mult" in node.consts:
        mult = graph.const(node, "mult")
        odd = int((~is_power_of_two(mult)).sum())
        if odd:
            reasons.append(
                f"{odd} of {mult.size} output multipliers are no power of two (convert without --multiplier, and with "
                "power-of-two scales: --option scale=pot, of the method uniform step=pot)"
            )
    scalar = node.attrs.get("mult")
    if isinstance(scalar, int) and not is_power_of_two(np.array(scalar)):
        reasons.append(f"the mean's factor {scalar} is no power of two")
    if cost.float_multiplications + cost.float_functions and "weight" not in node.consts:
        reasons.append("float values (border, scale or float function)")
    return "; ".join(reasons) or "products of values"


def constant_bytes(graph: Graph) -> dict[str, int]:
    """Stored bytes of the constants by role: packed codes, offsets, multipliers, ..."""
    sizes: dict[str, int] = {}
    seen: set[str] = set()
    for node in graph.nodes:
        for role, name in node.consts.items():
            if name in seen:
                continue
            seen.add(name)
            array = graph.constants[name]
            if role == "codes":
                size = packed_size(array.shape, FORMATS[node.attrs["format"]].bits)
            else:
                size = stored(role, array).nbytes
            sizes[role] = sizes.get(role, 0) + size
    return sizes


def multiplications(cost: Cost) -> int:
    """Multiplications of integers and of floats."""
    return cost.multiplications + cost.float_multiplications


def multiplication_words(graph: Graph) -> str:
    """``multiplication-free``, if nothing that a sample takes multiplies, else how many multiplications it takes.

    A graph whose only multiplications are inside functions of floats (sigmoid) is given by the count of these.
    """
    total = sample_operations(graph)[1]
    if multiplication_free(total):
        return "multiplication-free"
    if not multiplications(total):
        return f"{total.float_functions:,} functions of floats a sample"
    return f"{multiplications(total):,} multiplications a sample"


def energy_by_kind(cost: Cost) -> dict[str, float]:
    """``core.cost.energy_pj`` of one sample, told apart by what the operation is (pJ)."""
    kinds = {
        "multiplications": ("multiplications", "narrow_multiplications", "float_multiplications"),
        "additions": ("adds", "float_adds"),
        "shifts": ("shifts", "narrow_shifts", "float_shifts"),
        "comparisons, tables, functions": ("comparisons", "lookups", "float_functions"),
    }
    return {kind: energy_pj(Cost(**{name: getattr(cost, name) for name in names})) for kind, names in kinds.items()}


def value_kinds(graph: Graph) -> dict[str, int]:
    """How many values of the graph are float, and how many are integers of each width."""
    kinds: dict[str, int] = {}
    for value in graph.values.values():
        kind = f"{value.type.bits}-bit integer" if isinstance(value.type, FixedPoint) else "float32"
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds
