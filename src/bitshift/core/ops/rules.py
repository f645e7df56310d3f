"""The checks that ops share: attributes, constants, shapes, types; each refusal says what was found and allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from bitshift.core.arith import Clamp, alignment
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.formats import FORMATS, ShiftFormat, get_format
from bitshift.core.graph import Graph, GraphError, Node, Value
from bitshift.core.ops.base import is_float, result, source
from bitshift.core.roles import DEFAULTS, MAX_MULT, MAX_SHIFT, ROLE_DTYPES
from bitshift.core.windows import extent, output_length

MAX_SPATIAL = 3
"""Most spatial axes of a window."""
MAX_STEP = 65535
"""Largest stride, dilation and padding of a window: keeps every index an engine computes far from 64 bits."""


def fail(node: Node, what: str, found: Any, allowed: Any) -> NoReturn:
    """Raise the GraphError of one broken rule."""
    text = str(found)
    raise GraphError(f"{node}: {what} is {text if len(text) <= 120 else text[:117] + '...'}; allowed: {allowed}")


def check_parts(
    node: Node,
    *,
    inputs: tuple[int, int],
    attrs: Iterable[str] = (),
    optional: Iterable[str] = (),
    consts: Iterable[str] = (),
) -> None:
    """Refuse a wrong number of inputs, and missing or unknown attributes and unknown constants."""
    if not inputs[0] <= len(node.inputs) <= inputs[1]:
        wanted = str(inputs[0]) if inputs[0] == inputs[1] else f"{inputs[0]} to {inputs[1]}"
        fail(node, "the number of inputs", len(node.inputs), wanted)
    attrs, allowed, consts = set(attrs), {*attrs, *optional}, set(consts)
    if not attrs <= set(node.attrs) <= allowed:
        fail(node, "the set of attributes", sorted(node.attrs), _names(attrs, allowed - attrs))
    if not set(node.consts) <= consts:
        fail(node, "the set of constants", sorted(node.consts), _names(set(), consts))


def _names(required: set[str], optional: set[str]) -> str:
    parts = [", ".join(sorted(required))] if required else []
    return " and optionally ".join([*parts, ", ".join(sorted(optional))] if optional else parts) or "none"


def check_kinds(node: Node, graph: Graph) -> None:
    """Refuse a mixture of fixed-point and f32 values at one node."""
    first = source(node, graph)
    for value in (*(graph.values[name] for name in node.inputs), result(node, graph)):
        if isinstance(value.type, Float32) != isinstance(first.type, Float32):
            fail(
                node,
                f"the type of {value.name!r}",
                value.type,
                f"fixed point or f32 as {first.name!r} ({first.type}); use quantize or dequantize",
            )


def check_fixed(node: Node, value: Value, max_bits: int = 32) -> FixedPoint:
    """The fixed-point type of ``value``, refused if it is f32 or wider than ``max_bits``."""
    if not isinstance(value.type, FixedPoint) or value.type.bits > max_bits:
        fail(node, f"the type of {value.name!r}", value.type, f"fixed point of at most {max_bits} bits")
    return value.type


def check_same_type(node: Node, graph: Graph) -> None:
    """The output has the type of the first input."""
    if result(node, graph).type != source(node, graph).type:
        fail(node, "the output's type", result(node, graph).type, f"{source(node, graph).type}, the input's")


def check_shape(node: Node, graph: Graph, shape: Sequence[int]) -> None:
    """The output has ``shape``."""
    if result(node, graph).shape != tuple(shape):
        fail(node, "the output's shape", list(result(node, graph).shape), list(shape))


def integer(node: Node, name: str, lo: int, hi: int) -> int:
    """The attribute ``name``, an integer from ``lo`` to ``hi``."""
    found = node.attrs[name]
    if type(found) is not int or not lo <= found <= hi:
        fail(node, f"attribute {name!r}", found, f"an integer from {lo} to {hi}")
    return found


def integers(node: Node, name: str, count: int, lo: int, hi: int) -> tuple[int, ...]:
    """The attribute ``name``, ``count`` integers from ``lo`` to ``hi``."""
    found = node.attrs[name]
    if not isinstance(found, tuple) or len(found) != count or not all(type(x) is int and lo <= x <= hi for x in found):
        fail(node, f"attribute {name!r}", found, f"{count} integers from {lo} to {hi}")
    return found


def number(node: Node, name: str, found: Any) -> float:
    """``found``, a finite number of an f32 node that float32 can hold."""
    if type(found) not in (int, float) or not math.isfinite(found) or abs(found) > float(np.finfo(np.float32).max):
        fail(node, f"attribute {name!r}", found, "a finite number in the range of float32")
    return float(found)


def padding_pairs(node: Node, count: int, hi: int = MAX_STEP) -> tuple[tuple[int, int], ...]:
    """The attribute ``padding``, ``count`` pairs (before, after)."""
    found = node.attrs["padding"]
    good = isinstance(found, tuple) and len(found) == count
    if not good or not all(
        isinstance(p, tuple) and len(p) == 2 and all(type(x) is int and 0 <= x <= hi for x in p) for p in found
    ):
        fail(node, "attribute 'padding'", found, f"{count} pairs (before, after), each 0 to {hi}")
    return found


def clamp_pair(node: Node, out: FixedPoint) -> Clamp:
    """The optional attribute ``clamp``: (lo, hi) in units of ``out`` and within its range."""
    if "clamp" not in node.attrs:
        return None
    lo, hi = integers(node, "clamp", 2, out.lo, out.hi)
    if lo > hi:
        fail(node, "attribute 'clamp'", (lo, hi), "lo <= hi")
    return lo, hi


def clamp_of(node: Node) -> Clamp:
    """``clamp`` of a checked node."""
    return node.attrs.get("clamp")


def weights_format(node: Node, graph: Graph, *, real: bool | None = None) -> ShiftFormat:
    """The format that a node with weights names; wide ones only for f32: ``real``, else as its first input."""
    name = node.attrs["format"]
    if not isinstance(name, str) or len(name) > 40:
        fail(node, "attribute 'format'", name, ", ".join(FORMATS))
    try:
        found = get_format(name)
    except ValueError as error:
        raise GraphError(f"{node}: {error}") from None
    if found.float_only and not (is_float(node, graph) if real is None else real):
        narrow = ", ".join(f.name for f in FORMATS.values() if not f.float_only)
        fail(node, "the format of an integer node", found.name, f"formats with levels up to 2**15: {narrow}")
    return found


def check_weight(node: Node, graph: Graph, rank: int) -> np.ndarray:
    """The constant ``weight`` of a layer kept float: float32, ``rank`` axes, none empty, finite."""
    weight = graph.const(node, "weight")
    finite = graph.once(("finite", node.consts["weight"]), lambda: bool(np.isfinite(weight).all()))
    if weight.dtype != np.float32 or weight.ndim != rank or not weight.size or not finite:
        found = f"{weight.dtype} of shape {list(weight.shape)}"
        fail(node, "weight", found, f"finite float32 with {rank} axes, none of them empty")
    return weight


def check_codes(node: Node, graph: Graph, form: ShiftFormat, rank: int) -> np.ndarray:
    """The constant ``codes``: uint8, ``rank`` axes, none empty, every code in the format and not reserved."""
    codes = graph.const(node, "codes")
    if codes.dtype != np.uint8 or codes.ndim != rank or not codes.size:
        fail(
            node, "codes", f"{codes.dtype} of shape {list(codes.shape)}", f"uint8 with {rank} axes, none of them empty"
        )
    try:
        graph.once(("codes", node.consts["codes"], form.name), lambda: form.check(codes))
    except ValueError as error:
        raise GraphError(f"{node}: {error}") from None
    return codes


_LIMITS = {"mult": (1, MAX_MULT), "shift": (0, MAX_SHIFT), "res_shift": (0, MAX_SHIFT)}


def check_vectors(node: Node, graph: Graph, lengths: tuple[int, ...]) -> None:
    """Every constant with a default: one axis, one of ``lengths``, right dtype, values in the range of its role."""
    for role, dtype in ROLE_DTYPES.items():
        if role not in node.consts or role not in DEFAULTS:
            continue
        array = graph.const(node, role)
        if array.dtype != dtype or array.ndim != 1 or array.size not in lengths:
            wanted = " or ".join(f"[{n}]" for n in dict.fromkeys(lengths))
            fail(node, role, f"{array.dtype} of shape {list(array.shape)}", f"{dtype} of shape {wanted}")
        if dtype == np.float32:
            if not np.isfinite(array).all():
                fail(node, role, "not finite", "finite numbers")
        elif role in _LIMITS:
            lo, hi = _LIMITS[role]
            if not lo <= int(array.min()) <= int(array.max()) <= hi:
                fail(node, role, f"{array.min()} to {array.max()}", f"{lo} to {hi}")


def check_alignment(node: Node, graph: Graph) -> None:
    """The shifts that bring all inputs to the output's grid are at most 62."""
    fracs = tuple(check_fixed(node, graph.values[name]).frac for name in node.inputs)
    ups, down = alignment(fracs, check_fixed(node, result(node, graph)).frac)
    if max(*ups, down) > MAX_SHIFT:
        fail(
            node,
            "a shift between the grids",
            max(*ups, down),
            f"at most {MAX_SHIFT}; bring the fracs of inputs and output closer",
        )


def check_spatial(node: Node, x: Value) -> int:
    """How many spatial axes ``x`` (channels, *spatial) has."""
    axes = len(x.shape) - 1
    if not 1 <= axes <= MAX_SPATIAL:
        fail(node, "the input's shape", list(x.shape), f"(channels, *spatial) with 1 to {MAX_SPATIAL} spatial axes")
    return axes


def check_groups(node: Node, x: Value, weights: Sequence[int]) -> int:
    """The attribute ``groups``, which divides the channels of ``x`` and the O of ``weights`` (O, C/groups, ...)."""
    groups = integer(node, "groups", 1, x.shape[0])
    if x.shape[0] % groups or weights[0] % groups or weights[1] != x.shape[0] // groups:
        fail(
            node,
            f"the shape of the weights for {x.shape[0]} input channels in {groups} groups",
            list(weights),
            f"(O, {x.shape[0]} / groups, *kernel) with O and {x.shape[0]} multiples of groups",
        )
    return groups


def window_shape(node: Node, graph: Graph, kernel: Sequence[int], *, dilated: bool = True) -> tuple[int, ...]:
    """Output lengths of the spatial axes of x (C, *spatial) for ``kernel``; checks stride, padding and dilation."""
    x = source(node, graph)
    count = len(kernel)
    if not 1 <= count <= MAX_SPATIAL or len(x.shape) != count + 1:
        spatial = count if 1 <= count <= MAX_SPATIAL else f"1 to {MAX_SPATIAL}"
        fail(node, "the input's shape", list(x.shape), f"(channels, *spatial) with {spatial} spatial axes")
    stride = integers(node, "stride", count, 1, MAX_STEP)
    dilation = integers(node, "dilation", count, 1, MAX_STEP) if dilated else (1,) * count
    padding = padding_pairs(node, count)
    lengths = []
    for axis, (size, k, s, p, d) in enumerate(zip(x.shape[1:], kernel, stride, padding, dilation, strict=True)):
        length = output_length(size, k, s, p, d)
        if length < 1:
            fail(
                node,
                f"the kernel's extent on spatial axis {axis}",
                extent(k, d),
                f"at most {size + sum(p)}, the padded input",
            )
        lengths.append(length)
    return tuple(lengths)
