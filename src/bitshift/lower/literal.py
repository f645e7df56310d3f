"""From the exported calls to the literal graph: one node or so per call, nothing merged, every rounding visible."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitshift.core.graph import Graph
from bitshift.lower.capture import Captured, capture, describe
from bitshift.lower.context import Call, Context, Deferred, Item
from bitshift.lower.errors import LoweringError
from bitshift.lower.rules import RULES
from bitshift.lower.rules.registry import unsupported
from bitshift.lower.tables import POINTWISE

_SILENT = (
    "aten._assert",
    "aten.sym_constrain",
    "aten._local_scalar",
    "aten.sym_size",
    "aten.sym_numel",
    "aten.sym_stride",
)

_REPEATS = ("aten.expand.default", "aten.repeat.default")
_REPEATED = (
    "a constant that is repeated for every sample, as a class token, is not in the graph. Leave the repetition out "
    "where what reads it broadcasts, as a sum does; else keep this part in torch, and convert and export the rest as a "
    "module of its own"
)
_MADE = (
    "make it in the constructor with register_buffer, with 1 in place of the batch, where what reads it broadcasts, as "
    "a sum does; a constant that starts a state or is joined by cat is not in the graph: keep that part in torch"
)


def literal_graph(model: nn.Module, inputs: Sequence[Tensor]) -> Graph:
    """The literal graph of a frozen ``model``; values between roundings have the 64-bit type ``Wide``.

    Raises:
        LoweringError: an op without a rule, or one whose arguments the graph cannot express; names op, module and line.
    """
    return write(capture(model, inputs))


def write(captured: Captured) -> Graph:
    """The literal graph of an exported model."""
    context = Context(captured)
    for node in captured.calls:
        context.items[node] = _item(context, node)
    return context.graph()


def _item(context: Context, node: fx.Node) -> Item:
    if node.target is operator.getitem:
        whole = context.resolve(node.args[0])
        at = node.args[1]
        if isinstance(whole, list):
            whole = tuple(whole)
        return whole[at] if isinstance(whole, tuple) and isinstance(at, int) else whole
    if not _is_tensor(node.meta.get("val")) or str(node.target).startswith(_SILENT):
        return None  # arithmetic on sizes; shapes are taken from torch's own result
    arguments = [context.items.get(n) for n in node.all_input_nodes]
    if not any(isinstance(a, (str, Deferred, tuple)) for a in arguments):
        return _constant(context, node, sized=None in arguments)
    if not isinstance(node.target, torch._ops.OpOverload):
        raise LoweringError(f"{node.name}: calls {node.target!r}, which is no torch op")
    late = next((a for a in arguments if isinstance(a, Deferred)), None)
    if late is not None and str(node.target) in POINTWISE:
        return late  # all of the expression is in a table, or none of it
    call = Call(node, context)
    rule = RULES.get(call.op)
    if rule is None:
        raise call.error(unsupported(call))
    result = rule(context, call)
    _check_shapes(context, call, result)
    return result


def _check_shapes(context: Context, call: Call, result: Item) -> None:
    """Refuse a ``result`` of another shape than torch's: of a part of the batch, or of operands torch repeats."""
    found = call.node.meta["val"]
    parts = zip(result, found, strict=True) if isinstance(result, tuple) else ((result, found),)
    for name, value in parts:
        if isinstance(name, str) and context.shape(name) != (wanted := context.sample_shape(call.node, value)):
            raise call.error(
                f"gives shape {['N', *wanted]}, but the graph's op keeps {['N', *context.shape(name)]}; bring the "
                "operands to one shape first: the graph has no broadcast"
            )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and any(isinstance(v, Tensor) for v in value))


def _constant(context: Context, node: fx.Node, sized: bool) -> Item:
    """A call on constants alone is computed now; ``sized`` says that it depends on the size of the batch too."""
    if _is_random(context, node):
        raise LoweringError(
            f"{describe(node)}: draws random numbers, other ones in every call; a graph has fixed constants: draw them "
            "in the constructor and keep them with register_buffer, or leave them out in eval"
        )
    try:
        if sized:
            raise TypeError("one of its arguments is taken from the shape of an input")
        with torch.no_grad():
            result = node.target(*context.resolve(node.args), **{k: context.resolve(v) for k, v in node.kwargs.items()})  # type: ignore[operator]
    except (TypeError, RuntimeError) as error:
        raise LoweringError(
            f"{describe(node)}: makes a tensor whose size or value depends on the batch ({error}); "
            + (_REPEATED if str(node.target) in _REPEATS else _MADE)
        ) from error
    return tuple(result) if isinstance(result, list) else result


def _is_random(context: Context, node: fx.Node) -> bool:
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = Call(node, context).raw
    if "dropout_p" in given:  # of attention
        return given["dropout_p"] != 0
    return bool(given.get("train", given.get("training", True)))  # dropout and rrelu in eval draw nothing
